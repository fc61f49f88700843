//! R1: a term has at most one leader (Raft paper, figure 3: election safety).

use std::collections::BTreeMap;

use conclave_server::types::{MemberId, Term};

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct OneLeader(BTreeMap<Term, MemberId>);

impl Invariant for OneLeader {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        let Seen::Standing(member, standing) = seen else { return Ok(()) };
        if !standing.leading {
            return Ok(());
        }
        let known = *self.0.entry(standing.term).or_insert(*member);
        must(known == *member, || format!("m{known} and m{member} both lead term {}", standing.term))
    }
}
