//! Writes that are not in the store yet, over a view of it.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};

use bytes::Bytes;

use super::{Cursor, Family, Key, Read, View};

/// Writes over a view; reads through the batch see them. [`super::Engine::write`] makes them part of the store.
///
/// Entries of one batch must read each other's writes, for they are applied one after the other and written together.
pub struct Batch {
    base: View,
    families: [BTreeMap<Vec<u8>, Option<Bytes>>; Family::ALL.len()],
    bytes: usize,
}

impl Batch {
    /// An empty batch over `base`, which must be the newest view: there is one writer.
    #[must_use]
    pub fn new(base: View) -> Self {
        Self { base, families: Default::default(), bytes: 0 }
    }

    pub fn put(&mut self, key: &Key<'_>, value: Bytes) {
        self.set(key, Some(value));
    }

    pub fn delete(&mut self, key: &Key<'_>) {
        self.set(key, None);
    }

    fn set(&mut self, key: &Key<'_>, value: Option<Bytes>) {
        let encoded = key.encode();
        let length = encoded.len();
        self.bytes += value.as_ref().map_or(0, Bytes::len);
        match self.families[key.family() as usize].insert(encoded, value) {
            Some(replaced) => self.bytes -= replaced.map_or(0, |value| value.len()),
            None => self.bytes += length,
        }
    }

    /// Bytes of keys and values held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.families.iter().all(BTreeMap::is_empty)
    }

    /// What was written, by family and key; no value means deleted.
    pub(super) fn into_writes(self) -> impl Iterator<Item = (Family, Vec<u8>, Option<Bytes>)> {
        let families = Family::ALL.into_iter().zip(self.families);
        families.flat_map(|(family, writes)| writes.into_iter().map(move |(key, value)| (family, key, value)))
    }
}

impl Read for Batch {
    fn get(&self, key: &Key<'_>) -> Option<Bytes> {
        match self.families[key.family() as usize].get(key.bytes().as_ref()) {
            Some(written) => written.clone(),
            None => self.base.get(key),
        }
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>) -> Cursor<'_> {
        let base = self.base.scan(family, from, to);
        let writes = &self.families[family as usize];
        if writes.is_empty() || to.is_some_and(|to| to <= from) {
            return base;
        }
        let overlay = writes.range::<[u8], _>((Included(from), to.map_or(Unbounded, Excluded)));
        Cursor::merged(base, overlay)
    }

    fn last_at_or_below(&self, family: Family, at: &[u8]) -> Option<(Vec<u8>, Bytes)> {
        let writes = &self.families[family as usize];
        let mut at = at.to_vec();
        let mut bound_is_open = false;
        loop {
            let below = self.base.last(family, &at, bound_is_open);
            let upper = if bound_is_open { Excluded(at.as_slice()) } else { Included(at.as_slice()) };
            match (writes.range::<[u8], _>((Unbounded, upper)).next_back(), below) {
                (None, below) => return below,
                (Some((key, _)), Some(below)) if *key < below.0 => return Some(below),
                (Some((key, Some(value))), _) => return Some((key.clone(), value.clone())),
                (Some((key, None)), _) => {
                    at.clone_from(key);
                    bound_is_open = true;
                }
            }
        }
    }
}
