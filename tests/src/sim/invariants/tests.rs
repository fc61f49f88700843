//! The judge is judged: histories as they were are accepted, and each way of bending one is refused by the invariant that is
//! there for it, and by that one alone.

use bytes::Bytes;
use conclave_proto::{conclave::raft::v1::command::Kind, mvccpb::KeyValue};
use conclave_server::{
    error::Error,
    lease::Grant,
    node::{MessageKind, Standing},
    state::Reply,
    types::{LogIndex, MemberId, Revision, Term},
};

use super::Judge;
use crate::sim::{
    World,
    seen::{Answer, Call, Decided, Renewed, Seen, Started, Watch, event_revision},
    truth::Truth,
};

type History = Vec<Seen>;
/// Bends a history. None: it has nothing that can be bent so.
type Bend = fn(History) -> Option<History>;

fn histories() -> Vec<History> {
    (1..=6).map(|seed| World::new(seed, Some(3), false).record(30_000)).collect()
}

/// Changes the last thing that `bend` can be done to.
fn at_last(mut history: History, bend: impl Fn(&mut Seen) -> bool) -> Option<History> {
    history.iter_mut().rev().any(bend).then_some(history)
}

/// Puts something behind all that happened.
fn and_then(mut history: History, more: impl IntoIterator<Item = Seen>) -> Option<History> {
    history.extend(more);
    Some(history)
}

fn last<T>(history: &History, find: impl Fn(&Seen) -> Option<T>) -> Option<T> {
    history.iter().rev().find_map(find)
}

fn truth(history: &History) -> Truth {
    let mut truth = Truth::new();
    for seen in history {
        if let Seen::Decided(decided) = seen {
            truth.decide(decided).expect("a true history");
        }
    }
    truth
}

/// The standing of a leader, and what was said of its log.
fn leader(history: &History) -> Option<(MemberId, Standing)> {
    last(history, |seen| match seen {
        Seen::Standing(member, standing) if standing.leading => Some((*member, *standing)),
        _ => None,
    })
}

fn started(history: &History) -> Option<Started> {
    last(history, |seen| match seen {
        Seen::Started(started) if started.log.len() > 3 && started.term > Term(1) => Some(started.clone()),
        _ => None,
    })
}

fn at_last_decided(history: History, bend: impl Fn(&mut Decided) -> bool) -> Option<History> {
    at_last(history, |seen| match seen {
        Seen::Decided(decided) => bend(decided),
        _ => false,
    })
}

fn at_last_told(history: History, bend: impl Fn(&mut Vec<conclave_proto::mvccpb::Event>) -> bool) -> Option<History> {
    at_last(history, |seen| match seen {
        Seen::Watch(_, Watch::Told { events, .. }) => bend(events),
        _ => false,
    })
}

