//! The store on RocksDB. No other file but `tuning.rs` and `fault.rs` names the crate.
//!
//! RocksDB's own log is off: the raft log is the log, and each batch carries the applied index. All families are
//! flushed as one (`atomic_flush`), or after a crash each would come back at another index.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;
use rocksdb::{
    BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBRawIterator,
    FlushOptions, ReadOptions, ReadTier, Snapshot, WriteBatch, WriteOptions,
};
use self_cell::self_cell;

use super::{Batch, EngineOptions, Family, Key, MetaKey, OpenError, Size, direct, fault::failed, manifest, tuning};
use crate::types::{Revision, Sub};

/// How much of the revisions that `idx` spans must be below the floor before it is rewritten. A rewrite reads all of it
/// and drops at least this part, so each entry is rewritten four times in the long run however small the steps are in
/// which the floor rises.
const REWRITE_PART: i64 = 4;

self_cell!(
    /// The database and its families, which are looked up by name once.
    struct Open {
        owner: DB,
        #[covariant]
        dependent: Families,
    }
);

struct Families<'a>([&'a ColumnFamily; Family::ALL.len()]);

pub(super) struct Rocks {
    open: Open,
    without_log: WriteOptions,
    only_flushed: ReadOptions,
    /// What the compaction filters may drop.
    floor: Arc<AtomicI64>,
    /// The floor at the last rewrite of history.
    rewritten: AtomicI64,
}

impl Rocks {
    pub(super) fn open(path: &Path, options: &EngineOptions) -> Result<Self, OpenError> {
        refuse_headless(path)?;
        manifest::check(path)?;
        let floor = Arc::new(AtomicI64::new(Revision::NEVER.0));
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let families = Family::ALL
            .map(|family| ColumnFamilyDescriptor::new(family.name(), tuning::family(family, options, &cache, &floor)));
        let direct = direct::works(path);
        let db = DB::open_cf_descriptors(&tuning::store(options, &cache, direct), path, families)
            .map_err(|error| OpenError::new(path, &error))?;
        let open = Open::new(db, |db| {
            Families(Family::ALL.map(|family| db.cf_handle(family.name()).expect("every family was just opened")))
        });
        let mut without_log = WriteOptions::default();
        without_log.disable_wal(true);
        let mut only_flushed = ReadOptions::default();
        only_flushed.set_read_tier(ReadTier::Persisted);
        Ok(Self { open, without_log, only_flushed, floor, rewritten: AtomicI64::new(0) })
    }

    fn db(&self) -> &DB {
        self.open.borrow_owner()
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.open.borrow_dependent().0[family as usize]
    }

    pub(super) fn view(self: &Arc<Self>) -> RocksView {
        RocksView::new(Arc::clone(self), |rocks| {
            let snapshot = rocks.db().snapshot();
            let mut get = ReadOptions::default();
            get.set_snapshot(&snapshot);
            Seen { snapshot, get }
        })
    }

    pub(super) fn write(&self, batch: Batch) {
        // Growing the buffer would copy it; the slack is for the heads of the records, about 12 bytes each.
        self.write_after(WriteBatch::with_capacity_bytes(batch.bytes() + batch.bytes() / 8 + 1024), batch);
    }

    /// A range delete for each family: it hides what is in files and memtables from later readers only, where dropping
    /// files would take them from views as well.
    pub(super) fn start_over(&self, batch: Batch) {
        let mut writes = WriteBatch::default();
        for family in Family::ALL {
            let mut last = self.db().raw_iterator_cf(self.family(family));
            last.seek_to_last();
            let last = RocksCursor::checked(last);
            if last.valid() {
                // The end of a range is exclusive, and this is the first key behind the last one.
                let end = [last.key(), &[0]].concat();
                writes.delete_range_cf(self.family(family), &b""[..], &end[..]);
            }
        }
        self.write_after(writes, batch);
    }

    fn write_after(&self, mut writes: WriteBatch, batch: Batch) {
        for (family, key, value) in batch.into_writes() {
            let family = self.family(family);
            match value {
                Some(value) => writes.put_cf(family, key, value),
                None => writes.delete_cf(family, key),
            }
        }
        self.db().write_opt(writes, &self.without_log).unwrap_or_else(|error| failed("write a batch", &error));
    }

    pub(super) fn flush(&self) {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families: Vec<&&ColumnFamily> = self.open.borrow_dependent().0.iter().collect();
        self.db().flush_cfs_opt(&families, &options).unwrap_or_else(|error| failed("flush", &error));
    }

    pub(super) fn persisted(&self, key: MetaKey) -> Option<Bytes> {
        let value = self.db().get_pinned_cf_opt(self.family(Family::Meta), Key::Meta(key).bytes(), &self.only_flushed);
        value.unwrap_or_else(|error| failed("read what is flushed", &error)).map(|value| Bytes::copy_from_slice(&value))
    }

    pub(super) fn drop_history(&self, floor: Revision) {
        self.floor.fetch_max(floor.0, Ordering::Relaxed);
        let Some(last) = last_droppable(floor) else { return };
        // RocksDB drops the files that lie within both bounds, the upper one *included*: it must be a key that may go.
        self.db()
            .delete_file_in_range_cf(self.family(Family::Log), FIRST.encode(), last.encode())
            .unwrap_or_else(|error| failed("drop history", &error));
    }

