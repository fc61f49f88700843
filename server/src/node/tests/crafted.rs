//! Messages that no correct member sends. Whatever they hold, the member goes on: a panic of raft or of the log fails
//! the test.

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::group::{Group, put};
use crate::{
    node::{
        Aside, Forward, Input, LeaseAnswer, LeaseAsk, LeaseTime, Message, MessageKind, Ticket,
        log::{EntryKind, LogEntry},
    },
    types::{LeaseId, LogIndex, MemberId, Term},
};

const KINDS: [MessageKind; 15] = [
    MessageKind::Append,
    MessageKind::AppendResponse,
    MessageKind::RequestVote,
    MessageKind::RequestVoteResponse,
    MessageKind::RequestPreVote,
    MessageKind::RequestPreVoteResponse,
    MessageKind::Heartbeat,
    MessageKind::HeartbeatResponse,
    MessageKind::TimeoutNow,
    MessageKind::ReadIndex,
    MessageKind::ReadIndexResponse,
    MessageKind::Propose,
    MessageKind::ProposeRefused,
    MessageKind::LeaseAsk,
    MessageKind::LeaseAnswer,
];

/// n1 leads n2 and n3 in term 1, with a few entries.
fn group() -> Group {
    let mut group = Group::new(3, 1);
    (1..=3).for_each(|id| drop(group.start(id)));
    group.tick(1, 199);
    group.settle();
    group.propose(1, &["a", "b", "c"]);
    group.settle();
    group
}

fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry { index: LogIndex(index), term: Term(term), kind: EntryKind::Normal, data: Bytes::from_static(b"x") }
}

fn message(kind: MessageKind, from: u64, to: u64, term: u64) -> Message {
    Message::new(kind, MemberId(from), MemberId(to), Term(term))
}

/// Whether the member looked at the message.
fn listens(group: &mut Group, message: Message) -> bool {
    let to = message.to.0;
    listens_at(group, to, message)
}

/// The same where it arrives, whomever it is for.
fn listens_at(group: &mut Group, to: u64, message: Message) -> bool {
    let out = group.drive(to, vec![Input::Message(message)]);
    group.persist(to, usize::MAX);
    group.apply(to, usize::MAX);
    !out.contains("does not listen")
}

/// Each of them would have ended the process inside raft-rs or in the log.
#[test]
fn what_would_break_an_assertion_is_refused() {
    let append = |index, log_term, entries| Message {
        index: LogIndex(index),
        log_term: Term(log_term),
        entries,
        ..message(MessageKind::Append, 1, 2, 1)
    };
    let large = LogEntry { data: Bytes::from(vec![0; (32 << 20) + 1]), ..entry(5, 1) };
    let conf_change = LogEntry { kind: EntryKind::ConfChange, ..entry(0, 0) };
    let refused = [
        ("from itself", message(MessageKind::AppendResponse, 1, 1, 1)),
        ("from nobody", message(MessageKind::RequestVote, 0, 2, 1)),
        ("from a stranger", message(MessageKind::HeartbeatResponse, 9, 1, 1)),
        ("a vote in term 0", message(MessageKind::RequestVote, 3, 2, 0)),
        ("an index read in a term", message(MessageKind::ReadIndex, 2, 1, 1)),
        ("an index read that names no round", message(MessageKind::ReadIndex, 2, 1, 0)),
        ("nothing proposed", message(MessageKind::Propose, 2, 1, 1)),
        ("a membership", Message { entries: vec![conf_change], ..message(MessageKind::Propose, 2, 1, 1) }),
        ("an end of terms", message(MessageKind::Heartbeat, 1, 2, u64::MAX)),
        ("an end of the log", Message { commit: LogIndex(1 << 62), ..message(MessageKind::Heartbeat, 1, 2, 1) }),
        ("an entry of term 0", append(4, 1, vec![entry(5, 0)])),
        ("an entry of a later term", append(4, 1, vec![entry(5, 2)])),
        ("a gap in front", append(4, 1, vec![entry(6, 1)])),
        ("a gap within", append(4, 1, vec![entry(5, 1), entry(7, 1)])),
        ("entries that go back", append(4, 1, vec![entry(5, 1), entry(5, 1)])),
        ("behind an entry of term 0", append(9, 0, vec![entry(10, 1)])),
        ("more than a segment", append(4, 1, vec![large])),
        ("an entry that is nowhere", Message { index: LogIndex(99), ..message(MessageKind::AppendResponse, 2, 1, 1) }),
        ("an order of no leader", message(MessageKind::TimeoutNow, 3, 2, 1)),
        ("a priority", Message { priority: -1, ..message(MessageKind::RequestPreVote, 3, 2, 2) }),
    ];
    for (what, message) in refused {
        let mut group = group();
        assert!(!listens(&mut group, message), "{what}");
        group.propose(1, &["after"]);
        group.settle();
        assert!(group.keys().lines().all(|line| line.ends_with("a b c after")), "{what}: {}", group.keys());
    }
}

