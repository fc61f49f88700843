//! K3: each request that changed something makes the next revision, and nothing else moves it, forwards or back.

use conclave_server::types::Revision;

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct Revisions(Option<Revision>);

impl Invariant for Revisions {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        let Seen::Decided(decided) = seen else { return Ok(()) };
        let before = self.0.unwrap_or(Revision::FIRST);
        let index = decided.slot.index;
        let expected = &truth.at(index).expect("it was just decided").expected;
        if expected.repeated {
            return must(decided.changes.is_empty(), || format!("entry {index} repeats, and changes something"));
        }
        let due = if decided.changes.is_empty() { before } else { before.next() };
        self.0 = Some(due);
        must(decided.revision == due, || format!("entry {index} came to revision {} after {before}", decided.revision))
    }
}