    pub(super) fn rewrite_history(&self, floor: Revision) {
        self.floor.fetch_max(floor.0, Ordering::Relaxed);
        let Some(last) = last_droppable(floor) else { return };
        if !self.worth_rewriting(floor) {
            return;
        }
        let mut options = CompactOptions::default();
        // Others may compact meanwhile; a writer must not wait for this.
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        let log = self.family(Family::Log);
        self.db().compact_range_cf_opt(log, None::<&[u8]>, Some(last.encode()), &options);
        for family in [Family::Idx, Family::Gone] {
            self.db().compact_range_cf_opt(self.family(family), None::<&[u8]>, None::<&[u8]>, &options);
        }
        self.rewritten.fetch_max(floor.0, Ordering::Relaxed);
    }

    fn worth_rewriting(&self, floor: Revision) -> bool {
        let mut log = self.db().raw_iterator_cf(self.family(Family::Log));
        log.seek_to_last();
        let cursor = RocksCursor::checked(log);
        let newest = match cursor.valid().then(|| Key::decode(Family::Log, cursor.key())) {
            Some(Ok(Key::Log { revision, .. })) => revision.max(floor),
            _ => floor,
        };
        let since = self.rewritten.load(Ordering::Relaxed);
        floor.0 > since && (floor.0 - since).saturating_mul(REWRITE_PART) >= newest.0 - since
    }

    pub(super) fn size(&self) -> Size {
        let sum = |property: &str| -> u64 {
            let of = |family| self.db().property_int_value_cf(self.family(family), property);
            Family::ALL.into_iter().filter_map(|family| of(family).ok().flatten()).sum()
        };
        let memtables = sum("rocksdb.cur-size-all-mem-tables");
        let files = sum("rocksdb.total-sst-files-size");
        // RocksDB's estimate can exceed the files for a moment.
        let live = sum("rocksdb.estimate-live-data-size").min(files);
        // What is in memtables counts as both: the part in use is never more than the whole.
        Size { on_disk: files + memtables, in_use: live + memtables }
    }
}

/// Below all changes.
const FIRST: Key<'static> = Key::Log { revision: Revision(0), sub: Sub(0) };

/// The last key of `log` that may go, if any may.
fn last_droppable(floor: Revision) -> Option<Key<'static>> {
    (floor.0 > 0).then(|| Key::Log { revision: Revision(floor.0 - 1), sub: Sub(u32::MAX) })
}

/// RocksDB would take a folder without its `CURRENT` file for a new one, and sweep the tables in it away.
fn refuse_headless(path: &Path) -> Result<(), OpenError> {
    let io = |error: std::io::Error| OpenError::Io(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(path).map_err(io)?;
    if path.join("CURRENT").exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if name.to_string_lossy().ends_with(".sst") {
            return Err(OpenError::corrupt(path, "the file CURRENT is missing although there are tables"));
        }
    }
    Ok(())
}

/// A snapshot, and how point reads go through it (kept, since making the options costs as much as a read).
struct Seen<'a> {
    snapshot: Snapshot<'a>,
    get: ReadOptions,
}

self_cell!(
    /// A snapshot and the database that it keeps open.
    pub(super) struct RocksView {
        owner: Arc<Rocks>,
        #[covariant]
        dependent: Seen,
    }
);

impl RocksView {
    pub(super) fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        let rocks = self.borrow_owner();
        let value = rocks.db().get_pinned_cf_opt(rocks.family(family), key, &self.borrow_dependent().get);
        value.unwrap_or_else(|error| failed("read a key", &error)).map(|value| Bytes::copy_from_slice(&value))
    }

    pub(super) fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>) -> RocksCursor<'_> {
        let mut options = ReadOptions::default();
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut inner = self.iterator(family, options);
        inner.seek(from);
        RocksCursor::checked(inner)
    }

    /// The last entry below `bound`, or at it unless the bound is open.
    pub(super) fn last(&self, family: Family, bound: &[u8], open: bool) -> Option<(Vec<u8>, Bytes)> {
        let mut inner = self.iterator(family, ReadOptions::default());
        inner.seek_for_prev(bound);
        if open && inner.key() == Some(bound) {
            inner.prev();
        }
        let cursor = RocksCursor::checked(inner);
        cursor.valid().then(|| (cursor.key().to_vec(), Bytes::copy_from_slice(cursor.value())))
    }

    fn iterator(&self, family: Family, options: ReadOptions) -> DBRawIterator<'_> {
        self.borrow_dependent().snapshot.raw_iterator_cf_opt(self.borrow_owner().family(family), options)
    }
}

pub(super) struct RocksCursor<'a> {
    inner: DBRawIterator<'a>,
}

impl<'a> RocksCursor<'a> {
    fn checked(inner: DBRawIterator<'a>) -> Self {
        let cursor = Self { inner };
        cursor.check();
        cursor
    }

    pub(super) fn valid(&self) -> bool {
        self.inner.valid()
    }

    pub(super) fn key(&self) -> &[u8] {
        self.inner.key().expect("the caller asked `valid`")
    }

    pub(super) fn value(&self) -> &[u8] {
        self.inner.value().expect("the caller asked `valid`")
    }

    pub(super) fn next(&mut self) {
        self.inner.next();
        self.check();
    }

    pub(super) fn seek(&mut self, key: &[u8]) {
        self.inner.seek(key);
        self.check();
    }

    /// An iterator that met a damaged block looks like one that is at its end; only its status tells.
    fn check(&self) {
        if !self.inner.valid() {
            self.inner.status().unwrap_or_else(|error| failed("read on", &error));
        }
    }
}
