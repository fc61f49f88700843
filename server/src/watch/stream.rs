//! One client's Watch stream as the hub sees it, and the states of its watchers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{Frame, Outbox, groups::GroupId};
use crate::types::Revision;

/// A watcher is in exactly one of these states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watcher {
    /// Was handed everything of its range up to the hub's revision. Its `told` flag stands in its group.
    Synced { group: GroupId },
    /// Was handed everything of its range below `next`, which is at most the hub's revision.
    Lagging { group: GroupId, next: Revision, told: bool },
    /// Starts at a revision above the hub's: until then it gets neither events nor progress.
    Future { group: GroupId, start: Revision },
    /// Ended by compaction. Its id stays taken until the client cancels it, and that is acknowledged, as etcd does.
    Ended,
}

/// Whether the outbox takes what the hub has.
#[derive(Debug)]
pub(super) enum Flow {
    Free,
    /// The outbox was full. Answers wait here and go first; events are not kept: their watchers lag.
    Held {
        back: VecDeque<Frame>,
    },
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) outbox: Arc<Outbox>,
    pub(super) flow: Flow,
    pub(super) watchers: BTreeMap<i64, Watcher>,
    /// Those of `watchers` that are lagging.
    pub(super) lagging: BTreeSet<i64>,
    /// How many of `watchers` start in the future.
    pub(super) future: usize,
    /// Those of `watchers` that asked for progress at intervals.
    pub(super) notify: BTreeSet<i64>,
    /// When progress is due next, and how often. Both in ms.
    pub(super) due_ms: u64,
    pub(super) period_ms: u64,
    next_id: i64,
}

impl Stream {
    pub(super) fn new(outbox: Arc<Outbox>, now_ms: u64, period_ms: u64) -> Self {
        Self {
            outbox,
            flow: Flow::Free,
            watchers: BTreeMap::new(),
            lagging: BTreeSet::new(),
            future: 0,
            notify: BTreeSet::new(),
            due_ms: now_ms + period_ms,
            period_ms,
            next_id: 0,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        matches!(self.flow, Flow::Free)
    }

    /// The id that a new watcher gets; None: the client chose one that is taken. 0 asks for the next free one.
    pub(super) fn choose_id(&mut self, asked: i64) -> Option<i64> {
        if asked != 0 {
            return (!self.watchers.contains_key(&asked)).then_some(asked);
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        Some(id)
    }

    /// True if there is a watcher and each one is synced, so that progress can be told for the stream as a whole.
    /// One that compaction has ended holds nothing back.
    pub(super) fn all_synced(&self) -> bool {
        self.lagging.is_empty()
            && self.future == 0
            && self.watchers.values().any(|watcher| matches!(watcher, Watcher::Synced { .. }))
    }
}
