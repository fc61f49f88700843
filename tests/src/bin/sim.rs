//! Runs simulator seeds: `sim --seeds 200`, or one seed with its trace: `sim --seed 17 --trace`.
//!
//! Every seed is run twice and must give the same trace. Exits with 1 if a seed fails (it is printed, and fails again
//! the same way), or if the campaign did not meet something that it should have met.

use std::{panic::AssertUnwindSafe, process::ExitCode, time::Instant};

use clap::Parser;
use conclave_tests::sim::{Counts, World};

#[derive(Parser)]
struct Options {
    /// Run only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// First of the seeds to run.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Turns of each run before it is healed.
    #[arg(long, default_value_t = 20_000)]
    turns: u64,
    /// Print each event.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seeds = options.seed.map_or(options.from..options.from + options.seeds, |seed| seed..seed + 1);
    let began = Instant::now();
    let mut all = Counts::default();
    for seed in seeds.clone() {
        let run = |trace| std::panic::catch_unwind(AssertUnwindSafe(|| World::new(seed, trace).run(options.turns)));
        let (Ok(first), Ok(second)) = (run(options.trace), run(false)) else {
            println!("seed {seed} failed; again with: sim --seed {seed} --turns {} --trace", options.turns);
            return ExitCode::FAILURE;
        };
        if first.1 != second.1 {
            println!("seed {seed} is not deterministic: its two runs had different traces");
            return ExitCode::FAILURE;
        }
        all.add(first.0);
    }
    let seconds = began.elapsed().as_secs_f64();
    print!("{}", all.report());
    println!("simulated {} seeds from {} on, {seconds:.1} s, each run twice", seeds.end - seeds.start, seeds.start);
    let missing = all.missing();
    if options.seed.is_none() && !missing.is_empty() {
        println!("the campaign met none of: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
