//! R4: an entry that was committed is in the log of every later leader (Raft paper, figure 3: leader completeness).

use std::collections::BTreeMap;

use conclave_server::types::{MemberId, Term};

use super::{Invariant, Seen, Truth, Verdict, logs::Logs, must};

#[derive(Default)]
pub(super) struct Completeness {
    leads: BTreeMap<MemberId, Term>,
    logs: Logs,
}

impl Invariant for Completeness {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        self.logs.follow(seen);
        let Seen::Standing(member, standing) = seen else { return Ok(()) };
        if !standing.leading || self.leads.insert(*member, standing.term) == Some(standing.term) {
            return Ok(());
        }
        let log = self.logs.of(*member);
        let mut index = log.base.0.next();
        // What was cut away in front was applied, and R5 sees to it.
        while index <= truth.applied() {
            let decided = truth.at(index).expect("up to the last").slot;
            must(decided.term > standing.term || log.at(index) == Some(&decided), || {
                format!("m{member} leads term {} without entry {index} of term {}", standing.term, decided.term)
            })?;
            index = index.next();
        }
        Ok(())
    }
}
