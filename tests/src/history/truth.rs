//! What the key space was at every revision, from the events that made it so.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_proto::mvccpb::{Event, KeyValue, event::EventType};

/// A fresh store is at this revision, with nothing in it.
const FRESH: i64 = 1;

/// One key after a change; none: it was deleted.
pub(super) type After = (Bytes, Option<KeyValue>);

/// Every version of every key.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// Of revision 2 and those that follow: what changed.
    revisions: Vec<Vec<After>>,
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    /// Where each value was put.
    values: BTreeMap<Bytes, (i64, Bytes)>,
}

impl Truth {
    /// From all events since revision 1, with their pre-images.
    ///
    /// # Errors
    /// If no key space can have done this.
    pub fn new(events: &[Event]) -> Result<Self, String> {
        let mut truth = Self::default();
        for event in events {
            truth.push(event).map_err(|why| format!("{why}\n  at {event:?}"))?;
        }
        Ok(truth)
    }

    fn push(&mut self, event: &Event) -> Result<(), String> {
        let kv = event.kv.as_ref().ok_or("an event without a key-value")?;
        let (made, last) = (kv.mod_revision, self.last());
        must(made == last + 1 || (made == last && made > FRESH), || format!("revision {made} comes after {last}"))?;
        must(kv.lease == 0, || "a lease, which nobody attaches".to_owned())?;
        let before = self.at(&kv.key, made).cloned();
        if let Some(prev) = &event.prev_kv {
            must(before.as_ref() == Some(prev), || format!("the pre-image is {before:?}"))?;
        }
        let deleted = event.r#type() == EventType::Delete;
        let after = if deleted {
            must(before.is_some(), || "a delete of what does not exist".to_owned())?;
            None
        } else {
            let (create, version) = before.map_or((made, 1), |b| (b.create_revision, b.version + 1));
            must((kv.create_revision, kv.version) == (create, version), || {
                format!("create revision {create} and version {version} would follow")
            })?;
            if let Some((first, key)) = self.values.insert(kv.value.clone(), (made, kv.key.clone())) {
                return Err(format!("its value was put at {first} already, into {key:?}: executed twice"));
            }
            Some(kv.clone())
        };
        if made > last {
            self.revisions.push(Vec::new());
        }
        let changes = self.revisions.last_mut().expect("revision 1 has no events");
        must(changes.iter().all(|(key, _)| *key != kv.key), || "one key twice in a revision".to_owned())?;
        changes.push((kv.key.clone(), after.clone()));
        self.keys.entry(kv.key.clone()).or_default().push((made, after));
        Ok(())
    }

    /// The last revision.
    #[must_use]
    pub fn last(&self) -> i64 {
        FRESH + i64::try_from(self.revisions.len()).expect("fewer than 2^63")
    }

    /// What was changed at a revision; nothing at one that is not there.
    pub(super) fn changes(&self, revision: i64) -> &[After] {
        let place = usize::try_from(revision - FRESH - 1).ok();
        place.and_then(|place| self.revisions.get(place)).map_or(&[], Vec::as_slice)
    }

    /// Where a value was put.
    pub(super) fn put_of(&self, value: &Bytes) -> Option<i64> {
        self.values.get(value).map(|(revision, _)| *revision)
    }

    /// One key as it was at a revision.
    #[must_use]
    pub fn at(&self, key: &Bytes, revision: i64) -> Option<&KeyValue> {
        self.keys.get(key).and_then(|versions| state(versions, revision))
    }

    /// The keys in `from..to`, or one key if `to` is empty, as they were at a revision.
    #[must_use]
    pub fn read(&self, from: &Bytes, to: &Bytes, revision: i64) -> Vec<&KeyValue> {
        if to.is_empty() {
            return self.at(from, revision).into_iter().collect();
        }
        // An empty range is no error, here as in etcd.
        let to = to.max(from);
        self.keys.range(from.clone()..to.clone()).filter_map(|(_, versions)| state(versions, revision)).collect()
    }

    /// All keys.
    #[must_use]
    pub fn all(&self, revision: i64) -> Vec<&KeyValue> {
        self.keys.values().filter_map(|versions| state(versions, revision)).collect()
    }
}

fn state(versions: &[(i64, Option<KeyValue>)], revision: i64) -> Option<&KeyValue> {
    let newer = versions.partition_point(|(made, _)| *made <= revision);
    versions[..newer].last().and_then(|(_, kv)| kv.as_ref())
}

/// Refuses with words, unless it is so.
pub(super) fn must(so: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if so { Ok(()) } else { Err(why()) }
}
