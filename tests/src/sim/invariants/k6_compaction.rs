//! K6: a compaction keeps the newest version at its revision and all later ones; a read below it is refused as compacted on
//! every member alike, a read at or above it is as if nothing had been compacted.

use conclave_server::error::Error;

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct Compaction;

impl Invariant for Compaction {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        let Seen::Past(read) = seen else { return Ok(()) };
        let (at, compacted) = (read.revision, read.compacted);
        must(compacted <= truth.position().compacted, || format!("compacted at {compacted}, which nobody asked for"))?;
        match &read.found {
            Ok(found) => must(at >= compacted && *found == truth.read(&read.range, at), || {
                format!("a read of {:?} at {at}, compacted at {compacted}, found {found:?}", read.range)
            }),
            Err(Error::Compacted) => must(at < compacted, || format!("{at} was refused, compacted at {compacted}")),
            Err(other) => Err(format!("a read of the past ended in {other}")),
        }
    }
}
