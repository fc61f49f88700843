//! W3: a watcher is told every change of its range from its start on, as it was, with nothing left out in between; what is
//! compacted before it was told is said to be so.

use std::collections::BTreeMap;

use conclave_proto::mvccpb::{Event, event::EventType};
use conclave_server::{
    mvcc::{Change, KeyRange, Kind},
    types::Revision,
};

use super::{Invariant, Seen, Truth, Verdict, must};
use crate::sim::seen::{Watch, WatcherId, event_revision};

#[derive(Default)]
pub(super) struct Reliable(BTreeMap<WatcherId, Owed>);

struct Owed {
    range: KeyRange,
    prev_kv: bool,
    /// The first revision that it was not told of; 0 before the first answer.
    next: Revision,
}

impl Owed {
    fn told(&mut self, events: &[Event], truth: &Truth) -> Verdict {
        let Some(last) = events.last().map(event_revision) else { return Ok(()) };
        let mut told = events.iter();
        for (at, changes) in truth.changes(&self.range, self.next).take_while(|(at, _)| *at <= last) {
            for change in changes {
                let Some(event) = told.next() else { return Err(format!("an event of revision {at} is missing")) };
                self.same(event, change, at, truth)?;
            }
        }
        must(told.next().is_none(), || "an event came that is not owed".to_owned())?;
        self.next = last.next();
        Ok(())
    }

    fn same(&self, event: &Event, change: &Change, at: Revision, truth: &Truth) -> Verdict {
        let kind = if change.kind == Kind::Delete { EventType::Delete } else { EventType::Put };
        must(event.kv.as_ref() == Some(&change.kv) && event.r#type() == kind, || {
            format!("told {event:?}, owed {change:?} of {at}, from {} on", self.next)
        })?;
        // What a change replaced may be gone when the compaction stands at the change itself.
        let gone = event.prev_kv.is_none() && at <= truth.position().compacted;
        let prev = if self.prev_kv && !gone { change.prev.clone() } else { None };
        must(event.prev_kv == prev, || format!("told that {at} replaced {:?}, not {prev:?}", event.prev_kv))
    }
}

impl Invariant for Reliable {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        let Seen::Watch(watcher, watch) = seen else { return Ok(()) };
        if let Watch::Opened { range, prev_kv, start } = watch {
            let next = self.0.get(watcher).map_or(*start, |owed| owed.next);
            self.0.insert(*watcher, Owed { range: range.clone(), prev_kv: *prev_kv, next });
            return Ok(());
        }
        let Some(owed) = self.0.get_mut(watcher) else { return Err(format!("watcher {watcher} never opened")) };
        match watch {
            Watch::Created { revision } if owed.next == Revision(0) => owed.next = revision.next(),
            Watch::Told { events, .. } => {
                owed.told(events, truth).map_err(|why| format!("watcher {watcher} of {:?}: {why}", owed.range))?;
            }
            Watch::Compacted { compacted } => {
                must(owed.next < *compacted && *compacted <= truth.position().compacted, || {
                    format!("watcher {watcher} is told of a compaction at {compacted}, and needs {}", owed.next)
                })?;
                owed.next = *compacted;
            }
            _ => {}
        }
        Ok(())
    }
}
