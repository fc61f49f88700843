//! Progress: an empty answer that says "you were told everything up to this revision".
//!
//! Frames of a stream leave in the order in which the hub makes them, and a synced watcher was handed everything up to
//! the hub's revision, so a progress frame made now cannot pass an event that it speaks for.

use super::{
    Frame, StreamId,
    hub::Hub,
    interval::scatter,
    stream::{Stream, Watcher},
};

/// etcd's `minWatchProgressInterval`.
const MIN_INTERVAL_MS: u64 = 100;

/// Streams that are due and looked after in one step.
const TICKS_PER_STEP: usize = 256;

/// `WatchResponse.watch_id` of an answer that speaks for all watchers of its stream.
const ALL_WATCHERS: i64 = -1;

/// The interval and up to a tenth of it, so that streams that were opened together are not due together. The stream's
/// number spreads them: the core has no randomness.
pub(super) fn period_ms(interval_ms: u64, stream: StreamId) -> u64 {
    let interval_ms = interval_ms.max(MIN_INTERVAL_MS);
    interval_ms + scatter(stream.0) % (interval_ms / 10)
}

impl Hub {
    /// A client asks how far all watchers of its stream are. Unless all are synced the question is dropped, as etcd
    /// does: clients ask again.
    pub(super) fn progress_all(&mut self, id: StreamId) {
        if !self.streams.get(&id).is_some_and(Stream::all_synced) {
            return;
        }
        self.answer(id, Frame { watch_id: ALL_WATCHERS, body: self.encoder.progress(self.revision) });
    }

    /// Tells progress to the synced watchers that asked for it and were told nothing since the last time. True: more
    /// streams are due.
    pub(super) fn tick(&mut self, now_ms: u64) -> bool {
        for _ in 0..TICKS_PER_STEP {
            let Some((due_ms, id)) = self.ticks.first().filter(|(due_ms, _)| *due_ms <= now_ms).copied() else {
                return false;
            };
            self.ticks.remove(&(due_ms, id));
            let stream = self.streams.get_mut(&id).expect("a closed stream is not due");
            stream.due_ms = now_ms + stream.period_ms;
            self.ticks.insert((stream.due_ms, id));
            self.tick_stream(id);
        }
        true
    }

    fn tick_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let mut quiet = Vec::new();
        for watch_id in &stream.notify {
            match stream.watchers.get_mut(watch_id) {
                Some(Watcher::Synced { group }) => {
                    let member = self.groups.member_mut(*group, id, *watch_id);
                    if !std::mem::replace(&mut member.told, false) {
                        quiet.push(*watch_id);
                    }
                }
                Some(Watcher::Lagging { told, .. }) => *told = false,
                Some(Watcher::Future { .. } | Watcher::Ended) | None => {}
            }
        }
        let body = self.encoder.progress(self.revision);
        for watch_id in quiet {
            // To a stream that does not take what it has, progress comes with the next tick.
            if !self.streams.get(&id).is_some_and(Stream::is_free) {
                return;
            }
            self.answer(id, Frame { watch_id, body: body.clone() });
        }
    }
}
