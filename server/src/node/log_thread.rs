//! The log thread: the only writer of the raft log. Merges what waits into one write and one sync, then lets go what was
//! held back for it, and reports.
//!
//! Its queue is bounded by what raft may have uncommitted; while one batch is synced the next ones gather and share the
//! following sync. Any failure is final: the process stops without having told anybody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    drive::Persist,
    log::{EXIT_LOG, LogFailed, LogIo, LogStore, Persisted},
    queue::{Queue, Taken},
    raft_thread::Event,
    stats::Stats,
    thread::stop_process,
    transport::Transport,
};
use crate::types::LogIndex;

/// The last batch is named by a mark of its own when none follows for so long: until then its loss would pass for a
/// torn tail.
const IDLE: Duration = Duration::from_millis(100);

/// The index below which the log may be cut, from the reclaim thread. Only rises.
#[derive(Debug, Default)]
pub(super) struct CutBelow(AtomicU64);

impl CutBelow {
    pub(super) fn set(&self, index: LogIndex) {
        self.0.fetch_max(index.0, Relaxed);
    }
    fn get(&self) -> LogIndex {
        LogIndex(self.0.load(Relaxed))
    }
}

pub(super) struct LogThread<Io: LogIo> {
    pub(super) store: LogStore<Io>,
    pub(super) batches: Arc<Queue<Persist>>,
    pub(super) raft: Arc<Queue<Event>>,
    pub(super) transport: Transport,
    pub(super) stats: Arc<Stats>,
    pub(super) cut_below: Arc<CutBelow>,
}

impl<Io: LogIo> LogThread<Io> {
    /// Runs until the queue is closed and everything in it is durable; the mark is written then.
    pub(super) fn run(mut self) {
        if let Err(failed) = self.work() {
            stop_process(EXIT_LOG, &failed);
        }
    }

    fn work(&mut self) -> Result<(), LogFailed> {
        let mut waiting: Vec<Persist> = Vec::new();
        let mut cut = LogIndex(0);
        loop {
            let idle = self.store.wants_mark().then_some(IDLE);
            match self.batches.take(&mut waiting, idle.or(Some(Duration::from_secs(1)))) {
                Taken::Some => self.persist(&mut waiting)?,
                Taken::Nothing if self.store.wants_mark() => self.store.write_mark()?,
                Taken::Nothing => {}
                Taken::Closed => return self.store.write_mark(),
            }
            if self.cut_below.get() > cut {
                cut = self.cut_below.get();
                self.store.cut_below(cut)?;
            }
        }
    }

    fn persist(&mut self, waiting: &mut Vec<Persist>) -> Result<(), LogFailed> {
        let mut batches = waiting.drain(..);
        let mut all = batches.next().expect("only called with something to write");
        for later in batches {
            all.batch.merge(later.batch);
            all.held.merge(later.held);
        }
        let bytes: usize = all.batch.entries.iter().map(|entry| entry.data.len()).sum();
        let began = Instant::now();
        let persisted: Persisted = self.store.persist(&all.batch)?;
        self.stats.log_syncs.record(began.elapsed());
        Stats::add(&self.stats.log_entries, all.batch.entries.len() as u64);
        Stats::add(&self.stats.log_bytes, bytes as u64);
        self.transport.set_last(persisted.last_index());
        let released = all.held.release(&persisted);
        // In front of what is let go: an answer to it must not come back to a raft that does not know yet that its log
        // is on disk, for a candidate that wins then is more than raft-rs can bear. Refused only when the raft thread is
        // gone, and then nobody asks.
        self.raft.push(Event::Persisted(persisted));
        self.transport.send(released);
        self.store.prepare()
    }
}
