//! The reclaim thread: makes state durable in the background, and gives space back that is no longer needed.
//!
//! - When the raft log above the flushed applied index passes [`FLUSH_LOG_BYTES`], the engine is flushed. That bounds how
//!   much a restart applies again, also when nothing but failed transactions fills the log.
//! - Soon after a compaction the engine is flushed too: history may go only below the *durable* compacted revision,
//!   because a crash takes the store back to its last flush while dropped files stay dropped. Then history is dropped.
//! - The log is cut below what is flushed, but for entries that followers may still ask for.
//!
//! Readers of the past and lagging watchers are not waited for: they check the compacted revision before and after they
//! read, and compaction moved it, not this thread.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    log::{LogIo, LogReader},
    log_thread::CutBelow,
    shared::Shared,
};
use crate::{
    engine::Engine,
    state::State,
    types::{LogIndex, Revision},
};

/// design.md, storage: what a restart has to apply again at most, but for what arrives during the flush.
const FLUSH_LOG_BYTES: u64 = 64 << 20;
/// Entries below the flushed index that are kept for followers which are a little behind: etcd's
/// `SnapshotCatchUpEntries`.
const KEEP_ENTRIES: u64 = 5_000;
/// How often the log's length is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Compactions that come close together share a flush. etcd's space comes back within a minute, and so must ours.
const AFTER_COMPACTION: Duration = Duration::from_secs(2);

pub(super) struct Reclaim<Io: LogIo> {
    shared: Arc<Shared>,
    engine: Engine,
    reader: LogReader<Io>,
    cut_below: Arc<CutBelow>,
    /// The newest compaction that is known, and when the first one since the last flush was seen.
    compacted: Option<Revision>,
    pending_since: Option<Instant>,
    /// History below this is dropped.
    dropped: Revision,
}

impl<Io: LogIo> Reclaim<Io> {
    pub(super) fn new(shared: Arc<Shared>, engine: Engine, reader: LogReader<Io>, cut_below: Arc<CutBelow>) -> Self {
        Self { shared, engine, reader, cut_below, compacted: None, pending_since: None, dropped: Revision::NEVER }
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        // A crash may have come between a flush and the dropping that follows it.
        self.after_flush();
        loop {
            let nudge = self.shared.reclaim.wait(LOOK, self.compacted);
            if nudge.stop {
                return;
            }
            if nudge.compacted != self.compacted {
                self.compacted = nudge.compacted;
                self.pending_since.get_or_insert_with(Instant::now);
            }
            let (flushed, _) = State::persisted(&self.engine);
            let compaction_due = self.pending_since.is_some_and(|since| since.elapsed() >= AFTER_COMPACTION);
            if compaction_due || self.reader.bytes_from(flushed.next()) >= FLUSH_LOG_BYTES {
                self.pending_since = None;
                let began = Instant::now();
                self.engine.flush();
                self.shared.stats.flushes.record(began.elapsed());
            }
            // The engine flushes by itself too, when its buffers are full.
            self.after_flush();
        }
    }

    fn after_flush(&mut self) {
        self.cut_below.set(give_back(&self.engine, KEEP_ENTRIES, &mut self.dropped));
    }
}

/// Lets go what a crash now would not need: history up to the flushed compacted revision, where `dropped` is behind it.
/// Returns the index below which the log may be cut, `keep_entries` short of what is flushed.
pub fn give_back(engine: &Engine, keep_entries: u64, dropped: &mut Revision) -> LogIndex {
    let (flushed, compacted) = State::persisted(engine);
    if compacted > *dropped {
        *dropped = compacted;
        engine.drop_history(compacted);
        engine.rewrite_history(compacted);
    }
    LogIndex(flushed.0.saturating_sub(keep_entries))
}
