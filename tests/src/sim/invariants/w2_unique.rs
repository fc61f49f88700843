//! W2: a watcher is told each change once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use conclave_server::types::Revision;

use super::{Invariant, Seen, Truth, Verdict, must};
use crate::sim::seen::{Watch, WatcherId, event_revision};

#[derive(Default)]
pub(super) struct Unique(BTreeMap<WatcherId, BTreeSet<(Revision, Bytes)>>);

impl Invariant for Unique {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        let Seen::Watch(watcher, Watch::Told { events, .. }) = seen else { return Ok(()) };
        let told = self.0.entry(*watcher).or_default();
        for event in events {
            let key = event.kv.as_ref().map(|kv| kv.key.clone()).unwrap_or_default();
            let at = event_revision(event);
            must(told.insert((at, key.clone())), || format!("watcher {watcher} is told twice of {key:?} at {at}"))?;
        }
        Ok(())
    }
}
