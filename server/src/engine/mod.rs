//! Ordered bytes on disk.
//!
//! The store is a set of *families*, each an ordered map of bytes. One [`Batch`] over several families becomes visible
//! as a whole, and after a crash is there as a whole or not at all. There is no log here: what was written since the
//! last flush is lost in a crash, always a suffix of the batches, in all families at the same batch. Whoever uses the
//! engine keeps a log of its own and finds out by [`Engine::persisted`] where to go on.
//!
//! Two stores stand behind the same types: RocksDB, and an in-memory twin whose crashes are drawn from a seed. A test
//! runs the same scripts on both. The twin exists because RocksDB has threads and a clock, which a simulator in one
//! thread cannot have.
//!
//! # Invariants
//!
//! - This is the only room that names RocksDB (`tests/tests/house.rs`).
//! - [`Key`] is the disk format: no key is made or read in another place (golden vectors in `tests.rs`).
//! - After a crash the store is a prefix of its batches, never less than the last flush (`tests.rs`, both engines).
//! - Nothing at or above the floor is dropped (`tests.rs` and `tests/reclaim.rs`, both engines).
//! - A view does not change, except that history may vanish from it: [`Engine::drop_history`] unlinks files under its
//!   readers. Callers drop only what no permitted read consults, and past reads check the compacted revision afterwards.
//! - A store that cannot read or write never returns: the process ends ([`fatal`]), for an answer from half a store
//!   would be wrong. Block checksums are verified on every read from disk, and those of RocksDB's list of files before it
//!   reads it (`tests/damage.rs`). Damage to the last record of that list takes the store back to an earlier flush, as a
//!   crash in the middle of it would, which is found by comparing it with the raft log.
//! - A store that starts over ([`Engine::start_over`]) does so in one batch, under open views (`tests/start_over.rs`, both
//!   engines).
//! - Memory is bounded by [`EngineOptions`], whatever the number of keys: indexes and filters live in the cache too
//!   (`tests/reclaim.rs`, a million keys).
//!
//! # Not here
//!
//! What the bytes of values mean (`mvcc`, `lease`, `members`, `state`); when to flush and what to drop (`node`).

mod direct;
mod fault;
mod key;

mod batch;
mod cursor;

mod history;
mod manifest;
mod memory;
mod rocks;
mod tuning;

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc};

use bytes::Bytes;

pub use batch::Batch;
pub use cursor::Cursor;
pub use fault::{EXIT_STORE, OpenError, fatal};
pub use history::droppable;
pub use key::{Family, Key, Malformed, MetaKey};
pub use memory::{MemoryCounts, MemoryEngine};

use crate::types::Revision;
use memory::MemoryView;
use rocks::{Rocks, RocksView};

/// What an engine may use.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Blocks, indexes, filters and memtables together.
    pub block_cache_bytes: usize,
    /// Memtables of all families, charged to the block cache; at most half of it is sensible.
    pub memtable_bytes: usize,
    /// Files held open; -1 for all.
    pub max_open_files: i32,
}

impl Default for EngineOptions {
    /// A million keys of 256 B, loaded, overwritten and compacted, peaked at 384 MB of resident memory with 160 and 64 MB,
    /// at 452 with 224 and 96 (`make scale` on a busy machine); this leaves room below 400.
    fn default() -> Self {
        Self { block_cache_bytes: 144 << 20, memtable_bytes: 56 << 20, max_open_files: 1024 }
    }
}

/// A store of ordered families. Cheap to clone; all clones are the same store. One thread writes.
#[derive(Clone)]
pub struct Engine(Store);

#[derive(Clone)]
enum Store {
    Rocks(Arc<Rocks>),
    Memory(MemoryEngine),
}

/// The store as it was when the view was taken. Cheap to clone.
#[derive(Clone)]
pub struct View(Arc<Seen>);

enum Seen {
    Rocks(RocksView),
    Memory(MemoryView),
}

/// What can be read: a [`View`], or a [`Batch`] over one, which sees its own writes.
pub trait Read {
    fn get(&self, key: &Key<'_>) -> Option<Bytes>;
    /// Entries of `family` with `from <= key < to` in key order, in encoded form; no `to` means to the end.
    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>) -> Cursor<'_>;
    /// The last entry of `family` whose encoded key is at or below `at`.
    fn last_at_or_below(&self, family: Family, at: &[u8]) -> Option<(Vec<u8>, Bytes)>;
}

/// Bytes of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// In files and memtables.
    pub on_disk: u64,
    /// Of them, an estimate of what is not garbage.
    pub in_use: u64,
}

