//! W5: a watcher that opens again where it stood, on any member, is told what comes next there: nothing from before.

use std::collections::BTreeMap;

use conclave_server::types::Revision;

use super::{Invariant, Seen, Truth, Verdict, must};
use crate::sim::seen::{Watch, WatcherId, event_revision};

#[derive(Default)]
pub(super) struct Resumable(BTreeMap<WatcherId, Revision>);

impl Invariant for Resumable {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        match seen {
            Seen::Watch(watcher, Watch::Opened { start, .. }) => drop(self.0.insert(*watcher, *start)),
            Seen::Watch(watcher, Watch::Told { events, .. }) => {
                let start = self.0.get(watcher).copied().unwrap_or_default();
                for event in events {
                    let at = event_revision(event);
                    must(at >= start, || format!("watcher {watcher} went on at {start} and is told of {at}"))?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
