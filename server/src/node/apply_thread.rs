//! The apply thread: committed entries become state, in order, and whoever waited is told.
//!
//! The order of a batch is what readers and watchers rely on:
//! 1. `State::apply` writes one batch and publishes its view;
//! 2. the revisions go to the watch inbox, so that a watcher is never told of what a read would not find;
//! 3. the lease keeper learns of grants and revokes, so that a renewal may follow a grant's answer at once;
//! 4. the applied index is raised, and reads that waited for it are let go;
//! 5. the answers go out, one hand-over and one wake for each runtime. Whatever was answered can be read by anybody.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use conclave_proto::conclave::raft::v1 as entry;
use prost::Message as _;

use super::{
    Answer,
    install::Install,
    log::{EXIT_LOG, EntryKind, LogEntry, LogIo},
    mailbox::{Outcome, Ticket},
    queue::{Queue, Taken},
    shared::{Shared, Sorted},
    staging::Staging,
    stats::Stats,
    thread::{EXIT_STATE, stop_process},
};
use crate::{
    snapshot::ArchiveMeta,
    state::{Applied, Committed, Events, State},
    types::Term,
    watch,
};

/// Entries of one engine batch: enough that a batch's fixed cost is nothing to each, few enough that the first of them
/// does not wait long for its answer.
const MAX_BATCH_ENTRIES: usize = 1_024;
const MAX_BATCH_BYTES: usize = 1 << 20;

/// etcd's limit before it logs that applying took too long.
const SLOW_MS: u128 = 300;

#[derive(Debug)]
pub(super) enum ApplyItem {
    Entries(Vec<LogEntry>),
    /// This member leads, in this term. Comes before the term's first committed entry.
    Promoted(Term),
    Demoted,
    /// The staged archive takes the place of the state. What was committed in front of it came before.
    Install(ArchiveMeta),
    /// The staged archive is of no use.
    Discard(ArchiveMeta),
}

pub(super) struct ApplyThread<Io: LogIo> {
    state: State,
    staging: Arc<Mutex<Staging<Io>>>,
    shared: Arc<Shared>,
    items: Arc<Queue<ApplyItem>>,
    /// Reused.
    outcomes: Vec<(Ticket, Outcome)>,
    sorted: Sorted,
}

impl<Io: LogIo> ApplyThread<Io> {
    pub(super) fn new(
        state: State,
        staging: Arc<Mutex<Staging<Io>>>,
        shared: Arc<Shared>,
        items: Arc<Queue<ApplyItem>>,
    ) -> Self {
        Self { state, staging, shared, items, outcomes: Vec::new(), sorted: Sorted::default() }
    }

    /// Runs until the queue is closed and empty. The queue is bounded by what raft may have uncommitted, and at a start
    /// by the log above the flushed applied index.
    pub(super) fn run(mut self) -> State {
        let mut items = Vec::new();
        let mut batch = Batch::default();
        while self.items.take(&mut items, None) != Taken::Closed {
            for item in items.drain(..) {
                match item {
                    ApplyItem::Entries(entries) => {
                        for entry in entries {
                            batch.add(entry);
                            if batch.is_full() {
                                self.apply(&mut batch);
                            }
                        }
                    }
                    ApplyItem::Promoted(term) => {
                        self.apply(&mut batch);
                        self.shared.keeper.promote(term, &self.state.read_view(), self.shared.now_ms());
                    }
                    ApplyItem::Demoted => {
                        self.apply(&mut batch);
                        self.shared.keeper.demote();
                    }
                    ApplyItem::Install(archive) => {
                        self.apply(&mut batch);
                        self.install(&archive);
                    }
                    ApplyItem::Discard(archive) => {
                        if let Err(failed) = lock(&self.staging).discard(&archive) {
                            stop_process(EXIT_LOG, &failed);
                        }
                    }
                }
            }
            self.apply(&mut batch);
        }
        self.state
    }

