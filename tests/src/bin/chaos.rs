//! Real members under kills, pauses and partitions; what their clients saw is judged.
//!
//! As root, with `ip` and `iptables` (`scripts/setup.sh chaos`), members get network namespaces of their own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use conclave_tests::{
    chaos::{
        Plan, Report,
        network::{MOST_MEMBERS, Namespaces, Network, possible},
        round,
    },
    process::{Kind, skip},
};

#[derive(Debug, Parser)]
#[command(about = "Kills, pauses and cuts off members of real clusters, and judges what their clients saw")]
struct Args {
    /// Ends when so many processes were killed.
    #[arg(long, default_value_t = usize::MAX)]
    kills: usize,
    /// Ends after so many seconds, with the round's verdict.
    #[arg(long, default_value_t = 3_600)]
    seconds: u64,
    /// Members of a cluster; by default three, and five in every third round.
    #[arg(long)]
    members: Option<usize>,
    /// Of the first round; later ones count on. By default another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Judge the real etcd instead: what fails there is a fault of the judge.
    #[arg(long)]
    etcd: bool,
    /// Stay in this network, with a proxy in front of each member.
    #[arg(long)]
    proxies: bool,
    /// A short run, in which not everything has to happen.
    #[arg(long)]
    short: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kind = if args.etcd { Kind::Etcd } else { Kind::Conclave };
    let network = Network::of_this_process();
    if matches!(network, Network::Proxies) && !args.proxies {
        match possible() {
            Ok(()) => {
                // Built outside, where a module proxy can be reached.
                kind.program()?;
                let namespaces = Namespaces::make(MOST_MEMBERS)?;
                let status = runtime.block_on(namespaces.run_inside())?;
                drop(namespaces);
                std::process::exit(status.code().unwrap_or(1));
            }
            Err(why) => {
                eprintln!("{why:#}");
                skip("no network namespaces: a proxy stands before each member instead");
            }
        }
    }
    runtime.block_on(campaign(&args, kind, &network))
}

async fn campaign(args: &Args, kind: Kind, network: &Network) -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let first = args.seed.unwrap_or(now);
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let mut all = Report::default();
    while all.strokes.kills < args.kills && Instant::now() < until {
        let seed = first + all.rounds as u64;
        let size = args.members.unwrap_or(if all.rounds % 3 == 2 { 5 } else { 3 });
        let folder = tempfile::Builder::new().prefix(&format!("conclave-chaos-{seed}-")).tempdir()?;
        let kills = args.kills - all.strokes.kills;
        let plan = Plan { kind, size, seed, kills, until, folder: folder.path().to_owned() };
        let judged = round(&plan, network).await;
        if judged.is_err() {
            let kept = folder.keep();
            judged.with_context(|| {
                format!("seed {seed}, {size} members; `chaos --seed {seed} --members {size}`; kept: {}", kept.display())
            })?;
            unreachable!("it failed");
        }
        let report = judged.context("it did not fail")?;
        println!("seed {seed}, {size} members: {report:?}");
        all.add(report);
    }
    println!("{all:#?}");
    let missing = all.missing(network);
    if !args.short && !missing.is_empty() {
        bail!("never happened: {}", missing.join(", "));
    }
    Ok(())
}
