//! L2: the end of a lease deletes all keys that hang on it, in one revision, and nothing else.

use std::collections::BTreeSet;

use conclave_server::{mvcc::Kind, state::Reply};

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct Whole;

impl Invariant for Whole {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        let Seen::Decided(decided) = seen else { return Ok(()) };
        if !matches!(decided.reply, Ok(Reply::LeaseRevoke(_))) {
            return Ok(());
        }
        let attached: BTreeSet<_> = truth.at(decided.slot.index).expect("just decided").attached.iter().collect();
        let deleted: BTreeSet<_> = decided.changes.iter().map(|change| &change.kv.key).collect();
        let whole = attached == deleted && decided.changes.iter().all(|change| change.kind == Kind::Delete);
        must(whole, || format!("the lease of entry {} had {attached:?}, and {deleted:?} went", decided.slot.index))
    }
}
