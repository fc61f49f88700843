//! `make bench`: the tables of `docs/benchmarks`, one member against one and three against three.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use conclave_tests::{
    bench::{Plan, one, three, write},
    process::Kind,
};
use serde_json::Value;

#[derive(Debug, Parser)]
#[command(about = "Measures members of conclave against etcd 3.7.1, interleaved")]
struct Args {
    /// Seconds of each measurement, after a second of warm-up.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// How often each load is measured A B B A.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only loads whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// One against one, or three against three; both if absent.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    members: Option<u8>,
    /// Where JSON and table go; nowhere if absent.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measure etcd against etcd: how far apart equal servers come out here.
    #[arg(long)]
    noise: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    // Servers are built in the profile of this program, unless one is given.
    let measurable = !cfg!(debug_assertions) || std::env::var_os("CONCLAVE_BIN").is_some();
    ensure!(measurable, "build with --release: a debug build measures nothing");
    let first = if args.noise { Kind::Etcd } else { Kind::Conclave };
    let plan = Plan { kinds: [first, Kind::Etcd], seconds: args.seconds, rounds: args.rounds, only: args.only };
    let chosen = |members| args.members.is_none_or(|only| only == members);
    let save = |result: &Value, table: &str, name| {
        println!("{table}");
        args.out.as_ref().map_or(Ok(()), |folder| write(result, table, folder, name))
    };
    if chosen(1) {
        let result = one::run(&plan)?;
        save(&result, &one::markdown(&result), "one-member")?;
    }
    if chosen(3) {
        let result = three::run(&plan)?;
        save(&result, &three::markdown(&result), "three-members")?;
    }
    Ok(())
}
