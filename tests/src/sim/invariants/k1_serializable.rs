//! K1: strict serializability, anchored in revisions. Each answer is what the model says at its revision; and in real time
//! the revision of an answer is not below the largest that was answered before its request began, above it if it made a
//! revision itself. Serializable reads may be old, but are true at their revision.

use std::collections::BTreeMap;

use conclave_server::types::Revision;

use super::{Invariant, Seen, Truth, Verdict, must};
use crate::sim::seen::{Answer, Call, Op};

#[derive(Default)]
pub(super) struct Serializable {
    /// What had been answered when the request began.
    open: BTreeMap<Op, (Call, Revision)>,
    answered: Revision,
}

impl Serializable {
    fn answered(&mut self, op: Op, answer: &Answer, truth: &Truth) -> Verdict {
        let Some((call, floor)) = self.open.remove(&op) else {
            return Err(format!("op {op} was answered, but not asked or answered before"));
        };
        match (answer, &call) {
            (Answer::Write { index, reply, revision }, Call::Write { .. }) => {
                let Some(decided) = truth.at(*index) else {
                    return Err(format!("op {op} was answered with entry {index}, which nobody applied"));
                };
                let expected = &decided.expected;
                must(*reply == expected.reply && *revision == expected.revision, || {
                    format!("op {op}, entry {index}, was answered {reply:?} at {revision}, not {expected:?}")
                })?;
                let late = if expected.made { *revision > floor } else { *revision >= floor };
                must(late, || format!("op {op} took effect at {revision}, but {floor} was answered before it began"))?;
                self.answered = self.answered.max(*revision);
                Ok(())
            }
            (Answer::Read { revision, kvs }, Call::Read { range, linearizable }) => {
                must(*kvs == truth.read(range, *revision), || {
                    format!("op {op} read {range:?} at {revision} and found {kvs:?}")
                })?;
                must(!linearizable || *revision >= floor, || {
                    format!("op {op} read at {revision}, but {floor} was answered before it began")
                })?;
                if *linearizable {
                    self.answered = self.answered.max(*revision);
                }
                Ok(())
            }
            _ => Err(format!("op {op} was answered with {answer:?}")),
        }
    }
}

impl Invariant for Serializable {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        match seen {
            Seen::Called(op, call) => {
                self.open.insert(*op, (call.clone(), self.answered));
                Ok(())
            }
            Seen::Lost(op) | Seen::Refused(op) => {
                self.open.remove(op);
                Ok(())
            }
            Seen::Answered(op, answer) => self.answered(*op, answer, truth),
            _ => Ok(()),
        }
    }
}
