//! R11: a member whose log lost what was synced neither votes nor acknowledges: it does not know any more what it promised.

use std::collections::BTreeSet;

use conclave_server::{node::MessageKind, types::MemberId};

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct RottenIsSilent(BTreeSet<MemberId>);

impl Invariant for RottenIsSilent {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        match seen {
            Seen::Damaged(member) => drop(self.0.insert(*member)),
            // With the whole state of another member it has a log again that it knows.
            Seen::Installed(member, _) => drop(self.0.remove(member)),
            Seen::Sent(message) if !message.reject && self.0.contains(&message.from) => {
                let promises = matches!(
                    message.kind,
                    MessageKind::AppendResponse | MessageKind::RequestVote | MessageKind::RequestVoteResponse
                );
                must(!promises, || format!("m{} with a rotten log says {:?}", message.from, message.kind))?;
            }
            _ => {}
        }
        Ok(())
    }
}
