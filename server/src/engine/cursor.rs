//! One way to walk a family in key order, whatever it is read from.

use std::collections::btree_map;

use bytes::Bytes;

use super::{memory::MemoryCursor, rocks::RocksCursor};

/// Stands on an entry while [`Cursor::valid`]; what it lends is good until it moves.
pub struct Cursor<'a>(Inner<'a>);

enum Inner<'a> {
    Rocks(RocksCursor<'a>),
    Memory(MemoryCursor<'a>),
    Merged(Box<Merged<'a>>),
}

impl<'a> Cursor<'a> {
    pub(super) fn rocks(cursor: RocksCursor<'a>) -> Self {
        Self(Inner::Rocks(cursor))
    }

    pub(super) fn memory(cursor: MemoryCursor<'a>) -> Self {
        Self(Inner::Memory(cursor))
    }

    /// `base` as changed by `overlay`, both over the same bounds.
    pub(super) fn merged(base: Cursor<'a>, overlay: Overlay<'a>) -> Self {
        let mut merged = Merged { base, overlay, head: None };
        merged.settle();
        Self(Inner::Merged(Box::new(merged)))
    }

    /// Whether it stands on an entry; false at the end, for good.
    #[must_use]
    pub fn valid(&self) -> bool {
        match &self.0 {
            Inner::Rocks(cursor) => cursor.valid(),
            Inner::Memory(cursor) => cursor.valid(),
            Inner::Merged(cursor) => cursor.head.is_some() || cursor.base.valid(),
        }
    }

    /// The encoded key; see [`super::Key::decode`].
    ///
    /// # Panics
    /// If the cursor is not valid.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match &self.0 {
            Inner::Rocks(cursor) => cursor.key(),
            Inner::Memory(cursor) => cursor.key(),
            Inner::Merged(cursor) => cursor.head.as_ref().map_or_else(|| cursor.base.key(), |(key, _)| key),
        }
    }

    /// The value.
    ///
    /// # Panics
    /// If the cursor is not valid.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        match &self.0 {
            Inner::Rocks(cursor) => cursor.value(),
            Inner::Memory(cursor) => cursor.value(),
            Inner::Merged(cursor) => cursor.head.as_ref().map_or_else(|| cursor.base.value(), |(_, value)| value),
        }
    }

    /// Moves to the next entry.
    pub fn next(&mut self) {
        match &mut self.0 {
            Inner::Rocks(cursor) => cursor.next(),
            Inner::Memory(cursor) => cursor.next(),
            Inner::Merged(cursor) => cursor.next(),
        }
    }

    /// Moves forward to the first entry at or above `key` that is within the cursor's bounds; never backward.
    pub fn seek(&mut self, key: &[u8]) {
        if !self.valid() || self.key() >= key {
            return;
        }
        match &mut self.0 {
            Inner::Rocks(cursor) => cursor.seek(key),
            Inner::Memory(cursor) => cursor.seek(key),
            Inner::Merged(cursor) => cursor.seek(key),
        }
    }
}

/// What a batch says of one family within the cursor's bounds: a value, or that the key is gone.
pub(super) type Overlay<'a> = btree_map::Range<'a, Vec<u8>, Option<Bytes>>;

/// The overlay's next put is `head` when it stands at or below the base's entry; else the base's entry is current.
struct Merged<'a> {
    base: Cursor<'a>,
    overlay: Overlay<'a>,
    head: Option<(&'a [u8], &'a [u8])>,
}

impl<'a> Merged<'a> {
    /// Finds the smallest of both that is not deleted. Each round either ends or moves one of them forward.
    fn settle(&mut self) {
        self.head = None;
        loop {
            let Some((key, value)) = self.overlay.clone().next() else { return };
            if self.base.valid() && self.base.key() < key.as_slice() {
                return;
            }
            if self.base.valid() && self.base.key() == key.as_slice() {
                self.base.next();
            }
            self.overlay.next();
            if let Some(value) = value {
                self.head = Some((key, value));
                return;
            }
        }
    }

    fn next(&mut self) {
        if self.head.is_none() {
            self.base.next();
        }
        self.settle();
    }

    fn seek(&mut self, to: &[u8]) {
        self.base.seek(to);
        while self.overlay.clone().next().is_some_and(|(key, _)| key.as_slice() < to) {
            self.overlay.next();
        }
        self.settle();
    }
}
