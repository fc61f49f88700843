//! `make bench`: the table of `docs/benchmarks/one-member.md`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use conclave_tests::{
    bench::{Plan, markdown, run, write},
    process::Kind,
};

#[derive(Debug, Parser)]
#[command(about = "Measures one member of conclave against one etcd 3.7.1, interleaved")]
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
    /// Where JSON and table go; nowhere if absent.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measure etcd against etcd: how far apart equal servers come out here.
    #[arg(long)]
    noise: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(!cfg!(debug_assertions), "build with --release: a debug build measures nothing");
    let first = if args.noise { Kind::Etcd } else { Kind::Conclave };
    let plan = Plan { kinds: [first, Kind::Etcd], seconds: args.seconds, rounds: args.rounds, only: args.only };
    let result = run(&plan)?;
    println!("{}", markdown(&result));
    if let Some(folder) = args.out {
        write(&result, &folder)?;
    }
    Ok(())
}
