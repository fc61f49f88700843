//! The apply thread: committed entries become state, in order, and whoever waited is told.
//!
//! The order of a batch is what readers and watchers rely on:
//! 1. `State::apply` writes one batch and publishes its view;
//! 2. the revisions go to the watch inbox, so that a watcher is never told of what a read would not find;
//! 3. the lease keeper learns of grants and revokes, so that a renewal may follow a grant's answer at once;
//! 4. the applied index is raised, and reads that waited for it are let go;
//! 5. the answers go out, one hand-over and one wake for each runtime. Whatever was answered can be read by anybody.

use std::{sync::Arc, time::Instant};

use conclave_proto::conclave::raft::v1 as entry;
use prost::Message as _;

use super::{
    Answer,
    log::{EntryKind, LogEntry},
    mailbox::{Outcome, Ticket},
    queue::{Queue, Taken},
    shared::{Shared, Sorted},
    stats::Stats,
    thread::{EXIT_STATE, stop_process},
};
use crate::{
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
}

pub(super) struct ApplyThread {
    state: State,
    shared: Arc<Shared>,
    items: Arc<Queue<ApplyItem>>,
    /// Reused.
    outcomes: Vec<(Ticket, Outcome)>,
    sorted: Sorted,
}

impl ApplyThread {
    pub(super) fn new(state: State, shared: Arc<Shared>, items: Arc<Queue<ApplyItem>>) -> Self {
        Self { state, shared, items, outcomes: Vec::new(), sorted: Sorted::default() }
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
