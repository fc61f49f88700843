//! RocksDB, without its log: the raft log is the log, and every batch carries the applied index.
//!
//! All families are flushed together (`atomic_flush`), or after a crash each would come back at another applied index.
//! Figures behind the options: `docs/decisions/001-storage-layout.md`.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, DBRawIterator, FlushOptions, LogLevel, Options, ReadOptions, ReadTier, WriteBatch,
    WriteBufferManager, WriteOptions, compaction_filter::Decision,
};
use self_cell::self_cell;

use super::{Batch, EngineOptions, Family, Key, MetaKey, OpenError, Size, fatal, history};
use crate::types::Revision;

type Snapshot<'a> = rocksdb::Snapshot<'a>;

/// The store. One per data folder; RocksDB's own lock file keeps a second process out.
pub(super) struct Rocks {
    db: DB,
    /// What the compaction filters may drop; see [`super::Engine::drop_history`].
    floor: Arc<AtomicI64>,
    without_log: WriteOptions,
}

self_cell!(
    /// A snapshot and the store it keeps open.
    pub(super) struct RocksView {
        owner: Arc<Rocks>,
        #[covariant]
        dependent: Snapshot,
    }
);

impl Rocks {
    pub(super) fn open(path: &Path, options: &EngineOptions) -> Result<Self, OpenError> {
        let floor = Arc::new(AtomicI64::new(Revision::NEVER.0));
        let cache = Cache::new_hyper_clock_cache(options.block_cache_bytes, 0);
        let families = Family::ALL
            .map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family, options, &cache, &floor)));
        let db = DB::open_cf_descriptors(&store_options(options, &cache), path, families)
            .map_err(|e| open_error(path, &e))?;
        let mut without_log = WriteOptions::default();
        without_log.disable_wal(true);
        Ok(Self { db, floor, without_log })
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is opened with the store")
    }

    pub(super) fn view(self: &Arc<Self>) -> RocksView {
        RocksView::new(Arc::clone(self), |rocks| rocks.db.snapshot())
    }

    pub(super) fn write(&self, batch: Batch) {
        let mut writes = WriteBatch::with_capacity_bytes(batch.bytes() + 1024);
        let mut current = (Family::Cur, self.family(Family::Cur));
        for (family, key, value) in batch.into_writes() {
            if family != current.0 {
                current = (family, self.family(family));
            }
            match value {
                Some(value) => writes.put_cf(current.1, key, value),
                None => writes.delete_cf(current.1, key),
            }
        }
        self.db.write_opt(writes, &self.without_log).unwrap_or_else(|e| fatal("writing a batch", &e));
    }

    pub(super) fn flush(&self) {
        let families = Family::ALL.map(|family| self.family(family));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families: Vec<_> = families.iter().collect();
        self.db.flush_cfs_opt(&families, &options).unwrap_or_else(|e| fatal("flushing", &e));
    }

    pub(super) fn persisted(&self, key: MetaKey) -> Option<Bytes> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let value = self.db.get_pinned_cf_opt(self.family(Family::Meta), Key::Meta(key).bytes(), &options);
        value.unwrap_or_else(|e| fatal("reading what is flushed", &e)).map(|value| Bytes::copy_from_slice(&value))
    }

    /// Unlinks in this thread: 0.7 to 0.9 s for 1.4 GB.
    pub(super) fn drop_history(&self, floor: Revision) {
        self.floor.fetch_max(floor.0, Ordering::Relaxed);
        if floor <= Revision(0) {
            return;
        }
        // RocksDB drops files that lie wholly within both bounds, the last one included, so the last change that may
        // go is named.
        let first = Key::Log { revision: Revision(0), sub: crate::types::Sub(0) };
        let last = Key::Log { revision: Revision(floor.0 - 1), sub: crate::types::Sub(u32::MAX) };
        let dropped = self.db.delete_file_in_range_cf(self.family(Family::Log), first.encode(), last.encode());
        dropped.unwrap_or_else(|e| fatal("dropping history", &e));
    }

    pub(super) fn rewrite_history(&self, floor: Revision) {
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        options.set_exclusive_manual_compaction(false);
        let last = Key::Log { revision: Revision(floor.0.max(0)), sub: crate::types::Sub(0) };
        let log = self.family(Family::Log);
        self.db.compact_range_cf_opt(log, None::<&[u8]>, Some(last.encode()), &options);
        for family in [Family::Idx, Family::Gone] {
            self.db.compact_range_cf_opt(self.family(family), None::<&[u8]>, None::<&[u8]>, &options);
        }
    }

    pub(super) fn size(&self) -> Size {
        let sum = |property: &str| -> u64 {
            let of = |family| self.db.property_int_value_cf(self.family(family), property);
            Family::ALL.into_iter().filter_map(|family| of(family).ok().flatten()).sum()
        };
        let memory = sum("rocksdb.cur-size-all-mem-tables");
        let on_disk = sum("rocksdb.total-sst-files-size") + memory;
        let in_use = (sum("rocksdb.estimate-live-data-size") + memory).min(on_disk);
        Size { on_disk, in_use }
    }
}

