//! Changes: puts and deletes of one revision, with all that reads of the past and watchers will want to know of them.

use std::ops::ControlFlow;

use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;

use super::{
    count, past,
    query::{KeyRange, Span},
    value::{New, Record, Stored, encode_gone},
};
use crate::{
    engine::{Batch, Family, Key, Read},
    types::{LeaseId, Revision, Sub},
};

/// What one call of [`Changes::delete`] takes at most, in bytes of what it deletes (one key more may pass it). With
/// their copies in `log` that makes a batch of about twice as much, well below the 16 MiB at which `state` writes.
const DELETE_BYTES: usize = 1 << 20;

/// What a deleted key is counted as beside its own bytes, so that a million tiny keys are not one piece.
const DELETE_OVERHEAD: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Delete,
}

/// One change of one key, with what it replaced. Of a delete, `kv` holds only key and mod revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub kind: Kind,
    pub sub: Sub,
    pub kv: KeyValue,
    pub prev: Option<KeyValue>,
}

/// What a piece of a deletion did.
#[derive(Debug, Default)]
pub struct Deleted {
    /// What was deleted, ascending by key.
    pub kvs: Vec<KeyValue>,
    /// What is left of the range: delete that next. None: nothing is.
    pub rest: Option<KeyRange>,
}

/// The changes of one revision, written into a batch as they are made.
///
/// A revision too big for one batch is made in pieces: when the batch is big enough, [`Changes::made`] is remembered with
/// what else is needed to go on, the batch is written, and a new `Changes` over the next batch goes on from there; a wide
/// deletion goes on with the `rest` that its last piece left. After a crash between two pieces the same entry is applied
/// again from what was remembered: a deletion that was half done is asked for whole, and finds only what is left of it.
///
/// etcd lets a few transactions change a key twice, so a key may be changed more than once here. Replies then see what
/// the change itself replaced, and watchers what the revision did.
pub struct Changes<'b> {
    batch: &'b mut Batch,
    revision: Revision,
    next: Sub,
    changes: Vec<Change>,
}

impl<'b> Changes<'b> {
    /// `revision`: the one these changes make (current + 1). `from`: the first free sub (0, or what `made` said when an
    /// earlier piece was written).
    pub fn new(batch: &'b mut Batch, revision: Revision, from: Sub) -> Self {
        Self { batch, revision, next: from, changes: Vec::new() }
    }

    /// Reads see all that was changed so far.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        self.batch
    }

    /// Changes so far (also those of earlier pieces).
    #[must_use]
    pub fn made(&self) -> Sub {
        self.next
    }

    /// What this value changed, in order of sub.
    #[must_use]
    pub fn take(self) -> Vec<Change> {
        self.changes
    }

    /// Returns what the key held just before.
    pub fn put(&mut self, key: &Bytes, value: &Bytes, lease: LeaseId) -> Option<KeyValue> {
        let holder = self.batch.get(&Key::Cur(key));
        let before = holder.as_ref().map(|bytes| Stored::decode(bytes));
        let new = New {
            create: before.map_or(self.revision, |before| before.create),
            version: before.map_or(1, |before| before.version + 1),
            lease,
            value,
        };
        let sub = self.log(Record { key, new: Some(new), before });
        let stored = Stored { create: new.create, modified: self.revision, sub, version: new.version, lease, value };
        self.batch.put(&Key::Cur(key), stored.encode());
        let prev = match (before, &holder) {
            (Some(before), Some(holder)) => Some(before.key_value(key.clone(), holder)),
            _ => {
                count::created(self.batch, key);
                None
            }
        };
        let kv = KeyValue {
            key: key.clone(),
            create_revision: new.create.0,
            mod_revision: self.revision.0,
            version: new.version,
            value: value.clone(),
            lease: lease.0,
        };
        self.tell(Kind::Put, sub, kv, prev.as_ref());
        prev
    }

    /// Deletes the keys of the range that exist, or as many of them as make a piece.
    pub fn delete(&mut self, range: &KeyRange) -> Deleted {
        let (doomed, rest) = match range.span() {
            Span::Empty => return Deleted::default(),
            Span::One(key) => {
                let found = self.batch.get(&Key::Cur(key)).map(|bytes| (Bytes::copy_from_slice(key), bytes));
                (found.into_iter().collect(), None)
            }
            Span::List { from, to } => self.piece(range, from, to),
        };
        let kvs: Vec<KeyValue> = doomed.into_iter().map(|(key, bytes)| self.delete_one(key, &bytes)).collect();
        count::deleted(self.batch, &kvs);
        Deleted { kvs, rest }
    }

    /// The next keys of the range with what they hold, and what of the range lies behind them.
    fn piece(&self, range: &KeyRange, from: &[u8], to: Option<&[u8]>) -> (Vec<(Bytes, Bytes)>, Option<KeyRange>) {
        let mut doomed = Vec::new();
        let mut bytes = 0;
        let mut current = self.batch.scan(Family::Cur, from, to);
        while current.valid() {
            if bytes >= DELETE_BYTES {
                return (doomed, Some(range.at_or_above(Bytes::copy_from_slice(current.key()))));
            }
            bytes += current.key().len() + current.value().len() + DELETE_OVERHEAD;
            doomed.push((Bytes::copy_from_slice(current.key()), Bytes::copy_from_slice(current.value())));
            current.next();
        }
        (doomed, None)
    }

    fn delete_one(&mut self, key: Bytes, holder: &Bytes) -> KeyValue {
        let before = Stored::decode(holder);
        let sub = self.log(Record { key: &key, new: None, before: Some(before) });
        self.batch.delete(&Key::Cur(&key));
        self.batch.put(&Key::Gone(&key), encode_gone(self.revision));
        let kv = KeyValue { key: key.clone(), mod_revision: self.revision.0, ..KeyValue::default() };
        let prev = before.key_value(key, holder);
        self.tell(Kind::Delete, sub, kv, Some(&prev));
        prev
    }

    /// Writes the change under the next sub, and where to find what it superseded.
    fn log(&mut self, record: Record<'_>) -> Sub {
        let (revision, sub) = (self.revision, self.next);
        self.batch.put(&Key::Log { revision, sub }, record.encode());
        if record.before.is_some() {
            self.batch.put(&Key::Idx { key: record.key.into(), revision, sub }, Bytes::new());
        }
        self.next = sub.next();
        sub
    }

    /// Notes a change for watchers. They are told what was there before the revision, which differs from what was there
    /// just before if the revision changed the key already; of a key that the revision created they are told nothing,
    /// though it may have deleted it first.
    fn tell(&mut self, kind: Kind, sub: Sub, kv: KeyValue, just_before: Option<&KeyValue>) {
        let prev = match just_before {
            Some(_) if kv.create_revision == self.revision.0 => None,
            Some(before) if before.mod_revision == self.revision.0 => self.before_revision(&kv.key),
            before => before.cloned(),
        };
        self.changes.push(Change { kind, sub, kv, prev });
    }

    /// What a key that this revision changed was before it.
    fn before_revision(&self, key: &Bytes) -> Option<KeyValue> {
        let mut found = None;
        let last = Revision(self.revision.0 - 1);
        let all_there = past::replaced(self.batch, key, last, &mut |_, stored| {
            found = Some(stored.with_value(key.clone(), Bytes::copy_from_slice(stored.value)));
            ControlFlow::Continue(())
        });
        all_there.expect("the changes of a revision that is being made are all there");
        found
    }
}
