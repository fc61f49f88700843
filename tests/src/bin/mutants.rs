//! Runs the simulator against each planted defect until it is found, and says after how many seeds: the test of the test.
//!
//! Each mutant has a process of its own (a mutant may well stop the process), which is this binary with `--one`. Exits
//! with 1 if a mutant survives, or if the same seeds without a mutant are not clean.

use std::{
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};
use clap::Parser;
use conclave_server::mutants::{self, Mutant};
use conclave_tests::sim::World;

#[derive(Parser)]
struct Options {
    /// First of the seeds.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Seeds in which each mutant must die.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// Simulated seconds of each run before it is healed.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Only the mutants with this in their name.
    #[arg(long)]
    only: Option<String>,
    /// For the processes that this one starts.
    #[arg(long, hide = true)]
    one: Option<String>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if let Some(one) = &options.one {
        run(&options, one);
        return Ok(ExitCode::SUCCESS);
    }
    let (mut survived, mut longest) = (Vec::new(), 0);
    for mutant in Mutant::ALL {
        let name = format!("{mutant:?}");
        if options.only.as_ref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        let (seeds, why) = hunt(&options, &name)?;
        match why {
            Some(why) => {
                longest = longest.max(seeds);
                println!("{name:<22} dies in seed {seeds:>3} of {}: {why}", options.seeds);
            }
            None => {
                println!("{name:<22} survives {seeds} seeds");
                survived.push(name);
            }
        }
    }
    let (_, why) = hunt(&Options { seeds: longest, one: None, only: None, ..options }, "none")?;
    match &why {
        Some(why) => println!("without a mutant the same {longest} seeds are not clean: {why}"),
        None => println!("without a mutant the same {longest} seeds are clean"),
    }
    Ok(if survived.is_empty() && why.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many seeds it took, the last one included, and what found it.
fn hunt(options: &Options, name: &str) -> Result<(u64, Option<String>)> {
    let arguments = [("--from", options.from), ("--seeds", options.seeds), ("--seconds", options.seconds)];
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]))
        .args(["--one", name])
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting this binary again")?;
    let errors = child.stderr.take().context("its errors")?;
    let errors = std::thread::spawn(move || {
        let lines: Vec<_> = BufReader::new(errors).lines().map_while(Result::ok).collect();
        // The line behind the place of the panic; or whatever a stopped process said last.
        let place = lines.iter().position(|line| line.contains("panicked at")).map(|place| place + 1);
        place.and_then(|place| lines.get(place)).or(lines.last()).cloned().unwrap_or_default()
    });
    let output = BufReader::new(child.stdout.take().context("its output")?);
    let clean = output.lines().map_while(Result::ok).filter(|line| line.starts_with("clean ")).count() as u64;
    let status = child.wait()?;
    let why = errors.join().unwrap_or_default();
    let why: String = why.chars().take(160).collect();
    Ok(if status.success() { (clean, None) } else { (clean + 1, Some(why)) })
}

fn run(options: &Options, one: &str) {
    if let Some(mutant) = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == one) {
        mutants::choose(mutant);
    }
    for seed in options.from..options.from + options.seeds {
        World::new(seed, None, false).run(options.seconds * 1_000);
        println!("clean {seed}");
    }
}
