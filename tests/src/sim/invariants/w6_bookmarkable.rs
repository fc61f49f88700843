//! W6: after progress at a revision nothing at or below it comes, and all that was owed up to there has come.

use std::collections::BTreeMap;

use conclave_server::{mvcc::KeyRange, types::Revision};

use super::{Invariant, Seen, Truth, Verdict, must};
use crate::sim::seen::{Watch, WatcherId, event_revision};

#[derive(Default)]
pub(super) struct Bookmarkable(BTreeMap<WatcherId, Place>);

#[derive(Default)]
struct Place {
    range: Option<KeyRange>,
    told: Revision,
    progress: Revision,
}

impl Invariant for Bookmarkable {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        let Seen::Watch(watcher, watch) = seen else { return Ok(()) };
        let place = self.0.entry(*watcher).or_default();
        match watch {
            Watch::Opened { range, start, .. } => {
                *place = Place {
                    range: Some(range.clone()),
                    told: place.told.max(Revision((start.0 - 1).max(0))),
                    progress: place.progress,
                };
            }
            Watch::Created { revision } if place.told == Revision(0) => place.told = *revision,
            Watch::Told { events, .. } => {
                for event in events {
                    let at = event_revision(event);
                    must(at > place.progress, || {
                        format!("watcher {watcher} is told of {at} after progress at {}", place.progress)
                    })?;
                    place.told = place.told.max(at);
                }
            }
            Watch::Progress { revision } => {
                let owed = place.range.as_ref().and_then(|range| truth.changes(range, place.told.next()).next());
                must(owed.as_ref().is_none_or(|(at, _)| at > revision), || {
                    format!("watcher {watcher} has progress at {revision}, but was told up to {} only", place.told)
                })?;
                place.progress = place.progress.max(*revision);
            }
            Watch::Compacted { compacted } => place.told = place.told.max(Revision(compacted.0 - 1)),
            Watch::Created { .. } => {}
        }
        Ok(())
    }
}
