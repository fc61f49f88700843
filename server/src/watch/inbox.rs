//! The one ordered, bounded way into the hub.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Input, Published, StreamId};
use crate::{
    mutants::{self, Mutant},
    mvcc::Change,
    types::Revision,
};

/// What a change costs beside its bytes: two key-values of six fields each.
const CHANGE_OVERHEAD: usize = size_of::<Change>();

/// One thing that reached the hub, in the order of arrival.
#[derive(Debug)]
pub(super) enum Arrival {
    Changes {
        revision: Revision,
        changes: std::sync::Arc<[Change]>,
        bytes: usize,
    },
    /// Revisions up to `to` happened, and their changes are to be read from the store.
    Missed {
        to: Revision,
    },
    Input(Input),
}

/// The one ordered, bounded way into the hub: publishing and subscribing cannot race, because they stand in one queue.
///
/// Bounds: `max_inputs` requests of streams (then [`Inbox::send`] refuses), `max_publish_bytes` of changes (then only
/// the revision is kept, and the hub reads the changes from the store when someone wants them). `Drained` and `Close`
/// are always let in: a stream has at most one of each under way, so streams bound them.
#[derive(Debug)]
pub struct Inbox {
    max_inputs: usize,
    max_publish_bytes: usize,
    streams: AtomicU64,
    inner: Mutex<Inner>,
    arrived: Condvar,
}

#[derive(Debug)]
struct Inner {
    queue: VecDeque<Arrival>,
    inputs: usize,
    publish_bytes: usize,
    /// Nobody watches: revisions are noted, their changes are dropped, and the hub sleeps on.
    idle: bool,
    /// Something came in that the hub must look at.
    pending: bool,
    waiting: bool,
    stopped: bool,
}

impl Inbox {
    #[must_use]
    pub fn new(max_inputs: usize, max_publish_bytes: usize) -> Self {
        let inner = Inner {
            queue: VecDeque::new(),
            inputs: 0,
            publish_bytes: 0,
            idle: true,
            pending: false,
            waiting: false,
            stopped: false,
        };
        Self {
            max_inputs,
            max_publish_bytes,
            streams: AtomicU64::new(0),
            inner: Mutex::new(inner),
            arrived: Condvar::new(),
        }
    }

    /// A number for a new stream, never given before.
    pub fn next_stream(&self) -> StreamId {
        StreamId(self.streams.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// From apply, in order of revisions. Never blocks: over the bound it notes the missed revision instead.
    pub fn publish(&self, revision: Revision, changes: Published) {
        let mut inner = self.lock();
        match changes {
            Published::Changes(changes) if !inner.idle => {
                let bytes = changes.iter().map(cost).sum();
                if inner.publish_bytes + bytes <= self.max_publish_bytes {
                    inner.publish_bytes += bytes;
                    inner.queue.push_back(Arrival::Changes { revision, changes, bytes });
                } else if !mutants::is(Mutant::EventLost) {
                    inner.miss(revision);
                }
            }
            Published::Changes(_) | Published::TooMany => inner.miss(revision),
        }
        if !inner.idle {
            self.notify(inner);
        }
    }

    /// From a stream. False: the hub is `max_inputs` behind, and the stream must be ended.
    #[must_use]
    pub fn send(&self, input: Input) -> bool {
        let mut inner = self.lock();
        let always = matches!(input, Input::Drained { .. } | Input::Close { .. });
        if !always {
            if inner.inputs >= self.max_inputs {
                return false;
            }
            inner.inputs += 1;
        }
        // From here on a watcher may exist, and changes must be kept for it.
        if matches!(input, Input::Create { .. }) {
            inner.idle = false;
        }
        inner.queue.push_back(Arrival::Input(input));
        self.notify(inner);
        true
    }

    /// Blocks until something arrived, `stop` was called, or the time is over. True while not stopped.
    pub fn wait(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut inner = self.lock();
        while !inner.pending && !inner.stopped {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inner.waiting = true;
            (inner, _) = self.arrived.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner);
            inner.waiting = false;
        }
        !inner.stopped
    }

    /// Ends all waiting, now and later.
    pub fn stop(&self) {
        let mut inner = self.lock();
        inner.stopped = true;
        self.notify(inner);
    }

    /// Moves at most `max` arrivals into `into`. True: there are more.
    pub(super) fn take(&self, max: usize, into: &mut Vec<Arrival>) -> bool {
        assert!(into.is_empty(), "what was taken before must have been dealt with");
        let mut inner = self.lock();
        let count = inner.queue.len().min(max);
        for arrival in inner.queue.drain(..count) {
            into.push(arrival);
        }
        for arrival in &*into {
            match arrival {
                Arrival::Changes { bytes, .. } => inner.publish_bytes -= bytes,
                Arrival::Input(Input::Drained { .. } | Input::Close { .. }) | Arrival::Missed { .. } => {}
                Arrival::Input(_) => inner.inputs -= 1,
            }
        }
        inner.pending = !inner.queue.is_empty();
        inner.pending
    }

    /// From the hub, which has no watcher: changes need not be kept until one comes.
    pub(super) fn set_idle(&self) {
        let mut inner = self.lock();
        // A request to watch may already stand in the queue.
        inner.idle = inner.queue.is_empty();
    }

    fn notify(&self, mut inner: MutexGuard<'_, Inner>) {
        inner.pending = true;
        let wake = inner.waiting;
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// A panic elsewhere cannot leave the queue half changed: each change is complete before anything can panic.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Only one note stands between two other arrivals, so notes are bounded as those are.
    fn miss(&mut self, revision: Revision) {
        if let Some(Arrival::Missed { to }) = self.queue.back_mut() {
            *to = revision;
        } else {
            self.queue.push_back(Arrival::Missed { to: revision });
        }
    }
}

/// Bytes that a change keeps in memory, about.
pub(super) fn cost(change: &Change) -> usize {
    let prev = change.prev.as_ref().map_or(0, |prev| prev.key.len() + prev.value.len());
    CHANGE_OVERHEAD + change.kv.key.len() + change.kv.value.len() + prev
}
