//! The differential test, and the test of the differential test.

use std::sync::Mutex;

use anyhow::{Result, bail};
use conclave_tests::{
    differential::{Config, FLAGS, Mutation, run},
    process::{Kind, Options, Server},
};

/// Each test starts two servers and keeps them busy: one after the other gives clearer failures than all at once.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn start(kind: Kind) -> Result<Server> {
    Server::start(kind, &Options { flags: FLAGS.map(String::from).into(), ..Options::default() })
}

/// `CONCLAVE_SEED` chooses another script.
fn seed() -> u64 {
    std::env::var("CONCLAVE_SEED").map_or(1, |seed| seed.parse().expect("CONCLAVE_SEED is a number"))
}

/// The promise: what etcd answers, Conclave answers. 100,000 operations of a fresh script are `make verify`.
#[tokio::test]
async fn conclave_equals_etcd() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock();
    let (a, b) = (start(Kind::Etcd)?, start(Kind::Conclave)?);
    run(&Config { urls: [a.url(), b.url()], seed: seed(), ops: 10_000, mutation: None }).await?;
    Ok(())
}

/// The oracle agrees with itself: what the harness calls a difference is one.
#[tokio::test]
#[ignore = "long: the oracle against itself, to judge the test"]
async fn etcd_equals_etcd() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock();
    let (a, b) = (start(Kind::Etcd)?, start(Kind::Etcd)?);
    run(&Config { urls: [a.url(), b.url()], seed: seed(), ops: 10_000, mutation: None }).await?;
    Ok(())
}

/// A harness earns trust by catching what was put in on purpose.
#[tokio::test]
async fn every_planted_mutation_is_found() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock();
    let (a, b) = (start(Kind::Etcd)?, start(Kind::Etcd)?);
    for (n, mutation) in (0..).zip(Mutation::ALL) {
        // Mutations change replies, not servers, so one pair serves them all.
        let config = Config { urls: [a.url(), b.url()], seed: seed() + n, ops: 10_000, mutation: Some(mutation) };
        match run(&config).await {
            Err(found) if format!("{found:#}").contains(" differ") => {}
            Err(other) => return Err(other.context(format!("{mutation:?} ended in another way"))),
            Ok(_) => bail!("{mutation:?} was not found"),
        }
    }
    Ok(())
}