const RAFT: &[(&str, &str, Bend)] = &[
    ("R1", "another member leads the same term", |history| {
        let (member, standing) = leader(&history)?;
        and_then(history, [Seen::Standing(MemberId(member.0 % 3 + 1), standing)])
    }),
    ("R2", "a leader writes its last entry again", |history| {
        let (member, standing) = leader(&history)?;
        let own = last(&history, |seen| match seen {
            Seen::Logged(who, slots) if *who == member && slots[0].term == standing.term => Some(slots.clone()),
            _ => None,
        })?;
        and_then(history, [Seen::Standing(member, standing), Seen::Logged(member, own)])
    }),
    ("R3", "an entry differs on one member", |history| {
        at_last(history, |seen| match seen {
            Seen::Logged(_, slots) => {
                slots[0].digest ^= 1;
                true
            }
            _ => false,
        })
    }),
    ("R3", "an entry is left out of a log", |history| {
        at_last(history, |seen| match seen {
            Seen::Logged(_, slots) if slots.len() > 1 => {
                slots.remove(0);
                slots[0].index.0 += 1;
                true
            }
            _ => false,
        })
    }),
    ("R3", "entries are sent under a later index", |history| {
        at_last(history, |seen| match seen {
            Seen::Sent(message) if message.kind == MessageKind::Append && !message.entries.is_empty() => {
                message.index.0 += 1;
                true
            }
            _ => false,
        })
    }),
    ("R4", "a member without the last entry leads", |history| {
        let started = started(&history)?;
        let base = (LogIndex(0), Term(0));
        let empty = Started { base, log: Vec::new(), ..started.clone() };
        let standing = Standing { leading: true, term: Term(9_999), ..Standing::default() };
        and_then(history, [Seen::Started(empty), Seen::Standing(started.member, standing)])
    }),
    ("R5", "an entry had another outcome on one member", |history| {
        at_last(history, |seen| match seen {
            Seen::Applied(_, _, outcome) => {
                *outcome ^= 1;
                true
            }
            _ => false,
        })
    }),
    ("R5", "a member applied another entry", |history| {
        at_last(history, |seen| match seen {
            Seen::Applied(_, slot, _) => {
                slot.digest ^= 1;
                true
            }
            _ => false,
        })
    }),
    ("R5", "a member left out an entry", |mut history| {
        let place = history.iter().position(|seen| matches!(seen, Seen::Applied(..)))?;
        history.remove(place);
        Some(history)
    }),
    ("R6", "a term goes back", |history| {
        let started = started(&history)?;
        and_then(history, [Seen::Started(Started { term: Term(1), vote: None, ..started })])
    }),
    ("R6", "a vote is forgotten", |history| {
        let (vote, started) = (last(&history, vote)?, started(&history)?);
        let (member, term, _) = vote;
        and_then(history, [Seen::Started(Started { member, term, vote: None, ..started })])
    }),
    ("R6", "a member votes twice", |history| {
        let message = last(&history, |seen| match seen {
            Seen::Sent(message) if vote(seen).is_some() => Some(message.clone()),
            _ => None,
        });
        let mut again = message?;
        again.to = MemberId(again.to.0 % 3 + 1);
        and_then(history, [Seen::Sent(again)])
    }),
    ("R6", "an acknowledged entry is gone", |history| {
        let (member, term) = last(&history, |seen| match seen {
            Seen::Sent(message) if message.kind == MessageKind::AppendResponse && !message.reject => {
                Some((message.from, message.term))
            }
            _ => None,
        })?;
        let vote = last(&history, |seen| vote(seen).filter(|(who, when, _)| (*who, *when) == (member, term)));
        let started = started(&history)?;
        let vote = vote.map(|(_, _, to)| to).or(Some(MemberId(1)));
        let base = (LogIndex(0), Term(0));
        and_then(history, [Seen::Started(Started { member, term, vote, base, log: Vec::new(), ..started })])
    }),
    ("R8", "a leader counts an entry of an earlier term", |history| {
        let started = started(&history)?;
        let leads = |commit| Standing { leading: true, term: Term(9_999), commit, ..Standing::default() };
        let (member, first, last) = (started.member, started.log[0].index, started.log[1].index);
        let more = [leads(first), leads(last)].map(|standing| Seen::Standing(member, standing));
        and_then(history, [Seen::Started(started)].into_iter().chain(more))
    }),
    ("R9", "one disk is said to be enough", |history| {
        at_last(history, |seen| match seen {
            Seen::Stored { holders, .. } => {
                *holders = 1;
                true
            }
            _ => false,
        })
    }),
    ("R11", "a member with a rotten log acknowledges", |mut history| {
        let place = history.iter().rposition(|seen| vote(seen).is_some())?;
        let (member, _, _) = vote(&history[place])?;
        history.insert(place, Seen::Damaged(member));
        Some(history)
    }),
    ("R10", "a store has a key more", |history| restored(history, |kvs, _| kvs.push(KeyValue::default()))),
    ("R10", "a store has a lease more", |history| {
        restored(history, |_, leases| {
            leases.push((conclave_server::types::LeaseId(77), Grant { ttl_ms: 1, index: LogIndex(1) }))
        })
    }),
];

fn vote(seen: &Seen) -> Option<(MemberId, Term, MemberId)> {
    match seen {
        Seen::Sent(message) if message.kind == MessageKind::RequestVoteResponse && !message.reject => {
            Some((message.from, message.term, message.to))
        }
        _ => None,
    }
}

fn restored(
    history: History,
    bend: impl Fn(&mut Vec<KeyValue>, &mut Vec<(conclave_server::types::LeaseId, Grant)>),
) -> Option<History> {
    at_last(history, |seen| match seen {
        Seen::Restored(found) if found.applied > LogIndex(0) => {
            bend(&mut found.kvs, &mut found.leases);
            true
        }
        _ => false,
    })
}

