//! What goes into the log and what comes out of it: plain data, shared with the rest of `node`.

use bytes::Bytes;

use crate::types::{LogIndex, MemberId, Term};

/// What raft does with an entry when it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A command for the state machine; empty for the entry that opens a leader's term.
    Normal,
    /// A change of one member.
    ConfChange,
    /// A joint change of members.
    ConfChangeV2,
}

/// One entry of the raft log. The log does not look into `data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub index: LogIndex,
    pub term: Term,
    pub kind: EntryKind,
    pub data: Bytes,
}

/// What a member must never forget (Raft paper, figure 2), and the commit index, which it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: Term,
    /// Who got this member's vote in `term`.
    pub vote: Option<MemberId>,
    /// A hint that shortens recovery: it is written along with entries and may come back lower than it was.
    pub commit: LogIndex,
}

/// What one raft `Ready`, or several that waited together, wants on disk.
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    /// Number of the (last) `Ready`; comes back in [`Persisted`].
    pub ready: u64,
    /// First of all the log begins anew behind this entry, because the state up to it came as an archive.
    pub reset: Option<(LogIndex, Term)>,
    /// Consecutive; the first replaces whatever the log holds from its index on.
    pub entries: Vec<LogEntry>,
    pub hard_state: Option<HardState>,
}

impl LogBatch {
    /// Folds a later batch into this one, so that both share a write and a sync. What the later one overwrites is
    /// dropped before it ever reaches the disk.
    ///
    /// # Panics
    /// If the later batch leaves a gap or its `ready` is not later: raft hands them out in order.
    pub fn merge(&mut self, later: Self) {
        assert!(later.ready >= self.ready, "batches merge in the order in which raft made them");
        self.ready = later.ready;
        if later.reset.is_some() {
            // What stands in front of it is in the archive, or was never committed.
            assert!(later.reset >= self.reset, "the log does not go back");
            self.reset = later.reset;
            self.entries.clear();
        }
        if let (Some(first), Some(mine)) = (later.entries.first(), self.entries.first()) {
            let keep = first.index.0.saturating_sub(mine.index.0);
            assert!(keep <= self.entries.len() as u64, "no gap between merged batches");
            self.entries.truncate(usize::try_from(keep).expect("not above the length of a vector"));
        }
        if self.entries.is_empty() {
            self.entries = later.entries;
        } else {
            self.entries.extend(later.entries);
        }
        self.hard_state = later.hard_state.or(self.hard_state);
    }
}

/// Proof that a batch is on disk and synced. Only the log store can make one, and held-back messages come out only in
/// exchange for it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "held messages wait for it"]
pub struct Persisted {
    ready: u64,
    last: LogIndex,
}

impl Persisted {
    pub(super) fn new(ready: u64, last: LogIndex) -> Self {
        Self { ready, last }
    }

    /// Every `Ready` up to this one is durable.
    #[must_use]
    pub fn ready(&self) -> u64 {
        self.ready
    }

    /// Last index of the log on disk.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.last
    }
}
