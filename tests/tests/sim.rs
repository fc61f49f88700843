//! A few seeds of the simulator in each `make test`; `make verify` runs many fresh ones, `make sim` any.

use conclave_tests::sim::{Counts, World};

/// Simulated time of each seed before it is healed.
const RUN_MS: u64 = 60_000;

fn run(seeds: &[u64], members: Option<usize>) -> Counts {
    let mut all = Counts::default();
    for &seed in seeds {
        let (counts, trace) = World::new(seed, members, false).run(RUN_MS);
        assert_eq!(World::new(seed, members, false).run(RUN_MS).1, trace, "seed {seed} has two traces");
        all.add(&counts);
    }
    print!("{}", all.report());
    all
}

#[test]
fn saved_seeds_of_one_member_run_clean_and_alike() {
    let all = run(&[1, 2, 3, 4, 5, 6, 7, 8], Some(1));
    assert_eq!(all.missing(true), Vec::<&str>::new(), "these seeds meet everything at least once");
}

/// Raft-rs merged appends so that a follower acknowledged entries that nobody had.
#[test]
fn seed_100_appends_follow_what_they_name() {
    World::new(100, None, false).run(RUN_MS);
}

#[test]
fn saved_seeds_of_clusters_run_clean_and_alike() {
    let all = run(&[1, 2, 4, 6, 19, 23, 30, 31], None);
    assert_eq!(all.missing(false), Vec::<&str>::new(), "these seeds meet everything at least once");
}
