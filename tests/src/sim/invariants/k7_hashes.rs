//! K7: members that stand at the same revision, compacted alike, have the same hash.

use std::collections::BTreeMap;

use conclave_server::types::Revision;

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct Hashes(BTreeMap<(Revision, Revision), u32>);

impl Invariant for Hashes {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        let Seen::Hashed { member, revision, compacted, hash } = seen else { return Ok(()) };
        let known = *self.0.entry((*revision, *compacted)).or_insert(*hash);
        must(known == *hash, || format!("m{member} hashes otherwise at {revision}, compacted at {compacted}"))
    }
}
