//! The way into one of node's threads: many may push, one takes everything that waits at once.
//!
//! A push wakes the thread only if it sleeps, so under load a hand-over costs one uncontended lock. The queue itself has
//! no bound: each use of it says what bounds it (proposals and reads are bounded by the mailboxes' slots, batches and
//! committed entries by what raft may have uncommitted, messages by [`Queue::offer`]).

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

#[derive(Debug)]
struct Inner<T> {
    items: Vec<T>,
    sleeping: bool,
    closed: bool,
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    arrived: Condvar,
}

/// What [`Queue::take`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Some,
    /// Nothing came in time.
    Nothing,
    /// Closed and empty: nothing will come any more.
    Closed,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::new(Inner { items: Vec::new(), sleeping: false, closed: false }), arrived: Condvar::new() }
    }

    /// A thread that panics with the lock held takes the process down, so a poisoned lock is never used for long.
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if the queue is closed: the item is dropped, because its thread is gone.
    pub(super) fn push(&self, item: T) -> bool {
        self.offer(item, usize::MAX)
    }

    /// As [`Queue::push`], and refuses when `bound` items wait.
    pub(super) fn offer(&self, item: T, bound: usize) -> bool {
        let mut inner = self.lock();
        if inner.closed || inner.items.len() >= bound {
            return false;
        }
        inner.items.push(item);
        let wake = std::mem::take(&mut inner.sleeping);
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
        true
    }

    /// As [`Queue::offer`] for several at once, with one wake. Comes back with how many were taken.
    pub(super) fn offer_all(&self, items: impl IntoIterator<Item = T>, bound: usize) -> usize {
        let mut inner = self.lock();
        if inner.closed {
            return 0;
        }
        let before = inner.items.len();
        inner.items.extend(items.into_iter().take(bound.saturating_sub(before)));
        let taken = inner.items.len() - before;
        let wake = taken > 0 && std::mem::take(&mut inner.sleeping);
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
        taken
    }

    /// Appends everything that waits to `into`; sleeps for it at most `timeout` (None: for ever).
    pub(super) fn take(&self, into: &mut Vec<T>, timeout: Option<Duration>) -> Taken {
        let mut inner = self.lock();
        if inner.items.is_empty() && !inner.closed && timeout != Some(Duration::ZERO) {
            inner.sleeping = true;
            let empty = |inner: &mut Inner<T>| inner.items.is_empty() && !inner.closed;
            inner = match timeout {
                Some(timeout) => {
                    self.arrived.wait_timeout_while(inner, timeout, empty).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.arrived.wait_while(inner, empty).unwrap_or_else(PoisonError::into_inner),
            };
            inner.sleeping = false;
        }
        if inner.items.is_empty() {
            return if inner.closed { Taken::Closed } else { Taken::Nothing };
        }
        if into.is_empty() {
            std::mem::swap(into, &mut inner.items);
        } else {
            into.append(&mut inner.items);
        }
        Taken::Some
    }

    /// What was pushed is still taken; nothing is accepted any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }
}
