//! One entry being applied: the batch that it fills, the revision that it makes, and where it goes on when it is too
//! wide for one batch.

use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;

use super::{
    Effects, Events, LeaseEffect,
    meta::{Mark, Outcome, Settled},
};
use crate::{
    engine::{Batch, Engine, Key, MetaKey, View},
    lease,
    mutants::{self, Mutant},
    mvcc::{Change, Changes, Deleted, KeyRange, Position},
    types::{LeaseId, LogIndex, Revision, Sub},
};

/// How much may be held at once. Only tests choose other values than the default.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A batch that passes this is written. 16 MiB are ten requests of the largest size, and a tenth of a second of disk.
    pub(super) batch_bytes: usize,
    /// Changes of one revision that pass this are not held for watchers, who then read them from the change log.
    pub(super) events_bytes: usize,
    /// Idempotency keys remembered; all members must agree on it.
    pub(super) window_keys: u64,
    /// Writes of one call of `apply` until the process dies, for tests of what a crash leaves.
    #[cfg(test)]
    pub(super) dies_after: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_bytes: 16 << 20,
            events_bytes: 16 << 20,
            window_keys: super::WINDOW_KEYS,
            #[cfg(test)]
            dies_after: None,
        }
    }
}

/// Fills one batch after another.
pub(super) struct Writer {
    engine: Engine,
    pub(super) batch: Batch,
    /// What `batch` lies on.
    view: View,
    limits: Limits,
}

impl Writer {
    /// `view` is the newest one.
    pub(super) fn new(engine: Engine, view: View, limits: Limits) -> Self {
        Self { batch: Batch::new(view.clone()), engine, view, limits }
    }

    pub(super) fn is_full(&self) -> bool {
        self.batch.bytes() >= self.limits.batch_bytes
    }

    /// Writes what was filled in, with where the state then stands, and begins a new batch above it.
    pub(super) fn write(&mut self, settled: &Settled) {
        #[cfg(test)]
        self.die_when_told();
        if mutants::is(Mutant::AppliedOutsideBatch) {
            self.engine.write(std::mem::replace(&mut self.batch, Batch::new(self.view.clone())));
        }
        self.batch.put(&Key::Meta(MetaKey::Applied), settled.encode());
        let full = std::mem::replace(&mut self.batch, Batch::new(self.view.clone()));
        self.engine.write(full);
        self.view = self.engine.view();
        self.batch = Batch::new(self.view.clone());
    }

    #[cfg(test)]
    fn die_when_told(&mut self) {
        if let Some(left) = &mut self.limits.dies_after {
            assert!(*left > 0, "the process dies here");
            *left -= 1;
        }
    }

    /// The store after the last write.
    pub(super) fn view(&self) -> View {
        self.view.clone()
    }
}

/// One entry on its way.
///
/// An entry is a list of operations: a txn's in the order in which they are executed, and any other command is a list
/// of one. Operations before `from` were done by pieces that a crash left, or all of them were done when the request was
/// first applied (then it is only told again); they write nothing and their replies carry no key-values.
pub(super) struct Work<'w> {
    writer: &'w mut Writer,
    /// As of the entry before: this is what stands beside a piece.
    settled: &'w Settled,
    index: LogIndex,
    /// The revision that the first change makes.
    revision: Revision,
    sub: Sub,
    op: u64,
    from: u64,
    deletes: usize,
    in_pieces: bool,
    pub(super) outcome: Outcome,
    events: Gathered,
    pub(super) leases: Vec<LeaseEffect>,
    pub(super) compacted: Option<Revision>,
}

impl<'w> Work<'w> {
    /// An entry that is applied for the first time.
    pub(super) fn begin(writer: &'w mut Writer, settled: &'w Settled, index: LogIndex) -> Self {
        Self {
            writer,
            settled,
            index,
            revision: settled.position.revision.next(),
            sub: Sub(0),
            op: 0,
            from: 0,
            deletes: 0,
            in_pieces: false,
            outcome: Outcome::default(),
            events: Gathered::Held { changes: Vec::new(), bytes: 0 },
            leases: Vec::new(),
            compacted: None,
        }
    }

    /// An entry of which a crash left the first pieces.
    pub(super) fn resume(writer: &'w mut Writer, settled: &'w Settled, mark: Mark) -> Self {
        assert_eq!(mark.revision, settled.position.revision.next(), "an entry in pieces makes the next revision");
        let events = if mark.sub.0 > 0 { Gathered::TooMany } else { Gathered::Held { changes: Vec::new(), bytes: 0 } };
        Self {
            sub: mark.sub,
            from: mark.op,
            in_pieces: true,
            outcome: mark.outcome,
            events,
            ..Self::begin(writer, settled, mark.index)
        }
    }

    /// A request that was applied before, at `revision`: nothing is done, all is told.
    pub(super) fn retell(
        writer: &'w mut Writer,
        settled: &'w Settled,
        index: LogIndex,
        revision: Revision,
        outcome: Outcome,
    ) -> Self {
        Self { revision, sub: Sub(1), from: u64::MAX, outcome, ..Self::begin(writer, settled, index) }
    }

    /// Where the entry stands in the log.
    pub(super) fn index(&self) -> LogIndex {
        self.index
    }

    pub(super) fn read(&self) -> &Batch {
        &self.writer.batch
    }

    pub(super) fn batch(&mut self) -> &mut Batch {
        &mut self.writer.batch
    }

    /// Where the key space stands for the next operation: it sees the changes of those before it.
    pub(super) fn at(&self) -> Position {
        let revision = if self.sub.0 > 0 { self.revision } else { self.settled.position.revision };
        Position { revision, ..self.settled.position }
    }

