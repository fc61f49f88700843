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
    keep: KeepLog,
    /// The newest compaction that is known, and when the first one since the last flush was seen.
    compacted: Option<Revision>,
    pending_since: Option<Instant>,
    /// History below this is dropped.
    dropped: Revision,
}

impl<Io: LogIo> Reclaim<Io> {
    pub(super) fn new(
        shared: Arc<Shared>,
        engine: Engine,
        reader: LogReader<Io>,
        cut_below: Arc<CutBelow>,
        keep: KeepLog,
    ) -> Self {
        Self { shared, engine, reader, cut_below, keep, compacted: None, pending_since: None, dropped: Revision::NEVER }
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
        let archives = &self.shared.archives;
        let flushed = drop_history(&self.engine, &|compacted| archives.floor(compacted), &mut self.dropped);
        let needed = Needed { follower: self.shared.needed_from(), archive: archives.lowest() };
        self.cut_below.set(self.keep.from(flushed, needed, |index| self.reader.bytes_from(index)));
    }
}

/// Lets go what a crash now would not need: history up to the flushed compacted revision, where `dropped` is behind it.
/// Returns the index below which the log may be cut, `keep_entries` short of what is flushed.
pub fn give_back(engine: &Engine, keep_entries: u64, dropped: &mut Revision) -> LogIndex {
    let flushed = drop_history(engine, &|compacted| compacted, dropped);
    LogIndex(flushed.0.saturating_sub(keep_entries))
}

/// Returns what is flushed. `floor` says how much may go of what is compacted.
fn drop_history(engine: &Engine, floor: &dyn Fn(Revision) -> Revision, dropped: &mut Revision) -> LogIndex {
    let (flushed, compacted) = State::persisted(engine);
    let floor = floor(compacted);
    if floor > *dropped {
        *dropped = floor;
        engine.drop_history(floor);
        engine.rewrite_history(floor);
    }
    flushed
}

/// What others need of the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needed {
    /// The oldest entry that a follower needs which is alive.
    pub follower: Option<LogIndex>,
    /// The lowest of the archives that are open: a follower goes on behind it.
    pub archive: Option<LogIndex>,
}

/// How much of the log is kept below what is flushed.
#[derive(Clone, Copy, Debug)]
pub struct KeepLog {
    /// Always: for followers that come back soon.
    pub entries: u64,
    /// At most, for followers that trail.
    pub follower_entries: u64,
    /// At most, whoever needs it: who is further behind gets an archive.
    pub bytes: u64,
}

impl KeepLog {
    /// Entries: etcd's `SnapshotCatchUpEntries`. For followers as many as a follower should catch up with in ten seconds
    /// (100,000 of a kilobyte are sent within that). Bytes: four segments, which is what a member at rest may have in
    /// its log beside what a restart replays.
    pub const DEFAULT: Self = Self { entries: KEEP_ENTRIES, follower_entries: 100_000, bytes: 256 << 20 };

    /// The index below which the log may be cut. `bytes_from` falls as the index rises.
    #[must_use]
    pub fn from(&self, flushed: LogIndex, needed: Needed, bytes_from: impl Fn(LogIndex) -> u64) -> LogIndex {
        let back = |entries: u64| LogIndex(flushed.0.saturating_sub(entries));
        let follower = needed.follower.map(|index| index.max(back(self.follower_entries)));
        let archive = needed.archive.map(LogIndex::next);
        let wanted = [follower, archive].into_iter().flatten().fold(back(self.entries), LogIndex::min);
        let above = bytes_from(flushed.next());
        // The lowest index from which the bytes fit.
        let (mut low, mut high) = (wanted.0, flushed.next().0);
        while low < high {
            let middle = low + (high - low) / 2;
            if bytes_from(LogIndex(middle)).saturating_sub(above) <= self.bytes {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        LogIndex(low.min(flushed.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: KeepLog = KeepLog { entries: 10, follower_entries: 100, bytes: 5_000 };

    /// A log of 500 entries of 20 bytes.
    fn from(flushed: u64, follower: Option<u64>, archive: Option<u64>) -> u64 {
        let bytes_from = |index: LogIndex| 20 * (501 - index.0.min(501));
        let needed = Needed { follower: follower.map(LogIndex), archive: archive.map(LogIndex) };
        KEEP.from(LogIndex(flushed), needed, bytes_from).0
    }

    #[test]
    fn the_log_is_kept_for_whom_it_helps() {
        assert_eq!(from(400, None, None), 390);
        assert_eq!(from(400, Some(398), None), 390, "a follower that is nearly there");
        assert_eq!(from(400, Some(330), None), 330, "one that trails");
        assert_eq!(from(400, Some(3), None), 300, "one that trails too far");
        assert_eq!(from(400, Some(330), Some(250)), 251, "who installs an archive goes on behind it");
        assert_eq!(from(400, None, Some(399)), 390);
        assert_eq!(from(400, None, Some(50)), 151, "bytes win: 250 entries of 20");
        assert_eq!((from(0, None, None), from(5, Some(1), None)), (0, 0));
        let large = |index: LogIndex| 20_000 * (501 - index.0.min(501));
        assert_eq!(KEEP.from(LogIndex(400), Needed::default(), large).0, 400, "over large entries too");
    }
}