#[test]
fn a_commit_beyond_the_log_is_not_believed() {
    let mut group = group();
    let heartbeat = Message { commit: LogIndex(50), ..message(MessageKind::Heartbeat, 1, 2, 1) };
    assert!(listens(&mut group, heartbeat), "the leader lives");
    assert_eq!(group.running(2).driver.standing().commit, LogIndex(4));
}

#[test]
fn a_proposal_that_nobody_can_read_is_not_taken() {
    let mut group = group();
    let garbage = Message {
        entries: vec![LogEntry { index: LogIndex(0), term: Term(0), ..entry(0, 0) }],
        aside: Some(Box::new(Aside::Forward(Forward { life: 1, number: 1 }))),
        ..message(MessageKind::Propose, 2, 1, 1)
    };
    listens(&mut group, garbage);
    group.settle();
    assert!(group.keys().lines().all(|line| line.ends_with("a b c")), "{}", group.keys());
}

fn number(rng: &mut ChaCha8Rng) -> u64 {
    match rng.random_range(0..80) {
        0 => u64::MAX,
        1 => (1 << 62) - 1,
        2 => 1 << 62,
        3 => rng.random_range(0..100),
        _ => rng.random_range(0..9),
    }
}

fn random_entries(rng: &mut ChaCha8Rng, index: u64) -> Vec<LogEntry> {
    let mut index = index.wrapping_add(1);
    let mut term = rng.random_range(0..10_u64).min(1);
    (0..rng.random_range(0..4))
        .map(|_| {
            index = index.wrapping_add(u64::from(rng.random_bool(0.95)));
            term += u64::from(rng.random_bool(0.1));
            let id = Default::default();
            let data = match rng.random_range(0..4) {
                0 => Bytes::new(),
                1 => Bytes::from_static(b"garbage"),
                _ => put("crafted", id),
            };
            let kinds = [EntryKind::Normal, EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2];
            let kind = if rng.random_bool(0.9) { EntryKind::Normal } else { kinds[rng.random_range(0..4)] };
            LogEntry { index: LogIndex(index.wrapping_sub(1)), term: Term(term), kind, data }
        })
        .collect()
}

fn random_message(rng: &mut ChaCha8Rng, to: u64) -> Message {
    let kind = KINDS[rng.random_range(0..KINDS.len())];
    let index = number(rng);
    let term = match kind {
        MessageKind::ReadIndex if rng.random_bool(0.9) => 0,
        _ if rng.random_bool(0.9) => rng.random_range(1..4),
        _ => number(rng),
    };
    let contexts: [&[u8]; 3] = [b"", b"CampaignTransfer", b"CampaignPreElection"];
    let ticket = Ticket(rng.random_range(0..50));
    let lease = LeaseTime { remaining_ms: 1, granted_ms: i64::MIN };
    Message {
        log_term: Term(if rng.random_bool(0.9) { u64::from(index != 0) } else { number(rng) }),
        index: LogIndex(index),
        entries: random_entries(rng, index),
        commit: LogIndex(number(rng)),
        commit_term: Term(number(rng)),
        reject: rng.random(),
        reject_hint: LogIndex(number(rng)),
        request_snapshot: LogIndex(if rng.random_bool(0.95) { 0 } else { number(rng) }),
        context: Bytes::from_static(contexts[rng.random_range(0..3)]),
        priority: if rng.random_bool(0.05) { -1 } else { 0 },
        aside: match rng.random_range(0..8) {
            0 => None,
            1 => Some(Box::new(Aside::Asks(vec![LeaseAsk { ticket, id: LeaseId(1), renew: rng.random() }]))),
            2 => Some(Box::new(Aside::Answers(vec![LeaseAnswer { ticket, lease: Some(lease) }]))),
            _ => Some(Box::new(Aside::Forward(Forward { life: number(rng), number: number(rng) }))),
        },
        ..message(
            kind,
            if rng.random_bool(0.95) { rng.random_range(1..4) } else { rng.random_range(0..9) },
            if rng.random_bool(0.99) { to } else { 9 },
            term,
        )
    }
}

#[test]
fn whatever_comes_in_nothing_panics() {
    let (mut listened, mut refused) = (0, 0);
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut group = if seed % 6 == 0 { Group::new(1, seed) } else { group() };
        let to = if seed % 6 == 0 { 1 } else { rng.random_range(1..=3) };
        if seed % 6 == 0 {
            group.start(1);
        }
        for _ in 0..800 {
            match rng.random_range(0..20) {
                0 => drop(group.tick(to, 30)),
                1 => drop(group.propose(to, &["mine"])),
                2 => drop(group.drive(to, vec![Input::Read(vec![Ticket(1 << 8)])])),
                3 => {
                    let (member, last) = (MemberId(rng.random_range(0..5)), LogIndex(number(&mut rng) >> 2));
                    group.drive(
                        to,
                        vec![Input::PeerOffers { member, last }, Input::Unreachable(member), Input::Abdicate],
                    );
                }
                _ if listens_at(&mut group, to, random_message(&mut rng, to)) => listened += 1,
                _ => refused += 1,
            }
            group.now_ms += 10;
            group.network.clear();
        }
    }
    assert!(listened > 10_000 && refused > 5_000, "{listened} looked at, {refused} not");
}
