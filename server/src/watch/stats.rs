//! What the metrics endpoint shows of the hub.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts that other threads may read at any time. They are written by the hub alone, one by one: a reader may see a
/// step half done.
#[derive(Debug, Default)]
pub struct HubStats {
    streams: AtomicU64,
    watchers: AtomicU64,
    lagging: AtomicU64,
    events: AtomicU64,
    compacted: AtomicU64,
    catch_up_chunks: AtomicU64,
}

impl HubStats {
    /// Open streams.
    pub fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    /// Watchers in any state.
    pub fn watchers(&self) -> u64 {
        self.watchers.load(Ordering::Relaxed)
    }

    /// Watchers that have not been told everything up to the newest revision.
    pub fn lagging(&self) -> u64 {
        self.lagging.load(Ordering::Relaxed)
    }

    /// Events handed to streams since the start, counted once for each watcher.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Watchers that were ended because the revisions they needed were compacted, since the start.
    pub fn compacted(&self) -> u64 {
        self.compacted.load(Ordering::Relaxed)
    }

    /// Pieces of history read for lagging watchers since the start, from the store or from memory.
    pub fn catch_up_chunks(&self) -> u64 {
        self.catch_up_chunks.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, streams: usize, watchers: usize, lagging: usize) {
        self.streams.store(streams as u64, Ordering::Relaxed);
        self.watchers.store(watchers as u64, Ordering::Relaxed);
        self.lagging.store(lagging as u64, Ordering::Relaxed);
    }

    pub(super) fn add_events(&self, events: usize) {
        self.events.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(super) fn add_compacted(&self) {
        self.compacted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_catch_up_chunk(&self) {
        self.catch_up_chunks.fetch_add(1, Ordering::Relaxed);
    }
}
