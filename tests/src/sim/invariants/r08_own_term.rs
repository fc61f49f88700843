//! R8: a leader commits by counting only entries of its own term (Raft paper, section 5.4.2).

use std::collections::BTreeMap;

use conclave_server::{node::Standing, types::MemberId};

use super::{Invariant, Seen, Truth, Verdict, logs::Logs, must};

#[derive(Default)]
pub(super) struct OwnTerm {
    standing: BTreeMap<MemberId, Standing>,
    logs: Logs,
}

impl Invariant for OwnTerm {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        self.logs.follow(seen);
        match seen {
            Seen::Started(started) => drop(self.standing.remove(&started.member)),
            Seen::Standing(member, now) => {
                let before = self.standing.insert(*member, *now).unwrap_or_default();
                let led = before.leading && now.leading && before.term == now.term;
                if led && now.commit > before.commit {
                    let term = self.logs.look(*member).and_then(|log| log.term(now.commit));
                    must(term == Some(now.term), || {
                        format!("m{member} in term {} counted entry {} of term {term:?}", now.term, now.commit)
                    })?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
