//! Random schedules: messages lost, doubled and reordered, members crash with what they had not persisted, disks and state
//! machines that lag. Whatever happens, members apply the same entries, and nothing that was applied is ever lost.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::group::{Group, text};
use crate::{
    node::log::LogEntry,
    node::{Input, Ticket},
    types::{LogIndex, MemberId},
};

#[derive(Default)]
struct Oracle {
    truth: BTreeMap<LogIndex, LogEntry>,
    leaders: BTreeMap<u64, u64>,
    /// What was applied anywhere when a read began: its index may not be below.
    reads: BTreeMap<u64, LogIndex>,
    /// Where each proposal was applied.
    executed: BTreeMap<(u64, u64, u64), LogIndex>,
    /// Of them, those that were proposed on a member that did not lead.
    forwarded: usize,
    reads_confirmed: usize,
}

impl Oracle {
    fn read(&mut self, group: &mut Group, id: u64) {
        let ticket = self.reads.len() as u64 + 1;
        let applied = self.truth.keys().next_back().copied().unwrap_or_default();
        self.reads.insert(ticket, applied);
        group.drive(id, vec![Input::Read(vec![Ticket(ticket)])]);
    }

    fn look(&mut self, group: &mut Group) {
        for (member, index, tickets) in group.confirmed.drain(..) {
            for ticket in tickets {
                let least = self.reads[&ticket.0];
                assert!(index >= least, "a read of {member} at {index} misses what was applied before, up to {least}");
                self.reads_confirmed += 1;
            }
        }
        for member in &group.members {
            for entry in &member.applied {
                if let Some(known) = self.truth.get(&entry.index) {
                    assert_eq!(known, entry, "members applied different entries at {}", entry.index);
                    continue;
                }
                self.truth.insert(entry.index, entry.clone());
                let (key, Some(id)) = text(&entry.data) else { continue };
                let before = self.executed.insert((id.member, id.boot, id.sequence), entry.index);
                assert_eq!(before, None, "{key} was executed twice, at {} too", entry.index);
                let proposer = self.leaders.get(&entry.term.0);
                self.forwarded += usize::from(proposer != Some(&id.member));
            }
            let Some(running) = &member.running else { continue };
            let standing = running.driver.standing();
            if standing.leading {
                let known = *self.leaders.entry(standing.term.0).or_insert(member.id.0);
                assert_eq!(known, member.id.0, "two leaders in term {}", standing.term);
            }
        }
    }
}

fn step(group: &mut Group, oracle: &mut Oracle, rng: &mut ChaCha8Rng, proposals: &mut u64) {
    let id = rng.random_range(1..=group.members.len() as u64);
    let runs = group.member(id).running.is_some();
    match rng.random_range(0..100) {
        0 if runs => group.stop(id),
        0..=4 if !runs => drop(group.start(id)),
        _ if !runs => {}
        1..=10 => {
            *proposals += 1;
            let one = format!("p{proposals}");
            *proposals += 1;
            let two = format!("p{proposals}");
            group.propose(id, &[&one, &two]);
        }
        11..=30 => {
            let batches = rng.random_range(1..4);
            group.persist(id, batches);
        }
        31..=33 => oracle.read(group, id),
        34..=40 => {
            let count = rng.random_range(1..10);
            group.apply(id, count);
        }
        41..=43 => {
            let member = group.member(id);
            member.flushed = rng.random_range(member.flushed..=member.applied.len());
        }
        44 => {
            let input = match rng.random_range(0..4) {
                0 => Input::Abdicate,
                1 => Input::TransferLeader(MemberId(rng.random_range(1..=group.members.len() as u64))),
                2 => Input::Unreachable(MemberId(rng.random_range(1..=group.members.len() as u64))),
                _ => {
                    let member = MemberId(rng.random_range(1..=group.members.len() as u64));
                    Input::PeerOffers { member, last: LogIndex(rng.random_range(0..50)) }
                }
            };
            group.drive(id, vec![input]);
        }
        45..=55 => {
            group.now_ms += 10;
            let ticks = rng.random_range(1..20);
            group.tick(id, ticks);
        }
        kind if !group.network.is_empty() => {
            let place = rng.random_range(0..group.network.len());
            match kind {
                56..=58 => drop(group.network.remove(place)),
                59..=60 => group.network.push(group.network[place].clone()),
                _ => drop(group.deliver(place)),
            }
        }
        _ => {}
    }
    if group.network.len() > 200 {
        group.network.remove(0);
    }
}

/// Entries, terms, reads, forwarded proposals, and what was applied.
fn run(members: u64, seed: u64, steps: usize) -> (usize, usize, usize, usize, String) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut group = Group::new(members, seed);
    let mut oracle = Oracle::default();
    let mut proposals = 0;
    for id in 1..=members {
        group.start(id);
    }
    for _ in 0..steps {
        step(&mut group, &mut oracle, &mut rng, &mut proposals);
        oracle.look(&mut group);
    }
    // Heal: everybody runs, nothing is lost, time goes by. The group must get on.
    for id in 1..=members {
        if group.member(id).running.is_none() {
            group.start(id);
        }
    }
    let (before, reads) = (oracle.truth.len(), oracle.reads_confirmed);
    for round in 0..400 {
        group.now_ms += 10;
        for id in 1..=members {
            group.tick(id, 1);
        }
        group.settle();
        if round % 100 == 99 {
            group.propose(1, &["after"]);
            oracle.read(&mut group, members);
        }
    }
    group.settle();
    oracle.look(&mut group);
    assert!(oracle.truth.len() > before, "seed {seed}: the group does not get on");
    assert!(oracle.reads_confirmed >= reads + 4, "seed {seed}: reads wait for ever");
    let lengths: Vec<_> = group.members.iter().map(|member| member.applied.len()).collect();
    assert!(lengths.iter().all(|len| *len == lengths[0]), "seed {seed}: not all caught up: {lengths:?}");
    let trace = format!("{:?}", oracle.truth.values().map(|entry| (&entry.term, &entry.data)).collect::<Vec<_>>());
    (oracle.truth.len(), oracle.leaders.len(), oracle.reads_confirmed, oracle.forwarded, trace)
}

#[test]
fn members_apply_the_same_whatever_happens() {
    let (mut entries, mut terms, mut reads, mut forwarded) = (0, 0, 0, 0);
    for seed in 0..40 {
        let members = [1, 3, 3, 5][(seed % 4) as usize];
        let (more_entries, more_terms, more_reads, more_forwarded, _) = run(members, seed, 3_000);
        entries += more_entries;
        terms += more_terms;
        reads += more_reads;
        forwarded += more_forwarded;
    }
    // The schedules must not be so harsh that nothing is tested.
    let what = format!("{entries} entries in {terms} terms, {reads} reads, {forwarded} forwarded");
    assert!(entries > 2_000 && terms > 100 && reads > 500 && forwarded > 200, "{what}");
}

#[test]
fn a_seed_decides_a_run() {
    assert_eq!(run(3, 77, 2_000), run(3, 77, 2_000));
}
