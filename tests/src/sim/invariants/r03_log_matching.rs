//! R3: if two logs hold an entry with the same index and term, they are identical up to it (Raft paper, figure 3). By
//! induction: such an entry has the same data everywhere, and the entry in front of it the same term.

use std::collections::{BTreeMap, BTreeSet};

use conclave_server::{
    node::MessageKind,
    types::{LogIndex, MemberId, Term},
};

use super::{
    Invariant, Seen, Truth, Verdict,
    logs::{Logs, View},
    must,
};
use crate::sim::seen::{Slot, Started};

#[derive(Default)]
pub(super) struct LogMatching {
    known: BTreeMap<(LogIndex, Term), Known>,
    logs: Logs,
}

struct Known {
    digest: u32,
    /// The term in front.
    before: Term,
    /// Whose log has it. What a process had in memory only dies with it: a sole voter leads before its vote is synced,
    /// and may lead the same term again.
    holders: BTreeSet<MemberId>,
}

impl LogMatching {
    /// What the member had and its disk has not.
    fn forget(&mut self, started: &Started) {
        let has = |index: LogIndex, term| {
            let place = index.0.checked_sub(started.base.0.0 + 1).and_then(|place| usize::try_from(place).ok());
            place.and_then(|place| started.log.get(place)).is_some_and(|slot| slot.term == term)
        };
        self.known.retain(|(index, term), known| {
            if *index > started.base.0 && !has(*index, *term) {
                known.holders.remove(&started.member);
            }
            !known.holders.is_empty()
        });
    }

    fn check(&mut self, member: MemberId, before: Option<Term>, slots: &[Slot]) -> Verdict {
        let mut before = before;
        for slot in slots {
            if let Some(prev) = before {
                let new = || Known { digest: slot.digest, before: prev, holders: BTreeSet::new() };
                let known = self.known.entry((slot.index, slot.term)).or_insert_with(new);
                must((known.digest, known.before) == (slot.digest, prev), || {
                    format!("entry {} of term {} is another one on m{member} than before", slot.index, slot.term)
                })?;
                known.holders.insert(member);
            }
            before = Some(slot.term);
        }
        Ok(())
    }
}

impl Invariant for LogMatching {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        match seen {
            Seen::Started(started) => {
                self.forget(started);
                self.check(started.member, Some(started.base.1), &started.log)?;
            }
            Seen::Logged(member, slots) => {
                let Some(first) = slots.first() else { return Ok(()) };
                let log = self.logs.look(*member).cloned().unwrap_or_else(View::default);
                must(first.index <= log.last().next() && first.index > log.base.0, || {
                    format!("m{member} logs entry {} into a log from {} to {}", first.index, log.base.0, log.last())
                })?;
                self.check(*member, log.term(LogIndex(first.index.0 - 1)), slots)?;
            }
            // What the log is matched by must say where the entries go: raft-rs once sent entries under a later index.
            Seen::Sent(message) if message.kind == MessageKind::Append => {
                let follow = (message.index.0 + 1..).zip(&message.entries).all(|(due, entry)| entry.index.0 == due);
                must(follow, || {
                    format!("m{} appends entries behind {} that do not follow it", message.from, message.index)
                })?;
            }
            _ => {}
        }
        self.logs.follow(seen);
        Ok(())
    }
}
