//! K2: whatever was answered is still there when everything has calmed down, whatever lost its power meanwhile.

use bytes::Bytes;
use conclave_server::{
    mvcc::KeyRange,
    types::{LogIndex, Revision},
};

use super::{Invariant, Seen, Truth, Verdict, must};
use crate::sim::seen::Answer;

#[derive(Default)]
pub(super) struct Durable {
    index: LogIndex,
    revision: Revision,
}

impl Invariant for Durable {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        match seen {
            Seen::Answered(_, Answer::Write { index, revision, .. }) => {
                self.index = self.index.max(*index);
                self.revision = self.revision.max(*revision);
                Ok(())
            }
            Seen::Answered(_, Answer::Read { revision, .. }) => {
                self.revision = self.revision.max(*revision);
                Ok(())
            }
            Seen::Settled(found) => {
                let (member, at) = (found.member, found.position.revision);
                must(found.applied >= self.index && at >= self.revision, || {
                    format!(
                        "m{member} settled at entry {} and revision {at}, but {} and {} were answered",
                        found.applied, self.index, self.revision
                    )
                })?;
                let everything = KeyRange::From(Bytes::from_static(b"\0"));
                must(found.kvs == truth.read(&everything, at), || format!("m{member} settled with other keys"))
            }
            _ => Ok(()),
        }
    }
}