impl Engine {
    /// Opens the store in `path`, and makes it if it is not there.
    ///
    /// # Errors
    /// If it is in use, damaged or not accessible.
    pub fn open(path: &Path, options: &EngineOptions) -> Result<Self, OpenError> {
        Rocks::open(path, options).map(|rocks| Self(Store::Rocks(Arc::new(rocks))))
    }

    /// The in-memory twin of seed 0, for tests that need no crash.
    #[must_use]
    pub fn memory() -> Self {
        MemoryEngine::new(0).into()
    }

    /// The store as it is now.
    #[must_use]
    pub fn view(&self) -> View {
        View(Arc::new(match &self.0 {
            Store::Rocks(rocks) => Seen::Rocks(rocks.view()),
            Store::Memory(memory) => Seen::Memory(memory.view()),
        }))
    }

    /// Writes all of the batch or, after a crash, none of it. Not durable before a flush covers it.
    pub fn write(&self, batch: Batch) {
        match &self.0 {
            Store::Rocks(rocks) => rocks.write(batch),
            Store::Memory(memory) => memory.write(batch),
        }
    }

    /// Everything goes and the batch is there instead, as one batch: a crash leaves all of the old or nothing of it.
    /// Views that are open keep what they saw. Space comes back as compaction gets to it.
    pub fn start_over(&self, batch: Batch) {
        match &self.0 {
            Store::Rocks(rocks) => rocks.start_over(batch),
            Store::Memory(memory) => memory.start_over(batch),
        }
    }

    /// Makes all that was written durable, in all families together. Blocks.
    pub fn flush(&self) {
        match &self.0 {
            Store::Rocks(rocks) => rocks.flush(),
            Store::Memory(memory) => memory.flush(),
        }
    }

    /// The value of a `meta` key as it would be read after a crash now.
    #[must_use]
    pub fn persisted(&self, key: MetaKey) -> Option<Bytes> {
        match &self.0 {
            Store::Rocks(rocks) => rocks.persisted(key),
            Store::Memory(memory) => memory.persisted(key),
        }
    }

    /// History that only reads below `floor` need may go: `log` entries with revision < `floor`, whole files at once;
    /// `idx` and `gone` entries with revision <= `floor`, when their files are next compacted. Views do not protect
    /// it, and a crash does not bring it back, so `floor` is at most the *durable* compacted revision and below every
    /// reader that must not be disturbed. Blocks.
    pub fn drop_history(&self, floor: Revision) {
        match &self.0 {
            Store::Rocks(rocks) => rocks.drop_history(floor),
            Store::Memory(memory) => memory.drop_history(floor),
        }
    }

    /// Rewrites what still holds history below `floor`, given to [`Engine::drop_history`] before, so that its space
    /// comes back now. Does nothing while that is less than a quarter of the revisions that history spans, so that a
    /// floor which rises in small steps does not rewrite everything at each. Blocks; a crash meanwhile loses nothing.
    pub fn rewrite_history(&self, floor: Revision) {
        match &self.0 {
            Store::Rocks(rocks) => rocks.rewrite_history(floor),
            Store::Memory(memory) => memory.rewrite_history(floor),
        }
    }

    #[must_use]
    pub fn size(&self) -> Size {
        match &self.0 {
            Store::Rocks(rocks) => rocks.size(),
            Store::Memory(memory) => memory.size(),
        }
    }
}

impl From<MemoryEngine> for Engine {
    fn from(memory: MemoryEngine) -> Self {
        Self(Store::Memory(memory))
    }
}

impl View {
    fn last(&self, family: Family, at: &[u8], open: bool) -> Option<(Vec<u8>, Bytes)> {
        match &*self.0 {
            Seen::Rocks(view) => view.last(family, at, open),
            Seen::Memory(view) => view.last(family, at, open),
        }
    }
}

impl Read for View {
    fn get(&self, key: &Key<'_>) -> Option<Bytes> {
        match &*self.0 {
            Seen::Rocks(view) => view.get(key.family(), &key.bytes()),
            Seen::Memory(view) => view.get(key.family(), &key.bytes()),
        }
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>) -> Cursor<'_> {
        match &*self.0 {
            Seen::Rocks(view) => Cursor::rocks(view.scan(family, from, to)),
            Seen::Memory(view) => Cursor::memory(view.scan(family, from, to)),
        }
    }

    fn last_at_or_below(&self, family: Family, at: &[u8]) -> Option<(Vec<u8>, Bytes)> {
        self.last(family, at, false)
    }
}
