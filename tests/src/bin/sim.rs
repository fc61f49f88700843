//! Runs simulator seeds: `sim --seeds 200`, or one seed with its trace: `sim --seed 17 --trace`.
//!
//! Every seed is run twice and must give the same trace (`--once`: once, for long campaigns). Exits with 1 if a seed fails
//! (it is printed, and fails again the same way), or if the campaign did not meet something that it should have met.

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
    /// Simulated seconds of each run before it is healed.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// As many members as that, and not as many as the seed says.
    #[arg(long)]
    members: Option<usize>,
    /// Run each seed once only.
    #[arg(long)]
    once: bool,
    /// Print each event.
    #[arg(long)]
    trace: bool,
    /// Print what each seed turns on.
    #[arg(long)]
    options: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seeds = options.seed.map_or(options.from..options.from + options.seeds, |seed| seed..seed + 1);
    let began = Instant::now();
    let mut all = Counts::default();
    let run = |seed, trace| {
        let world = World::new(seed, options.members, trace);
        if options.options {
            println!("seed {seed}: {:?}", world.options());
        }
        std::panic::catch_unwind(AssertUnwindSafe(|| world.run(options.seconds * 1_000)))
    };
    for seed in seeds.clone() {
        let Ok((counts, hash)) = run(seed, options.trace) else {
            let members = options.members.map(|members| format!(" --members {members}")).unwrap_or_default();
            println!(
                "seed {seed} failed; again with: sim --seed {seed} --seconds {}{members} --trace",
                options.seconds
            );
            return ExitCode::FAILURE;
        };
        all.add(&counts);
        if !options.once && run(seed, false).ok().map(|(_, hash)| hash) != Some(hash) {
            println!("seed {seed} is not deterministic: its two runs had different traces");
            return ExitCode::FAILURE;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let runs = if options.once { 1.0 } else { 2.0 };
    let simulated = all.virtual_ms as f64 / 1e3;
    print!("{}", all.report());
    println!(
        "simulated {} seeds from {} on, {:.2} hours of virtual time in {seconds:.1} s: {:.0} × real time",
        seeds.end - seeds.start,
        seeds.start,
        simulated / 3_600.0,
        runs * simulated / seconds
    );
    let missing = all.missing(options.members == Some(1));
    if options.seed.is_none() && !missing.is_empty() {
        println!("the campaign met none of: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
