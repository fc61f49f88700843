use bytes::Bytes;

use super::{Cursor, Family, Key, Read, View};

/// Writes that are not in the store yet, over a view of it. Reads see them.
pub struct Batch(());

impl Batch {
    pub fn new(_base: View) -> Self {
        todo!()
    }
    pub fn put(&mut self, _key: &Key<'_>, _value: Bytes) {
        todo!()
    }
    pub fn delete(&mut self, _key: &Key<'_>) {
        todo!()
    }
    /// Bytes of keys and values held.
    pub fn bytes(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        todo!()
    }
}

impl Read for Batch {
    fn get(&self, _key: &Key<'_>) -> Option<Bytes> {
        todo!()
    }
    fn scan(&self, _family: Family, _from: &[u8], _to: Option<&[u8]>) -> Cursor<'_> {
        todo!()
    }
    fn last_at_or_below(&self, _family: Family, _at: &[u8]) -> Option<(Vec<u8>, Bytes)> {
        todo!()
    }
}
impl Read for View {
    fn get(&self, _key: &Key<'_>) -> Option<Bytes> {
        todo!()
    }
    fn scan(&self, _family: Family, _from: &[u8], _to: Option<&[u8]>) -> Cursor<'_> {
        todo!()
    }
    fn last_at_or_below(&self, _family: Family, _at: &[u8]) -> Option<(Vec<u8>, Bytes)> {
        todo!()
    }
}
