use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Summary, Truth,
    bends::BENDS,
    check,
    model::{Valid, valid},
};

/// Valid histories that must be accepted.
const HISTORIES: u64 = 10_000;
/// Of these every so many is bent in each way.
const BENT_ONE_IN: u64 = 10;

fn judge(history: &Valid) -> Result<Summary, String> {
    check(&history.ops, &Truth::new(&history.events)?)
}

#[test]
fn valid_histories_are_accepted_and_bent_ones_refused() {
    let (mut all, mut bent) = (Summary::default(), BTreeMap::<&str, usize>::new());
    for seed in 0..HISTORIES {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let requests = rng.random_range(20..80);
        let history = valid(requests, &mut rng);
        all.add(judge(&history).unwrap_or_else(|why| panic!("seed {seed}: {why}\n{history:#?}")));
        if seed % BENT_ONE_IN != 0 || history.events.is_empty() {
            continue;
        }
        for (name, bend) in BENDS {
            let mut lie = history.clone();
            if bend(&mut lie, &mut rng).is_some() {
                assert!(judge(&lie).is_err(), "seed {seed}: {name} was accepted\n{lie:#?}");
                *bent.entry(name).or_default() += 1;
            }
        }
    }
    println!("{all:?}\n{bent:#?}");
    assert!(BENDS.iter().all(|(name, _)| bent.get(name).is_some_and(|times| *times >= 100)), "{bent:#?}");
    let Summary { done, refused, unknown, unknown_effective, writes, txns_failed, reads, reads_behind } = all;
    let rare =
        [done, refused, unknown - unknown_effective, unknown_effective, writes, txns_failed, reads, reads_behind];
    assert!(rare.iter().all(|times| *times > 1_000), "{all:?}");
}

#[test]
fn a_long_history_takes_a_moment() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let history = valid(20_000, &mut rng);
    judge(&history).expect("it is valid");
}