const KEYS: &[(&str, &str, Bend)] = &[
    ("K1", "a write is answered with another revision", |history| {
        at_last(history, |seen| match seen {
            Seen::Answered(_, Answer::Write { revision, .. }) => {
                revision.0 += 1;
                true
            }
            _ => false,
        })
    }),
    ("K1", "a read finds a key less", |history| {
        at_last(history, |seen| match seen {
            Seen::Answered(_, Answer::Read { kvs, .. }) => kvs.pop().is_some(),
            _ => false,
        })
    }),
    ("K1", "a linearizable read is old, though true", |history| {
        let range = conclave_server::mvcc::KeyRange::From(Bytes::from_static(b"\0"));
        let call = Seen::Called(u64::MAX, Call::Read { range, linearizable: true });
        let old = Seen::Answered(u64::MAX, Answer::Read { revision: Revision(1), kvs: Vec::new() });
        and_then(history, [call, old])
    }),
    ("K1", "a request is answered twice", |history| {
        let answered = last(&history, |seen| matches!(seen, Seen::Answered(..)).then(|| seen.clone()))?;
        and_then(history, [answered])
    }),
    ("K2", "a member settles without a key", |history| {
        at_last(history, |seen| match seen {
            Seen::Settled(found) => found.kvs.pop().is_some(),
            _ => false,
        })
    }),
    ("K2", "a member settles at an earlier entry", |history| {
        at_last(history, |seen| match seen {
            Seen::Settled(found) => {
                found.applied = LogIndex(1);
                true
            }
            _ => false,
        })
    }),
    ("K3", "a change makes no revision", |history| {
        at_last_decided(history, |decided| {
            decided.revision.0 -= 1;
            !decided.changes.is_empty()
        })
    }),
    ("K4", "a transaction makes changes of two revisions", |history| {
        at_last_decided(history, |decided| {
            let several = decided.changes.len() > 1;
            if let Some(change) = decided.changes.first_mut().filter(|_| several) {
                change.kv.mod_revision -= 1;
            }
            several
        })
    }),
    ("K4", "a transaction takes the other branch", |history| {
        at_last_decided(history, |decided| match &mut decided.reply {
            Ok(Reply::Txn(txn)) => {
                txn.succeeded = !txn.succeeded;
                true
            }
            _ => false,
        })
    }),
    ("K5", "a version is not counted", |history| {
        at_last_decided(history, |decided| {
            decided.changes.iter_mut().any(|change| {
                change.kv.version += 1;
                true
            })
        })
    }),
    ("K5", "what was replaced is another value", |history| {
        at_last_decided(history, |decided| {
            let mut prev = decided.changes.iter_mut().filter_map(|change| change.prev.as_mut());
            prev.any(|prev| {
                prev.value = Bytes::from_static(b"another");
                true
            })
        })
    }),
    ("K6", "a compaction takes a version too much", |history| {
        at_last(history, |seen| match seen {
            Seen::Past(read) => read.found.as_mut().is_ok_and(|found| found.pop().is_some()),
            _ => false,
        })
    }),
    ("K6", "a read is refused without a compaction", |history| {
        at_last(history, |seen| match seen {
            Seen::Past(read) if read.found.is_ok() => {
                read.found = Err(Error::Compacted);
                true
            }
            _ => false,
        })
    }),
    ("K7", "one member hashes otherwise", |history| {
        at_last(history, |seen| match seen {
            Seen::Hashed { hash, .. } => {
                *hash ^= 1;
                true
            }
            _ => false,
        })
    }),
    ("K8", "a request executes twice", |history| {
        let mut twice = last(&history, |seen| match seen {
            Seen::Decided(decided) if matches!(decided.reply, Ok(Reply::Put(_))) => Some((**decided).clone()),
            _ => None,
        })?;
        let mut truth = truth(&history);
        twice.slot.index = truth.applied().next();
        truth.decide(&twice).ok()?;
        let expected = truth.last()?.expected.clone();
        (twice.reply, twice.revision, twice.changes) = (expected.reply, expected.revision, expected.changes);
        (!twice.changes.is_empty()).then_some(())?;
        and_then(history, [Seen::Decided(Box::new(twice))])
    }),
    ("K8", "a refused request executes", |mut history| {
        let place = history
            .iter()
            .position(|seen| matches!(seen, Seen::Answered(_, Answer::Write { reply: Ok(Reply::Put(_)), .. })))?;
        let Seen::Answered(op, _) = history[place] else { return None };
        history[place] = Seen::Refused(op);
        Some(history)
    }),
];

