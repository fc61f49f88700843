//! W1: a watcher is told changes in the order of their revisions.

use std::collections::BTreeMap;

use conclave_server::types::Revision;

use super::{Invariant, Seen, Truth, Verdict, must};
use crate::sim::seen::{Watch, WatcherId, event_revision};

#[derive(Default)]
pub(super) struct Ordered(BTreeMap<WatcherId, Revision>);

impl Invariant for Ordered {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        let Seen::Watch(watcher, Watch::Told { revision, events }) = seen else { return Ok(()) };
        let last = self.0.entry(*watcher).or_default();
        for event in events {
            let at = event_revision(event);
            must(at >= *last, || format!("watcher {watcher} is told of {at} after {last}"))?;
            *last = at;
        }
        must(*last <= *revision, || format!("watcher {watcher}: a header at {revision} for events up to {last}"))
    }
}
