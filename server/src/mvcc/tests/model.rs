//! The key space as naively as possible: a list of all changes ever made. Every question is answered by going through it
//! from the start. HashKV is answered from a model of etcd's own bucket, compactions included.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::mvccpb::KeyValue;
use prost::Message;

use crate::{
    mvcc::{KeyRange, Kind, Position, Query, SortTarget},
    types::Revision,
};

#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) revision: i64,
    pub(super) sub: u32,
    pub(super) key: Vec<u8>,
    /// Value and lease; None: deleted.
    pub(super) put: Option<(Vec<u8>, i64)>,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) events: Vec<Event>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    /// etcd's bucket: revision and sub, whether a deletion, the stored message.
    bucket: BTreeMap<(i64, u32), (bool, KeyValue)>,
}

/// What a read must answer.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) kvs: Vec<KeyValue>,
    pub(super) count: i64,
    pub(super) more: bool,
}

impl Model {
    pub(super) fn new() -> Self {
        Self { revision: 1, compacted: -1, ..Self::default() }
    }

    pub(super) fn position(&self) -> Position {
        Position { revision: Revision(self.revision), compacted: Revision(self.compacted) }
    }

    /// Adds a change of the revision after the current one, which [`Model::commit`] then makes current.
    pub(super) fn change(&mut self, sub: u32, key: &[u8], put: Option<(Vec<u8>, i64)>) {
        let revision = self.revision + 1;
        self.events.push(Event { revision, sub, key: key.to_vec(), put });
        let kv = self.replay(key, &self.events);
        let stored = kv.clone().unwrap_or(KeyValue { key: key.to_vec().into(), ..KeyValue::default() });
        self.bucket.insert((revision, sub), (kv.is_none(), stored));
    }

    pub(super) fn commit(&mut self) {
        self.revision += 1;
    }

    /// Nothing above `revision` has happened. Compactions were durable, and stay.
    pub(super) fn roll_back(&mut self, revision: i64) {
        self.events.retain(|event| event.revision <= revision);
        self.bucket.retain(|place, _| place.0 <= revision);
        self.revision = revision;
    }

    pub(super) fn compact(&mut self, revision: i64) {
        self.compacted = revision;
        let kept: BTreeSet<(i64, u32)> = self
            .keys()
            .iter()
            .filter_map(|key| self.events.iter().rfind(|event| event.key == *key && event.revision <= revision))
            .filter(|event| event.put.is_some() || event.revision == revision)
            .map(|event| (event.revision, event.sub))
            .collect();
        self.bucket.retain(|place, _| place.0 > revision || kept.contains(place));
    }

    pub(super) fn keys(&self) -> BTreeSet<Vec<u8>> {
        self.events.iter().map(|event| event.key.clone()).collect()
    }

    pub(super) fn at(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let later = self.events.iter().position(|event| event.revision > revision).unwrap_or(self.events.len());
        self.replay(key, &self.events[..later])
    }

    fn replay(&self, key: &[u8], events: &[Event]) -> Option<KeyValue> {
        let mut now: Option<KeyValue> = None;
        for event in events.iter().filter(|event| event.key == key) {
            now = event.put.as_ref().map(|(value, lease)| KeyValue {
                key: key.to_vec().into(),
                create_revision: now.as_ref().map_or(event.revision, |before| before.create_revision),
                mod_revision: event.revision,
                version: now.as_ref().map_or(1, |before| before.version + 1),
                value: value.clone().into(),
                lease: *lease,
            });
        }
        now
    }

    pub(super) fn list(&self, range: &KeyRange, revision: i64) -> Vec<KeyValue> {
        self.keys().iter().filter(|key| range.contains(key)).filter_map(|key| self.at(key, revision)).collect()
    }

    /// etcd's steps, one after the other: fetch, filter, sort, cut.
    pub(super) fn range(&self, query: &Query) -> Answer {
        let revision = if query.revision.0 <= 0 { self.revision } else { query.revision.0 };
        let all = self.list(&query.range, revision);
        let count = all.len() as i64;
        if query.count_only {
            return Answer { kvs: Vec::new(), count, more: false };
        }
        let bounds = [query.min_mod.0, query.max_mod.0, query.min_create.0, query.max_create.0];
        let filtered = bounds.iter().any(|bound| *bound != 0);
        let fetch_all = filtered || query.sort.is_some_and(|sort| !sort.after_limit) || query.limit == 0;
        let fetched = if fetch_all { usize::MAX } else { query.limit + 1 };
        let mut kvs: Vec<KeyValue> = all.into_iter().take(fetched).collect();
        let [min_mod, max_mod, min_create, max_create] = bounds;
        kvs.retain(|kv| {
            (max_mod == 0 || kv.mod_revision <= max_mod)
                && (min_mod == 0 || kv.mod_revision >= min_mod)
                && (max_create == 0 || kv.create_revision <= max_create)
                && (min_create == 0 || kv.create_revision >= min_create)
        });
        if let Some(sort) = query.sort {
            kvs.sort_by(|a, b| {
                let order = match sort.target {
                    SortTarget::Key => a.key.cmp(&b.key),
                    SortTarget::Version => a.version.cmp(&b.version),
                    SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                    SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                    SortTarget::Value => a.value.cmp(&b.value),
                };
                if sort.descending { order.reverse() } else { order }
            });
        }
        let more = query.limit > 0 && kvs.len() > query.limit;
        if more {
            kvs.truncate(query.limit);
        }
        if query.keys_only {
            let by_value = query.sort.is_some_and(|sort| sort.target == SortTarget::Value);
            for kv in &mut kvs {
                kv.value.clear();
                kv.lease = if by_value { kv.lease } else { 0 };
            }
        }
        Answer { kvs, count, more }
    }

    /// Each change from a revision on: revision, sub, kind, new, previous.
    pub(super) fn feed(&self, from: i64) -> Vec<(i64, u32, Kind, KeyValue, Option<KeyValue>)> {
        self.events
            .iter()
            .enumerate()
            .filter(|(_, event)| event.revision >= from && event.revision <= self.revision)
            .map(|(number, event)| {
                let past = self.at(&event.key, event.revision - 1).filter(|_| event.revision > self.compacted);
                let deletion =
                    KeyValue { key: event.key.clone().into(), mod_revision: event.revision, ..KeyValue::default() };
                let kind = if event.put.is_some() { Kind::Put } else { Kind::Delete };
                let kv = self.replay(&event.key, &self.events[..=number]).unwrap_or(deletion);
                let prev = past.filter(|_| kv.create_revision != event.revision);
                (event.revision, event.sub, kind, kv, prev)
            })
            .collect()
    }

    pub(super) fn hash(&self, revision: i64) -> u32 {
        let keep: BTreeSet<(i64, u32)> = self
            .keys()
            .iter()
            .filter_map(|key| self.events.iter().rfind(|event| event.key == *key && event.revision <= revision))
            .filter(|event| event.put.is_some())
            .map(|event| (event.revision, event.sub))
            .collect();
        let mut hash = crc32c::crc32c(b"key");
        for (place, (deletion, kv)) in self.bucket.range(..(revision + 1, 0)) {
            let dropped = place.0 <= self.compacted && !keep.is_empty() && !keep.contains(place);
            if dropped || (place.0 == self.compacted && *deletion) {
                continue;
            }
            let mut record = place.0.to_be_bytes().to_vec();
            record.push(b'_');
            record.extend(i64::from(place.1).to_be_bytes());
            if *deletion {
                record.push(b't');
            }
            record.extend(kv.encode_to_vec());
            hash = crc32c::crc32c_append(hash, &record);
        }
        hash
    }
}
