//! Renewals while leaders come and go: no lease runs out earlier than the last client that renewed it was told, and none
//! is renewed after it ran out (L1 and L4 of the invariants; L6 by the model).

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::group::{Group, text};
use crate::{
    engine::Batch,
    lease,
    node::{Input, LeaseAsk, Message, MessageKind, Ticket},
    state::LeaseEffect,
    types::{LeaseId, LogIndex, MemberId},
};

const TTL_MS: i64 = 1_000;
const LEASES: i64 = 4;

struct World {
    group: Group,
    rng: ChaCha8Rng,
    tickets: u64,
    /// By ticket: which lease, and when its handler asked.
    asked: BTreeMap<u64, (i64, u64)>,
    /// When a client last was told that the lease lives.
    renewed: BTreeMap<i64, u64>,
    /// When its revocation was applied first.
    expired: BTreeMap<i64, u64>,
    /// Entries that were looked at, of all members the longest log.
    looked: usize,
    answers: usize,
    forwarded: usize,
    stale_expiries: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut group = Group::new(3, seed);
        let mut batch = Batch::new(group.leases.view());
        let grant = lease::Grant { ttl_ms: TTL_MS, index: LogIndex(1) };
        (1..=LEASES).for_each(|id| lease::grant(&mut batch, LeaseId(id), grant));
        group.leases.write(batch);
        (1..=3).for_each(|id| drop(group.start(id)));
        Self {
            group,
            rng: ChaCha8Rng::seed_from_u64(seed),
            tickets: 0,
            asked: BTreeMap::new(),
            renewed: BTreeMap::new(),
            expired: BTreeMap::new(),
            looked: 0,
            answers: 0,
            forwarded: 0,
            stale_expiries: 0,
        }
    }

    fn runs(&mut self, id: u64) -> bool {
        self.group.member(id).running.is_some()
    }

    fn ask(&mut self, id: u64) {
        self.tickets += 1;
        // One after the other is renewed no more, so that it runs out.
        let first = 1 + (self.group.now_ms / 6_000) as i64;
        let lease = if first <= LEASES { self.rng.random_range(first..=LEASES) } else { LEASES };
        self.asked.insert(self.tickets, (lease, self.group.now_ms));
        let ask = LeaseAsk { ticket: Ticket(self.tickets << 8), id: LeaseId(lease), renew: true };
        self.group.drive(id, vec![Input::AskLeases(vec![ask])]);
    }

    /// The raft thread's look for leases that ran out.
    fn expire(&mut self, id: u64) {
        let now_ms = self.group.now_ms;
        let running = self.group.running(id);
        let standing = running.driver.standing();
        if !standing.leading {
            return;
        }
        let expired = running.keeper.expired(standing.term, now_ms);
        let commands: Vec<_> = expired
            .into_iter()
            .map(|command| match command {
                conclave_proto::conclave::raft::v1::command::Kind::LeaseRevoke(revoke) => {
                    super::group::put(&format!("expire {} {}", revoke.id, standing.term), Default::default())
                }
                other => panic!("{other:?}"),
            })
            .collect();
        self.group.drive(id, vec![Input::ProposeAsLeader(commands)]);
    }

    /// What was told, and what was applied.
    fn look(&mut self) {
        let now_ms = self.group.now_ms;
        for (member, ticket, lease) in std::mem::take(&mut self.group.told) {
            let (id, asked_ms) = self.asked[&(ticket.0 >> 8)];
            self.answers += 1;
            let leader = self.group.running(member.0).driver.standing().leader;
            self.forwarded += usize::from(leader != Some(member));
            match (lease, self.expired.get(&id)) {
                (Some(_), None) => drop(self.renewed.insert(id, now_ms)),
                (Some(_), Some(expired_ms)) => {
                    assert!(
                        asked_ms < *expired_ms,
                        "lease {id} was renewed at {now_ms} after it expired at {expired_ms}"
                    );
                }
                (None, _) => {}
            }
        }
        let longest = self.group.members.iter().max_by_key(|member| member.applied.len()).expect("there are members");
        for entry in longest.applied.iter().skip(self.looked).cloned().collect::<Vec<_>>() {
            let key = text(&entry.data).0;
            let Some((id, term)) = key.strip_prefix("expire ").and_then(|rest| rest.split_once(' ')) else { continue };
            // The fence of `state::command::lease_revoke`.
            if term != entry.term.0.to_string() {
                self.stale_expiries += 1;
                continue;
            }
            let id: i64 = id.parse().unwrap();
            if self.expired.contains_key(&id) {
                continue;
            }
            let renewed_ms = self.renewed.get(&id).copied();
            let least = renewed_ms.unwrap_or(0) + TTL_MS as u64;
            assert!(now_ms >= least, "lease {id} ran out at {now_ms}, {renewed_ms:?} it was renewed");
            self.expired.insert(id, now_ms);
            let mut batch = Batch::new(self.group.leases.view());
            lease::remove(&mut batch, LeaseId(id));
            self.group.leases.write(batch);
        }
        self.looked = self.looked.max(longest_of(&self.group));
        // Every member that applied the revocation forgets the lease.
        for member in &mut self.group.members {
            let gone = member.applied.iter().filter_map(|entry| {
                let key = text(&entry.data).0;
                let (id, term) = key.strip_prefix("expire ")?.split_once(' ')?;
                (term == entry.term.0.to_string()).then(|| id.parse().unwrap())
            });
            let gone: Vec<_> = gone.map(|id| LeaseEffect::Revoked { id: LeaseId(id) }).collect();
            if let Some(running) = &member.running {
                running.keeper.follow(gone.into_iter(), now_ms);
            }
        }
    }

    fn step(&mut self) {
        let id = self.rng.random_range(1..=3);
        match self.rng.random_range(0..400) {
            0 if self.runs(id) && self.rng.random_bool(0.2) => self.group.stop(id),
            1 if self.rng.random_bool(0.3) => {
                let (from, to) = (self.rng.random_range(1..=3), self.rng.random_range(1..=3));
                self.group.cut.insert((from, to));
            }
            2..=5 => self.group.cut.clear(),
            6..=16 if !self.runs(id) => drop(self.group.start(id)),
            17 if self.runs(id) => drop(self.group.drive(id, vec![Input::Abdicate])),
            19..=60 if self.runs(id) => self.ask(id),
            61..=80 if self.runs(id) => self.expire(id),
            81..=140 if self.runs(id) => drop(self.group.persist(id, 2)),
            141..=200 if self.runs(id) => {
                self.group.apply(id, 3);
                self.look();
            }
            // Some answers take very long.
            201..=204 => {
                let late = |message: &mut Message| message.kind == MessageKind::LeaseAnswer;
                let kept: Vec<_> = self.group.network.extract_if(.., late).collect();
                self.group.kept.extend(kept);
            }
            205 => self.group.network.append(&mut self.group.kept),
            206..=240 => {
                // One of the clocks stands still now and then: a member that is paused.
                self.group.now_ms += 10;
                let paused = self.rng.random_range(1..=12);
                for id in (1..=3).filter(|id| *id != paused) {
                    if self.runs(id) {
                        self.group.tick(id, 1);
                    }
                }
            }
            _ if !self.group.network.is_empty() => {
                let place = self.rng.random_range(0..self.group.network.len().min(8));
                if self.rng.random_bool(0.02) {
                    self.group.network.push(self.group.network[place].clone());
                }
                self.group.deliver(place);
            }
            _ => {}
        }
        self.look();
        if self.group.network.len() > 200 {
            self.group.network.remove(0);
        }
    }
}