const WATCHES: &[(&str, &str, Bend)] = &[
    ("W1", "events come in another order", |history| {
        at_last_told(history, |events| {
            let several = events.len() > 1 && event_revision(&events[0]) != event_revision(&events[events.len() - 1]);
            events.reverse();
            several
        })
    }),
    ("W1", "a header is older than its events", |history| {
        at_last(history, |seen| match seen {
            Seen::Watch(_, Watch::Told { revision, .. }) => {
                *revision = Revision(1);
                true
            }
            _ => false,
        })
    }),
    ("W2", "an event comes twice", |history| {
        let told = last(&history, |seen| matches!(seen, Seen::Watch(_, Watch::Told { .. })).then(|| seen.clone()))?;
        and_then(history, [told])
    }),
    ("W3", "an event is left out", |history| {
        at_last_told(history, |events| {
            let several = events.len() > 1;
            if several {
                events.remove(0);
            }
            several
        })
    }),
    ("W3", "an event tells another value", |history| {
        at_last_told(history, |events| {
            events[0].kv.as_mut().is_some_and(|kv| {
                kv.value = Bytes::from_static(b"another");
                true
            })
        })
    }),
    ("W3", "a compaction is told that was not made", |history| {
        let watcher = last(&history, |seen| match seen {
            Seen::Watch(watcher, Watch::Told { .. }) => Some(*watcher),
            _ => None,
        })?;
        and_then(history, [Seen::Watch(watcher, Watch::Compacted { compacted: Revision(i64::MAX) })])
    }),
    ("W4", "a revision comes in two responses", |mut history| {
        let place = history.iter().rposition(|seen| {
            matches!(seen, Seen::Watch(_, Watch::Told { events, .. })
                if events.windows(2).any(|two| event_revision(&two[0]) == event_revision(&two[1])))
        })?;
        let Seen::Watch(watcher, Watch::Told { revision, mut events }) = history.remove(place) else { return None };
        let split = events.windows(2).position(|two| event_revision(&two[0]) == event_revision(&two[1]))? + 1;
        let rest = events.split_off(split);
        history.insert(place, Seen::Watch(watcher, Watch::Told { revision, events }));
        history.insert(place + 1, Seen::Watch(watcher, Watch::Told { revision, events: rest }));
        Some(history)
    }),
    ("W5", "a watcher that went on is told of what was before", |mut history| {
        let opened = history
            .iter()
            .rposition(|seen| matches!(seen, Seen::Watch(_, Watch::Opened { start, .. }) if start.0 > 0))?;
        let told = last(&history, |seen| matches!(seen, Seen::Watch(_, Watch::Told { .. })).then(|| seen.clone()))?;
        let (Seen::Watch(_, told), Seen::Watch(watcher, _)) = (told, history[opened].clone()) else { return None };
        if let Seen::Watch(_, Watch::Opened { start, .. }) = &mut history[opened] {
            *start = Revision(i64::MAX);
        }
        history.insert(opened + 1, Seen::Watch(watcher, told));
        Some(history)
    }),
    ("W6", "progress passes what was not told", |mut history| {
        let place = history.iter().rposition(|seen| matches!(seen, Seen::Watch(_, Watch::Told { .. })))?;
        let Seen::Watch(watcher, Watch::Told { revision, .. }) = history[place].clone() else { return None };
        history.insert(place, Seen::Watch(watcher, Watch::Progress { revision }));
        Some(history)
    }),
    ("L1", "a lease is expired the moment it was renewed", |history| {
        let (place, id, clocks) = history.iter().enumerate().find_map(|(place, seen)| match seen {
            Seen::Decided(decided) if matches!(decided.reply, Ok(Reply::LeaseRevoke(_))) => {
                let truth = truth(&history[..=place].to_vec());
                let entry = truth.last()?.entry.clone()?;
                match entry.command?.kind? {
                    Kind::LeaseRevoke(revoke) if revoke.expired => Some((place, revoke.id, decided.clocks.clone())),
                    _ => None,
                }
            }
            _ => None,
        })?;
        let lease = conclave_server::types::LeaseId(id);
        let mut history = history;
        history.insert(place, Seen::Renewed(Renewed { lease, ttl_ms: 2_000, called: clocks }));
        Some(history)
    }),
    ("L2", "a key survives its lease", |history| {
        at_last_decided(history, |decided| {
            matches!(decided.reply, Ok(Reply::LeaseRevoke(_))) && decided.changes.pop().is_some()
        })
    }),
];

fn verdict(mut judge: Judge, history: &History) -> Result<(), String> {
    history.iter().try_for_each(|seen| judge.see(seen))
}

#[test]
fn true_histories_are_accepted_and_bent_ones_are_not() {
    let histories = histories();
    for history in &histories {
        assert_eq!(verdict(Judge::new(), history), Ok(()), "a history as it was");
    }
    let mut refused = 0;
    for (family, what, bend) in RAFT.iter().chain(KEYS).chain(WATCHES) {
        let bent: Vec<_> = histories.iter().filter_map(|history| bend(history.clone())).collect();
        assert!(!bent.is_empty(), "{family}: no history can be bent so that {what}");
        for history in &bent {
            let verdict = verdict(Judge::of(&format!("{family} ")), history);
            assert!(verdict.is_err(), "{family} accepts that {what}");
            refused += 1;
        }
    }
    println!("{refused} bent histories refused, {} accepted as they were", histories.len());
}
