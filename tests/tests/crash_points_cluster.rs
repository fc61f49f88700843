//! One of three members, killed at the n-th call that changes one of its files, while its peers and their clients go on.
//!
//! It runs under `killat` (tests/peers) from its first start on: early points are in the making of the folder and in the
//! first meeting of the members, later ones in the log and the store. It starts again on the same folder, whatever was
//! left there. Then nothing that was acknowledged may be missing anywhere, and all members hold the same.
//!
//! *Not here*: a member alone (`crash_points`), and the loss of what was not synced, which is the simulator's.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use conclave_tests::{
    client::PATIENCE,
    cluster::{Cluster, Layout},
    process::{Kind, peers},
    writers::Writers,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Enough to change files in all the ways that a life without a restart does.
const WRITES: usize = 300;
const WRITERS: usize = 8;
/// Points of a run of `make test`; `CONCLAVE_CRASH_POINTS` asks for more, and `all` for every one.
const SAMPLE: usize = 4;

/// Runs the member to its end at call `n` (0: it is asked to end after the writes), and again. The calls that were seen.
async fn crash_at(n: usize) -> Result<usize> {
    let folder = tempfile::tempdir()?;
    let places = Vec::new();
    let kept = Some(folder.path().to_owned());
    let layout = Layout { kind: Kind::Conclave, size: 3, seed: n as u64, flags: Vec::new(), folder: kept, places };
    let mut cluster = Cluster::lay_out(&layout)?;
    let (victim, count) = (n % 3, folder.path().join("count"));
    let data = cluster.members[victim].data_dir.display().to_string();
    let killat = peers()?.join("killat").display().to_string();
    let under = [&killat, "-n", &n.to_string(), "-under", &data, "-count", &count.display().to_string(), "--"];
    cluster.members[victim].under = under.map(str::to_owned).into();
    (0..3).try_for_each(|n| cluster.spawn(n))?;

    let writers = Writers::start(cluster.urls(), WRITERS, "w");
    if n == 0 {
        writers.more(WRITES).await?;
        cluster.members[victim].server.as_mut().context("it runs")?.stop()?;
    } else {
        // The writers do not rest before it is dead.
        ends(&mut cluster, victim).await?;
    }
    cluster.members[victim].server = None;
    let seen = fs::read_to_string(&count).context("the count of calls")?.trim().parse()?;
    cluster.members[victim].under.clear();
    cluster.start_members(&[victim]).context("the start after the crash")?;
    writers.more(WRITES / 3).await?;
    cluster.caught_up().await?;
    let acknowledged = writers.stop()?;
    cluster.agree().await?;
    for url in cluster.urls() {
        acknowledged.check(&url, "w/").await?;
    }
    Ok(seen)
}

async fn ends(cluster: &mut Cluster, n: usize) -> Result<()> {
    let server = cluster.members[n].server.as_mut().context("it was started")?;
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let end = async {
        while server.ended()?.is_none() {
            looks.tick().await;
        }
        Ok(())
    };
    // A member under killat is several times slower.
    tokio::time::timeout(4 * PATIENCE, end).await.context("it does not get to its end")?
}

/// A sample that is another one each day, printed with its seed.
#[tokio::test]
async fn one_of_three_killed_at_a_call_that_changes_a_file() -> Result<()> {
    let total = crash_at(0).await.context("without a crash")?;
    ensure!(total >= 100, "the writes make only {total} calls that change a file");
    let sample = match std::env::var("CONCLAVE_CRASH_POINTS").ok().as_deref() {
        Some("all") => total,
        Some(number) => number.parse()?,
        None => SAMPLE,
    };
    let day = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() / 86_400;
    let seed = std::env::var("CONCLAVE_SEED").map_or(Ok(day), |seed| seed.parse())?;
    println!("{sample} crash points of {total}, seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for s in 0..sample {
        // One from each stretch, so that a small sample sees all of it.
        let n = rng.random_range(s * total / sample + 1..=(s + 1) * total / sample);
        crash_at(n).await.with_context(|| format!("killed at call {n} of about {total}"))?;
    }
    Ok(())
}
