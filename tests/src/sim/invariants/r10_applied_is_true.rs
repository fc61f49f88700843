//! R10: the applied index on disk and the effects on disk are of one moment: a store that says that it applied up to an
//! index holds exactly what the entries up to there do.

use bytes::Bytes;
use conclave_server::{mvcc::KeyRange, types::LogIndex};

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct AppliedIsTrue;

impl Invariant for AppliedIsTrue {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        let Seen::Restored(found) = seen else { return Ok(()) };
        let (member, applied) = (found.member, found.applied);
        if applied == LogIndex(0) {
            return Ok(());
        }
        let Some(decided) = truth.at(applied) else {
            return Err(format!("m{member} says that it applied {applied}, which nobody did"));
        };
        must(found.position == decided.position, || {
            format!("m{member} applied {applied} and stands at {:?}, not at {:?}", found.position, decided.position)
        })?;
        let everything = KeyRange::From(Bytes::from_static(b"\0"));
        must(found.kvs == truth.read(&everything, decided.position.revision), || {
            format!("m{member} says that it applied {applied}, but holds other keys than that makes")
        })?;
        must(found.leases == decided.leases, || {
            format!("m{member} says that it applied {applied}, but holds other leases than that makes")
        })
    }
}