fn longest_of(group: &Group) -> usize {
    group.members.iter().map(|member| member.applied.len()).max().unwrap_or_default()
}

#[test]
fn no_lease_runs_out_early_whoever_leads() {
    let (mut answers, mut forwarded, mut expired, mut terms, mut stale) = (0, 0, 0, 0, 0);
    for seed in 0..30 {
        let mut world = World::new(seed);
        for _ in 0..30_000 {
            world.step();
        }
        answers += world.answers;
        forwarded += world.forwarded;
        expired += world.expired.len();
        stale += world.stale_expiries;
        let standings = (1..=3).filter_map(|id| Some(world.group.member(id).running.as_ref()?.driver.standing()));
        terms += standings.map(|standing| standing.term.0).max().unwrap_or_default();
    }
    let what = format!("{answers} answers, {forwarded} forwarded, {expired} expired, {stale} stale, {terms} terms");
    assert!(answers > 1_000 && forwarded > 500 && expired > 30 && terms > 90, "{what}");
}

/// A leader that hears of nobody answers no renewal, though it moved the deadline; the one that is elected meanwhile does.
#[test]
fn a_leader_that_cannot_prove_itself_answers_nobody() {
    let mut world = World::new(1);
    let group = &mut world.group;
    group.tick(1, 199);
    group.settle();
    for (a, b) in [(1, 2), (1, 3)] {
        group.cut.extend([(a, b), (b, a)]);
    }
    let ask = |ticket: u64| LeaseAsk { ticket: Ticket(ticket << 8), id: LeaseId(1), renew: true };
    group.drive(1, vec![Input::AskLeases(vec![ask(1)])]);
    while group.running(2).driver.standing().leader.is_none_or(|leader| leader == MemberId(1)) {
        group.now_ms += 10;
        (1..=3).for_each(|id| drop(group.tick(id, 1)));
        group.settle();
        assert!(group.now_ms < 5_000, "the others elect a leader");
    }
    assert_eq!(group.told, [], "nobody confirmed it");
    group.cut.clear();
    for _ in 0..100 {
        group.now_ms += 10;
        (1..=3).for_each(|id| drop(group.tick(id, 1)));
        group.settle();
    }
    let [(member, ticket, Some(lease))] = group.told[..] else { panic!("{:?}", group.told) };
    assert_eq!((member, ticket, lease.granted_ms), (MemberId(1), Ticket(1 << 8), TTL_MS));
    assert!(group.running(1).driver.standing().commit > LogIndex(1));
}
