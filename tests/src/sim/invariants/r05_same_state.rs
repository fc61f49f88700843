//! R5: state machine safety. At each index every member applies the same entry, with the same outcome, in every life.

use std::collections::BTreeMap;

use conclave_server::types::{LogIndex, MemberId};

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct SameState {
    outcomes: BTreeMap<LogIndex, u32>,
    applied: BTreeMap<MemberId, LogIndex>,
}

impl Invariant for SameState {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        match seen {
            Seen::Started(started) => {
                self.applied.insert(started.member, started.applied);
            }
            Seen::Installed(member, index) => {
                let before = self.applied.insert(*member, *index).unwrap_or_default();
                must(*index > before, || format!("m{member} went from {before} back to {index}"))?;
            }
            Seen::Applied(member, slot, outcome) => {
                let before = self.applied.insert(*member, slot.index).unwrap_or_default();
                must(slot.index == before.next(), || format!("m{member} applied {} after {before}", slot.index))?;
                let decided = truth.at(slot.index).map(|decided| decided.slot);
                must(decided.is_none_or(|decided| decided == *slot), || {
                    format!(
                        "m{member} applied another entry {} than was applied before: {slot:?}, {decided:?}",
                        slot.index
                    )
                })?;
                let known = *self.outcomes.entry(slot.index).or_insert(*outcome);
                must(known == *outcome, || format!("entry {} had another outcome on m{member}", slot.index))?;
            }
            _ => {}
        }
        Ok(())
    }
}
