//! The log of each member as raft has it there, pieced together from what was handed to its disk.

use std::collections::BTreeMap;

use conclave_server::types::{LogIndex, MemberId, Term};

use super::super::seen::{Seen, Slot};

/// One member's log. `base` is in front of its first entry.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) base: (LogIndex, Term),
    pub(super) slots: Vec<Slot>,
}

impl View {
    pub(super) fn last(&self) -> LogIndex {
        self.slots.last().map_or(self.base.0, |slot| slot.index)
    }

    pub(super) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.0 { Some(self.base.1) } else { self.at(index).map(|slot| slot.term) }
    }

    pub(super) fn at(&self, index: LogIndex) -> Option<&Slot> {
        let place = index.0.checked_sub(self.base.0.0 + 1)?;
        self.slots.get(usize::try_from(place).ok()?)
    }

    fn take(&mut self, slots: &[Slot]) {
        let Some(first) = slots.first() else { return };
        let keep = first.index.0.saturating_sub(self.base.0.0 + 1);
        self.slots.truncate(usize::try_from(keep).expect("a log in memory"));
        self.slots.extend_from_slice(slots);
    }
}

#[derive(Debug, Default)]
pub(super) struct Logs(BTreeMap<MemberId, View>);

impl Logs {
    /// To be called behind whoever compares what comes with what was there.
    pub(super) fn follow(&mut self, seen: &Seen) {
        match seen {
            Seen::Started(started) => {
                self.0.insert(started.member, View { base: started.base, slots: started.log.clone() });
            }
            Seen::LogBegins(member, base) => {
                self.0.insert(*member, View { base: *base, slots: Vec::new() });
            }
            Seen::Logged(member, slots) => self.0.entry(*member).or_default().take(slots),
            _ => {}
        }
    }

    pub(super) fn of(&self, member: MemberId) -> View {
        self.0.get(&member).cloned().unwrap_or_default()
    }

    pub(super) fn look(&self, member: MemberId) -> Option<&View> {
        self.0.get(&member)
    }
}
