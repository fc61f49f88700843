//! The differential test with its seed and length as arguments: `differential --ops 100000 --seed 7`.
//!
//! Without `--first` and `--second` it starts a fresh etcd and a fresh conclave; `--second etcd` compares etcd to itself.

use anyhow::Result;
use clap::Parser;
use conclave_tests::{
    differential::{Config, FLAGS, Mutation, run},
    process::{Kind, Options, Server},
};

#[derive(Debug, Parser)]
#[command(about = "Runs one random script against two servers and compares every reply")]
struct Args {
    /// Operations to draw.
    #[arg(long, default_value_t = 100_000)]
    ops: u64,
    /// Which script; the same seed is the same script as long as the replies are the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// `etcd`, `conclave` or the URL of a fresh server.
    #[arg(long, default_value = "etcd")]
    first: String,
    /// The same for the server that is judged.
    #[arg(long, default_value = "conclave")]
    second: String,
    /// Plant a wrong reply, to see that it is found.
    #[arg(long, value_enum)]
    mutation: Option<Mutation>,
    /// Print how often everything occurred.
    #[arg(long)]
    counts: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let (first, a) = server(&args.first)?;
    let (second, b) = server(&args.second)?;
    let config = Config { urls: [first, second], seed: args.seed, ops: args.ops, mutation: args.mutation };
    let result = run(&config).await;
    if let (Err(_), Some(server)) = (&result, &b) {
        let log = server.log();
        let last = log.lines().rev().take(5).collect::<Vec<_>>();
        eprintln!("the last lines that the second server logged, newest first:\n{}", last.join("\n"));
    }
    drop((a, b));
    let summary = result?;
    if args.counts {
        for (name, count) in &summary.counts {
            println!("{count:>9} {name}");
        }
    }
    println!(
        "seed {}: {} operations, {} calls to each server, {} kinds covered, no difference, {:.0} s",
        args.seed,
        args.ops,
        summary.calls,
        summary.counts.len(),
        summary.seconds
    );
    Ok(())
}

fn server(which: &str) -> Result<(String, Option<Server>)> {
    let kind = match which {
        "etcd" => Kind::Etcd,
        "conclave" => Kind::Conclave,
        url => return Ok((url.to_owned(), None)),
    };
    let options = Options { flags: FLAGS.map(String::from).into(), ..Options::default() };
    let server = Server::start(kind, &options)?;
    Ok((server.url(), Some(server)))
}
