//! W4: a revision is never split: what one response leaves out of a revision no later one brings.

use std::collections::BTreeMap;

use conclave_server::types::Revision;

use super::{Invariant, Seen, Truth, Verdict, must};
use crate::sim::seen::{Watch, WatcherId, event_revision};

#[derive(Default)]
pub(super) struct AtomicRevisions(BTreeMap<WatcherId, Revision>);

impl Invariant for AtomicRevisions {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        let Seen::Watch(watcher, Watch::Told { events, .. }) = seen else { return Ok(()) };
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(()) };
        let before = self.0.insert(*watcher, event_revision(last)).unwrap_or_default();
        must(event_revision(first) > before, || format!("watcher {watcher}: revision {before} comes in two responses"))
    }
}