    /// Nothing of this entry was done before.
    pub(super) fn is_first(&self) -> bool {
        self.from == 0 && !self.in_pieces
    }

    /// Whether the next operation has to be done. Goes with [`Work::end_op`].
    pub(super) fn begin_op(&mut self) -> bool {
        let due = self.op >= self.from;
        if due && self.op > 0 {
            self.cut_if_full();
        }
        due
    }

    pub(super) fn end_op(&mut self) {
        self.op += 1;
    }

    /// Puts, and moves the key from its old lease to the new one. Returns what it replaced.
    pub(super) fn put(&mut self, key: &Bytes, value: &Bytes, lease: LeaseId) -> Option<KeyValue> {
        let mut changes = Changes::new(&mut self.writer.batch, self.revision, self.sub);
        let before = changes.put(key, value, lease);
        self.sub = changes.made();
        self.events.add(changes.take(), self.writer.limits.events_bytes);
        let old = before.as_ref().map_or(LeaseId::NONE, |before| LeaseId(before.lease));
        if old != lease {
            if old != LeaseId::NONE {
                lease::detach(&mut self.writer.batch, old, key);
            }
            if lease != LeaseId::NONE {
                lease::attach(&mut self.writer.batch, lease, key);
            }
        }
        before
    }

    /// One delete operation: all keys of the range, with the count kept in the outcome. `each` sees what is deleted.
    pub(super) fn delete(&mut self, range: &KeyRange, mut each: impl FnMut(KeyValue)) -> u64 {
        self.count_delete();
        let mut step = self.delete_step(range);
        loop {
            let count = self.outcome.deleted.last_mut().expect("this delete is counted");
            *count += step.kvs.len() as u64;
            let so_far = *count;
            step.kvs.into_iter().for_each(&mut each);
            let Some(rest) = step.rest else { return so_far };
            self.cut_if_full();
            step = self.delete_step(&rest);
        }
    }

    /// Keys deleted by the next delete operation, which was done before.
    pub(super) fn was_deleted(&mut self) -> u64 {
        let deleted = self.outcome.deleted.get(self.deletes).copied().expect("each delete that was done was counted");
        self.deletes += 1;
        deleted
    }

    fn count_delete(&mut self) {
        if self.deletes == self.outcome.deleted.len() {
            self.outcome.deleted.push(0);
        }
        self.deletes += 1;
        assert_eq!(self.deletes, self.outcome.deleted.len(), "only the last delete can be half done");
    }

    /// Deletes keys of the range as far as one step goes, and takes them off their leases.
    pub(super) fn delete_step(&mut self, range: &KeyRange) -> Deleted {
        let mut changes = Changes::new(&mut self.writer.batch, self.revision, self.sub);
        let step = changes.delete(range);
        self.sub = changes.made();
        self.events.add(changes.take(), self.writer.limits.events_bytes);
        for kv in step.kvs.iter().filter(|kv| kv.lease != 0) {
            lease::detach(&mut self.writer.batch, LeaseId(kv.lease), &kv.key);
        }
        step
    }

    /// Writes what there is when it is too much to hold, with a mark that says where to go on.
    ///
    /// A crash after this leaves the entry half done in the store. Nothing is answered from there: readers keep the view
    /// of the entry before, and a restart applies this entry again, from the mark on, before it publishes a view.
    pub(super) fn cut_if_full(&mut self) {
        if !self.writer.is_full() {
            return;
        }
        let mark = Mark {
            index: self.index,
            revision: self.settled.position.revision.next(),
            sub: self.sub,
            op: self.op,
            outcome: self.outcome.clone(),
        };
        self.writer.batch.put(&Key::Meta(MetaKey::Resume), mark.encode());
        self.writer.write(self.settled);
        self.in_pieces = true;
    }

    /// The entry is done: what it did, and where the key space stands now.
    pub(super) fn finish(self) -> Done {
        if self.in_pieces {
            self.writer.batch.delete(&Key::Meta(MetaKey::Resume));
        }
        let position = Position { compacted: self.compacted.unwrap_or(self.settled.position.compacted), ..self.at() };
        let effects = Effects { events: self.events.into(), leases: self.leases, compacted: self.compacted };
        Done { position, effects, outcome: self.outcome }
    }

    /// Whether anything was changed.
    pub(super) fn has_changed(&self) -> bool {
        self.sub.0 > 0 || self.in_pieces || self.compacted.is_some() || !self.leases.is_empty()
    }
}

pub(super) struct Done {
    pub(super) position: Position,
    pub(super) effects: Effects,
    pub(super) outcome: Outcome,
}

/// The changes of one revision, as long as they fit.
enum Gathered {
    Held { changes: Vec<Change>, bytes: usize },
    TooMany,
}

impl Gathered {
    fn add(&mut self, more: Vec<Change>, max_bytes: usize) {
        let Self::Held { changes, bytes } = self else { return };
        *bytes += more.iter().map(size).sum::<usize>();
        if *bytes > max_bytes {
            *self = Self::TooMany;
        } else if changes.is_empty() {
            *changes = more;
        } else {
            changes.extend(more);
        }
    }
}

impl From<Gathered> for Events {
    fn from(gathered: Gathered) -> Self {
        match gathered {
            Gathered::Held { changes, .. } if changes.is_empty() => Self::None,
            Gathered::Held { changes, .. } => Self::Changes(changes.into()),
            Gathered::TooMany => Self::TooMany,
        }
    }
}

/// What a change holds in memory, near enough.
fn size(change: &Change) -> usize {
    let of = |kv: &KeyValue| size_of::<KeyValue>() + kv.key.len() + kv.value.len();
    of(&change.kv) + change.prev.as_ref().map_or(0, of)
}