fn store_options(options: &EngineOptions, cache: &Cache) -> Options {
    let mut store = Options::default();
    store.create_if_missing(true);
    store.create_missing_column_families(true);
    store.set_atomic_flush(true);
    store.set_paranoid_checks(true);
    // Memtables are charged to the block cache, so that one number bounds both.
    let manager = WriteBufferManager::new_write_buffer_manager_with_cache(options.memtable_bytes, false, cache.clone());
    store.set_write_buffer_manager(&manager);
    store.set_max_background_jobs(2);
    // One thread writes; concurrent memtable inserts only cost.
    store.set_allow_concurrent_memtable_write(false);
    store.set_bytes_per_sync(1 << 20);
    store.set_log_level(LogLevel::Warn);
    store.set_keep_log_file_num(2);
    store.set_max_log_file_size(4 << 20);
    store.set_stats_dump_period_sec(0);
    store.set_max_open_files(options.max_open_files);
    store
}

fn family_options(family: Family, options: &EngineOptions, cache: &Cache, floor: &Arc<AtomicI64>) -> Options {
    let mut of = Options::default();
    of.set_compression_type(DBCompressionType::Lz4);
    of.set_level_compaction_dynamic_level_bytes(true);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_format_version(6);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let share = |of_64: usize| (options.memtable_bytes * of_64 / 64).max(1 << 20);
    let (block, memtable) = match family {
        Family::Cur => (16 << 10, share(12)),
        Family::Log => (32 << 10, share(24)),
        Family::Idx => (4 << 10, share(12)),
        _ => (4 << 10, share(4)),
    };
    table.set_block_size(block);
    of.set_write_buffer_size(memtable);
    of.set_max_write_buffer_number(4);
    match family {
        Family::Cur => {
            table.set_bloom_filter(10.0, false);
            of.set_level_zero_file_num_compaction_trigger(2);
            // A list must not step over long runs of deleted keys: files that are mostly tombstones are rewritten.
            of.add_compact_on_deletion_collector_factory(1024, 512, 0.5);
        }
        Family::Gone | Family::Requests | Family::Leases => table.set_bloom_filter(10.0, false),
        _ => {}
    }
    if matches!(family, Family::Log | Family::Idx | Family::Gone) {
        let floor = Arc::clone(floor);
        of.set_compaction_filter("conclave.history", move |_level, key: &[u8], value: &[u8]| {
            let floor = Revision(floor.load(Ordering::Relaxed));
            if history::droppable(family, key, value, floor) { Decision::Remove } else { Decision::Keep }
        });
    }
    of.set_block_based_table_factory(&table);
    of
}

fn open_error(path: &Path, error: &rocksdb::Error) -> OpenError {
    let path = path.display();
    match error.kind() {
        rocksdb::ErrorKind::Corruption => OpenError::Corrupt(format!(
            "the store in {path} is damaged: {error}. Nothing was changed. Restore this member from a backup or from \
             its peers; keep the folder until that is done"
        )),
        rocksdb::ErrorKind::IOError if error.to_string().contains("lock") => OpenError::Locked(format!(
            "the store in {path} is in use by another process: {error}. Stop that process, or give this one another \
             --data-dir"
        )),
        _ => OpenError::Io(format!("the store in {path} cannot be opened: {error}")),
    }
}

impl RocksView {
    pub(super) fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        let value = self.borrow_dependent().get_pinned_cf(self.borrow_owner().family(family), key);
        value.unwrap_or_else(|e| fatal("reading a key", &e)).map(|value| Bytes::copy_from_slice(&value))
    }

    pub(super) fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>) -> RocksCursor<'_> {
        let mut options = ReadOptions::default();
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut inner = self.borrow_dependent().raw_iterator_cf_opt(self.borrow_owner().family(family), options);
        inner.seek(from);
        let cursor = RocksCursor { inner };
        cursor.check();
        cursor
    }

    pub(super) fn last(&self, family: Family, at: &[u8], open: bool) -> Option<(Vec<u8>, Bytes)> {
        let rocks = self.borrow_owner();
        let mut inner = self.borrow_dependent().raw_iterator_cf_opt(rocks.family(family), ReadOptions::default());
        inner.seek_for_prev(at);
        if open && inner.key() == Some(at) {
            inner.prev();
        }
        let cursor = RocksCursor { inner };
        cursor.check();
        cursor.valid().then(|| (cursor.key().to_vec(), Bytes::copy_from_slice(cursor.value())))
    }
}

pub(super) struct RocksCursor<'a> {
    inner: DBRawIterator<'a>,
}

impl RocksCursor<'_> {
    pub(super) fn valid(&self) -> bool {
        self.inner.valid()
    }

    pub(super) fn key(&self) -> &[u8] {
        self.inner.key().expect("the cursor is valid")
    }

    pub(super) fn value(&self) -> &[u8] {
        self.inner.value().expect("the cursor is valid")
    }

    pub(super) fn next(&mut self) {
        self.inner.next();
        self.check();
    }

    pub(super) fn seek(&mut self, key: &[u8]) {
        self.inner.seek(key);
        self.check();
    }

    /// An iterator that met a damaged block looks like one at its end; only its status tells.
    fn check(&self) {
        if !self.inner.valid() {
            self.inner.status().unwrap_or_else(|e| fatal("walking keys", &e));
        }
    }
}
