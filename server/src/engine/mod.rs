//! Ordered bytes on disk. (door essay to be written by the room's builder)

mod batch;
mod key;
mod memory;
mod rocks;

use std::path::Path;

use bytes::Bytes;

pub use batch::Batch;
pub use key::{Family, Key, MetaKey};

use crate::types::Revision;

/// What an engine may use. Bytes, unless the name says otherwise.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub block_cache_bytes: usize,
    pub memtable_bytes: usize,
}

/// A store of ordered families. Cheap to clone; all clones are the same store.
///
/// Its errors do not return: a store that cannot read or write stops the process (`engine::fatal`).
#[derive(Clone)]
pub struct Engine(/* enum Inner { Rocks(Arc<..>), Memory(Arc<..>) } */);

/// The store as it was when the view was taken.
#[derive(Clone)]
pub struct View(/* enum, Arc inside */);

/// What can be read: a [`View`], or a [`Batch`] over one, which sees its own writes.
pub trait Read {
    fn get(&self, key: &Key<'_>) -> Option<Bytes>;
    /// Entries of `family` with `from <= key < to` in key order, in encoded form; no `to` means to the end.
    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>) -> Cursor<'_>;
    /// The last entry of `family` whose encoded key is at or below `at`.
    fn last_at_or_below(&self, family: Family, at: &[u8]) -> Option<(Vec<u8>, Bytes)>;
}

/// A lending cursor: stands on an entry while `valid`.
pub struct Cursor<'a>(std::marker::PhantomData<&'a ()>);

impl Cursor<'_> {
    pub fn valid(&self) -> bool {
        todo!()
    }
    /// Encoded key (see [`Key::decode`]).
    pub fn key(&self) -> &[u8] {
        todo!()
    }
    pub fn value(&self) -> &[u8] {
        todo!()
    }
    pub fn next(&mut self) {
        todo!()
    }
    /// Moves forward to the first entry at or above `key`, never past the cursor's end bound.
    pub fn seek(&mut self, _key: &[u8]) {
        todo!()
    }
}

/// What cannot be opened, and why; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Locked(String),
    #[error("{0}")]
    Corrupt(String),
    #[error("{0}")]
    Io(String),
}

impl Engine {
    pub fn open(_path: &Path, _options: &EngineOptions) -> Result<Self, OpenError> {
        todo!()
    }
    /// The in-memory twin (see `memory`). For the simulator and for tests.
    pub fn memory() -> Self {
        todo!()
    }
    pub fn view(&self) -> View {
        todo!()
    }
    /// Writes all of the batch or, after a crash, none of it. Not durable before a flush covers it.
    pub fn write(&self, _batch: Batch) {
        todo!()
    }
    /// Makes all that was written durable, in all families together. Blocks.
    pub fn flush(&self) {
        todo!()
    }
    /// The value of a `meta` key as it would be read after a crash now.
    pub fn persisted(&self, _key: MetaKey) -> Option<Bytes> {
        todo!()
    }
    /// History that only reads below `floor` need may go: `log` entries with revision < floor (whole files, at once),
    /// `idx` and `gone` entries with revision <= floor (when their files are next compacted). The caller has made sure
    /// that `floor` is at most the durable compacted revision. Blocks; monotone.
    pub fn drop_history(&self, _floor: Revision) {
        todo!()
    }
    /// Rewrites `idx` and `gone` files that are mostly droppable, so that their space comes back now. Blocks.
    pub fn rewrite_history(&self) {
        todo!()
    }
    /// (logical bytes in use, bytes on disk)
    pub fn size(&self) -> Size {
        todo!()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    pub on_disk: u64,
    pub in_use: u64,
}

/// The store cannot be read or written, or holds what cannot be: stops the process.
pub fn fatal(context: &str, error: impl std::fmt::Display) -> ! {
    panic!("{context}: {error}")
}
