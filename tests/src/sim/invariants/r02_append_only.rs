//! R2: a leader never overwrites or deletes entries of its own log, it only appends (Raft paper, figure 3).

use std::collections::BTreeMap;

use conclave_server::types::{MemberId, Term};

use super::{Invariant, Seen, Truth, Verdict, logs::Logs, must};

#[derive(Default)]
pub(super) struct AppendOnly {
    leads: BTreeMap<MemberId, Term>,
    logs: Logs,
}

impl Invariant for AppendOnly {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        match seen {
            Seen::Standing(member, standing) if standing.leading => drop(self.leads.insert(*member, standing.term)),
            Seen::Standing(member, _) | Seen::Died(member) => drop(self.leads.remove(member)),
            Seen::Logged(member, slots) => {
                if let (Some(term), Some(first), Some(log)) =
                    (self.leads.get(member), slots.first(), self.logs.look(*member))
                {
                    // Entries of an earlier term were taken as a follower, in the step in which it was elected.
                    let own = first.term == *term;
                    must(!own || first.index > log.last(), || {
                        format!("m{member} leads term {term} and replaces entry {} of its log", first.index)
                    })?;
                }
            }
            _ => {}
        }
        self.logs.follow(seen);
        Ok(())
    }
}