    fn apply(&mut self, batch: &mut Batch) {
        if batch.entries.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut batch.entries);
        batch.bytes = 0;
        let count = entries.len();
        let began = Instant::now();
        let applied = match self.state.apply(entries) {
            Ok(applied) => applied,
            Err(stop) => stop_process(EXIT_STATE, &stop),
        };
        let took_ms = began.elapsed().as_millis();
        if took_ms > SLOW_MS {
            Stats::add(&self.shared.stats.slow_applies, 1);
            tracing::warn!(target: "conclave", took_ms, entries = count, "applying took long");
        }
        Stats::add(&self.shared.stats.apply_batches, 1);
        Stats::add(&self.shared.stats.applied_entries, count as u64);
        self.tell(applied);
    }

    /// In the order of a batch: the view first, then who watches, then who waits. Proposals of this member that are in
    /// the archive were answered by nobody and time out, as those of a leader that is lost do.
    fn install(&mut self, archive: &ArchiveMeta) {
        let began = Instant::now();
        let before = self.state.read_view().position;
        let mut install = Install::new(&mut lock(&self.staging), archive);
        loop {
            // Whoever receives takes the lock too, so it is not held for more than a step.
            match install.step(&mut lock(&self.staging), &mut self.state) {
                Ok(false) => {}
                Ok(true) => break,
                Err(failed) => stop_process(EXIT_LOG, &failed),
            }
        }
        let now = self.state.read_view().position;
        if now.revision > before.revision {
            // Nobody was told what happened in between: who watches reads it from the new change log, or hears that it
            // is compacted.
            self.shared.inbox.publish(now.revision, watch::Published::TooMany);
        }
        if now.compacted > before.compacted {
            self.shared.reclaim.compacted(now.compacted);
        }
        Stats::add(&self.shared.stats.archives_installed, 1);
        let took_ms = began.elapsed().as_millis();
        let (index, revision) = (archive.index.0, now.revision.0);
        tracing::info!(target: "conclave", index, revision, took_ms, "the state is that of another member");
        self.tell(Vec::new());
    }

    fn tell(&mut self, applied: Vec<Applied>) {
        let mut leases = Vec::new();
        let term = self.shared.term();
        for one in applied {
            let effects = one.effects;
            match effects.events {
                Events::None => {}
                Events::Changes(changes) => {
                    self.shared.inbox.publish(one.revision, watch::Published::Changes(changes));
                }
                Events::TooMany => self.shared.inbox.publish(one.revision, watch::Published::TooMany),
            }
            leases.extend(effects.leases);
            if let Some(revision) = effects.compacted {
                self.shared.reclaim.compacted(revision);
            }
            let identity = self.shared.identity;
            let Some(request) = one.request else { continue };
            if request.member == identity.member.0 && request.boot == identity.boot && request.sequence != 0 {
                let answer = one.reply.map(|reply| Answer { reply, revision: one.revision, term });
                self.outcomes.push((Ticket(request.sequence), Outcome::Answer(answer)));
            }
        }
        if !leases.is_empty() {
            self.shared.keeper.follow(leases.into_iter(), self.shared.now_ms());
        }
        let (index, _) = self.state.applied();
        self.shared.set_applied(index, &mut self.outcomes);
        self.shared.deliver(self.outcomes.drain(..), &mut self.sorted);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Batch {
    entries: Vec<Committed>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, log_entry: LogEntry) {
        self.bytes += log_entry.data.len();
        self.entries.push(decode(log_entry));
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= MAX_BATCH_ENTRIES || self.bytes >= MAX_BATCH_BYTES
    }
}

/// What is committed must be understood, or this member's state would differ from the others'.
#[must_use]
pub fn decode(log_entry: LogEntry) -> Committed {
    let LogEntry { index, term, kind, data } = log_entry;
    if kind != EntryKind::Normal {
        let why = format_args!("the log changes the membership at index {index}, which this version cannot do");
        stop_process(EXIT_STATE, &why);
    }
    let entry = (!data.is_empty()).then(|| match entry::Entry::decode(data) {
        Ok(entry) => entry,
        Err(error) => stop_process(EXIT_STATE, &format_args!("the log entry at {index} is not readable: {error}")),
    });
    Committed { index, term, entry }
}
