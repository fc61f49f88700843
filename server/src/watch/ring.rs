//! The newest changes, kept in memory, so that a watcher which is a little behind does not read the store.

use std::{collections::VecDeque, sync::Arc};

use crate::{mvcc::Change, types::Revision};

/// Changes of one revision.
pub(super) type Run = (Revision, Arc<[Change]>);

/// A run of consecutive revisions up to the hub's, bounded in bytes.
#[derive(Debug)]
pub(super) struct Ring {
    max_bytes: usize,
    bytes: usize,
    runs: VecDeque<(Revision, Arc<[Change]>, usize)>,
}

impl Ring {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: 0, runs: VecDeque::new() }
    }

    /// `revision` must follow the last one, unless the ring is empty.
    pub(super) fn push(&mut self, revision: Revision, changes: Arc<[Change]>, bytes: usize) {
        if let Some((last, ..)) = self.runs.back() {
            assert_eq!(last.next(), revision, "a ring with a gap would hide changes from a watcher");
        }
        self.runs.push_back((revision, changes, bytes));
        self.bytes += bytes;
        while self.bytes > self.max_bytes {
            let (.., bytes) = self.runs.pop_front().expect("bytes are counted only for what is held");
            self.bytes -= bytes;
        }
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.bytes = 0;
    }

    /// Whole revisions from `from` on: about `max_bytes`, but at least one. None: the ring does not reach back so far.
    pub(super) fn since(&self, from: Revision, max_bytes: usize) -> Option<Vec<Run>> {
        let (first, ..) = self.runs.front()?;
        let skip = usize::try_from(from.0 - first.0).ok()?;
        let mut runs = Vec::new();
        let mut bytes = 0;
        for (revision, changes, size) in self.runs.iter().skip(skip) {
            bytes += size;
            if bytes > max_bytes && !runs.is_empty() {
                break;
            }
            runs.push((*revision, changes.clone()));
        }
        (!runs.is_empty()).then_some(runs)
    }
}
