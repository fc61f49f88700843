//! A key space over an engine, with the model beside it: whatever is done to one is done to the other.

use std::ops::Range;

use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::model::{Answer, Model};
use crate::{
    engine::{Batch, Engine, Family, Key, Read},
    mvcc::{
        Change, Changes, KeyRange, Kind, Position, Query, Sort, SortTarget, VersionRef, compact, count::count, feed,
        hash::hash_in_passes, range,
    },
    types::{LeaseId, Revision, Sub},
};

/// One operation of a revision.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Put(Vec<u8>, Vec<u8>, i64),
    Delete(KeyRange),
}

pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) at: Position,
    pub(super) model: Model,
    pub(super) rng: ChaCha8Rng,
}

impl World {
    pub(super) fn new(engine: Engine, seed: u64) -> Self {
        let model = Model::new();
        Self { engine, at: model.position(), model, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Keys that are prefixes of each other, hold zero and 0xFF bytes, and collide often.
    pub(super) fn key(&mut self) -> Vec<u8> {
        const LETTERS: [u8; 4] = [0, b'a', b'b', 0xff];
        let len = self.rng.random_range(1..=2);
        (0..len).map(|_| LETTERS[self.rng.random_range(0..LETTERS.len())]).collect()
    }

    pub(super) fn key_range(&mut self) -> KeyRange {
        let key = Bytes::from(self.key());
        let end = match self.rng.random_range(0..5) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            _ => self.key().into(),
        };
        KeyRange::parse(&key, &end)
    }

    /// What goes into one revision; a key may be changed more than once.
    fn ops(&mut self) -> Vec<Op> {
        let number = self.rng.random_range(1..=3);
        let mut op = || match self.rng.random_bool(0.7) {
            true => Op::Put(self.key(), vec![b'v'; self.rng.random_range(0..3)], self.rng.random_range(-1..2)),
            false => Op::Delete(self.key_range()),
        };
        (0..number).map(|_| op()).collect()
    }

    pub(super) fn step(&mut self) {
        if self.rng.random_bool(0.05) && self.at.revision > self.at.compacted {
            let revision = self.rng.random_range(self.at.compacted.0 + 1..=self.at.revision.0);
            self.compact(revision);
        } else {
            let ops = self.ops();
            self.revision(&ops);
        }
    }

    pub(super) fn compact(&mut self, revision: i64) {
        self.at = compact(self.at, Revision(revision)).expect("between the compacted and the current one");
        self.model.compact(revision);
        self.engine.flush();
        self.engine.drop_history(Revision(revision));
        if self.rng.random_bool(0.3) {
            self.engine.rewrite_history(Revision(revision));
        }
    }

    /// Everything that can be asked is asked, of every revision that may be read.
    pub(super) fn check(&mut self) {
        let oldest = self.at.compacted.0.max(1);
        for revision in oldest..=self.at.revision.0 {
            self.check_feed(revision);
            self.check_hash(revision);
            for _ in 0..3 {
                let query = self.query(revision..revision + 1);
                self.check_range(&query);
            }
        }
        let query = self.query(-1..1);
        self.check_range(&query);
        let range = self.key_range();
        let expected = self.model.list(&range, self.at.revision.0).len() as u64;
        assert_eq!(count(&self.engine.view(), &range), expected);
    }

    /// Goes on with what a crash has left: the revisions up to some one.
    pub(super) fn crashed(&mut self, engine: Engine) {
        let last = engine.view().last_at_or_below(Family::Log, &[0xff; 12]);
        let revision = last.map_or(Revision::FIRST, |(key, _)| match Key::decode(Family::Log, &key) {
            Ok(Key::Log { revision, .. }) => revision,
            other => panic!("{other:?}"),
        });
        assert!(revision >= self.at.compacted && revision <= self.at.revision);
        self.engine = engine;
        self.at.revision = revision;
        self.model.roll_back(revision.0);
    }

    /// Makes one revision, unless nothing changed, and compares what the changes say with the model.
    pub(super) fn revision(&mut self, ops: &[Op]) {
        let mut batch = Batch::new(self.engine.view());
        let mut changes = Changes::new(&mut batch, self.at.revision.next(), Sub(0));
        let mut sub = 0;
        for op in ops {
            match op {
                Op::Put(key, value, lease) => {
                    let prev = changes.put(&key.clone().into(), &value.clone().into(), LeaseId(*lease));
                    assert_eq!(prev, self.model.at(key, self.at.revision.0 + 1));
                    self.model.change(sub, key, Some((value.clone(), *lease)));
                    sub += 1;
                }
                Op::Delete(range) => {
                    let deleted = changes.delete(range);
                    assert_eq!(deleted.rest, None, "small keys fit into a piece");
                    assert_eq!(deleted.kvs, self.model.list(range, self.at.revision.0 + 1));
                    for kv in &deleted.kvs {
                        self.model.change(sub, &kv.key, None);
                        sub += 1;
                    }
                }
            }
        }
        assert_eq!(changes.made(), Sub(sub));
        let changes = changes.take();
        self.engine.write(batch);
        if sub > 0 {
            self.at.revision = self.at.revision.next();
            self.model.commit();
        }
        let told: Vec<_> = flat(self.model.revision, &changes).collect();
        let from = if sub > 0 { self.model.revision } else { self.model.revision + 1 };
        assert_eq!(told, self.model.feed(from));
    }

    pub(super) fn query(&mut self, revisions: Range<i64>) -> Query {
        let target = match self.rng.random_range(0..5) {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            _ => SortTarget::Value,
        };
        let sort = match self.rng.random_range(0..4) {
            0 | 1 => None,
            2 if target != SortTarget::Key => Some(Sort { target, descending: false, after_limit: true }),
            _ => Some(Sort { target, descending: self.rng.random_bool(0.5), after_limit: false }),
        };
        let top = self.at.revision.0;
        let bound = |rng: &mut ChaCha8Rng| Revision(if rng.random_bool(0.1) { rng.random_range(1..=top) } else { 0 });
        let [min_mod, max_mod, min_create, max_create] = std::array::from_fn(|_| bound(&mut self.rng));
        Query {
            range: self.key_range(),
            revision: Revision(self.rng.random_range(revisions)),
            limit: if self.rng.random_bool(0.5) { 0 } else { self.rng.random_range(1..6) },
            sort,
            keys_only: self.rng.random_bool(0.3),
            count_only: self.rng.random_bool(0.1),
            min_mod,
            max_mod,
            min_create,
            max_create,
        }
    }

    pub(super) fn check_range(&self, query: &Query) {
        let mut kvs = Vec::new();
        let summary = range(&self.engine.view(), self.at, query, &mut |version| kvs.push(owned(version)));
        let summary = summary.unwrap_or_else(|error| panic!("{error} for {query:?} at {:?}", self.at));
        let answer = Answer { kvs, count: summary.count, more: summary.more };
        assert_eq!(answer, self.model.range(query), "{query:?} at {:?}", self.at);
    }

    pub(super) fn check_feed(&mut self, from: i64) {
        let max_bytes = self.rng.random_range(0..200);
        let mut next = Revision(from);
        let mut told = Vec::new();
        while next <= self.at.revision {
            let chunk = feed(&self.engine.view(), self.at, next, max_bytes).expect("not compacted");
            assert!(chunk.next > next, "at least one revision");
            for (revision, changes) in &chunk.changes {
                told.extend(flat(revision.0, changes));
            }
            next = chunk.next;
        }
        assert_eq!(told, self.model.feed(from), "from {from} at {:?}", self.at);
    }

    pub(super) fn check_hash(&mut self, revision: i64) {
        let pass = self.rng.random_range(1..5);
        let hash = hash_in_passes(&self.engine.view(), self.at, Revision(revision), pass).expect("not compacted");
        assert_eq!(hash.hash, self.model.hash(revision), "hash of {revision} at {:?}", self.at);
        assert_eq!((hash.revision, hash.compacted), (Revision(revision), self.at.compacted));
    }
}

fn flat(revision: i64, changes: &[Change]) -> impl Iterator<Item = (i64, u32, Kind, KeyValue, Option<KeyValue>)> + '_ {
    changes.iter().map(move |change| (revision, change.sub.0, change.kind, change.kv.clone(), change.prev.clone()))
}

pub(super) fn owned(version: VersionRef<'_>) -> KeyValue {
    KeyValue {
        key: version.key.to_vec().into(),
        create_revision: version.create.0,
        mod_revision: version.modified.0,
        version: version.version,
        value: version.value.to_vec().into(),
        lease: version.lease.0,
    }
}

/// Everything that the room keeps, byte by byte.
pub(super) fn dump(engine: &Engine) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
    let view = engine.view();
    let mut all = Vec::new();
    for family in [Family::Cur, Family::Log, Family::Idx, Family::Gone, Family::Count] {
        let mut cursor = view.scan(family, &[], None);
        while cursor.valid() {
            all.push((family, cursor.key().to_vec(), cursor.value().to_vec()));
            cursor.next();
        }
    }
    all
}
