//! RocksDB's settings, and where each number comes from. The figures are those of
//! `docs/decisions/001-storage-layout.md` unless another reason is given.

use std::{
    ffi::{CStr, CString},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, LogLevel, Options, WriteBufferManager,
    compaction_filter::{CompactionFilter, Decision},
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

use super::{EngineOptions, Family, history};
use crate::types::Revision;

/// A memtable smaller than this makes files that are not worth their names.
const SMALLEST_MEMTABLE: usize = 256 << 10;

/// `direct`: the file system takes writes past the page cache.
pub(super) fn store(options: &EngineOptions, cache: &Cache, direct: bool) -> Options {
    let mut store = Options::default();
    store.create_if_missing(true);
    store.create_missing_column_families(true);
    store.set_atomic_flush(true);
    store.set_paranoid_checks(true);
    // Memtables are charged to the cache, so one number bounds both. Writers do not stall at the bound: apply must not
    // wait, and `max_write_buffer_number` is the harder limit.
    let manager = WriteBufferManager::new_write_buffer_manager_with_cache(options.memtable_bytes, false, cache.clone());
    store.set_write_buffer_manager(&manager);
    // One flush and one compaction at a time, on the two cores of a small member.
    store.set_max_background_jobs(2);
    // One thread writes; concurrent inserts would only cost.
    store.set_allow_concurrent_memtable_write(false);
    store.set_max_open_files(options.max_open_files);
    // Written back as it is made: one large sync at the end of a file would hold up the raft log's on the same disk.
    store.set_bytes_per_sync(1 << 20);
    // Flushes and compactions are a tenth of a put's CPU, and half of that was the page cache: 24.9 against 23.4 µs a
    // put of 256 B at 1,000 clients. And what they write does not wait in the cache to hold up a sync of the raft log.
    store.set_use_direct_io_for_flush_and_compaction(direct);
    // Readers that end leave the unlinking of large files to a thread of RocksDB.
    store.set_avoid_unnecessary_blocking_io(true);
    // Without its log every flush is in the manifest; the default of 1 GB would slow the start.
    store.set_max_manifest_file_size(16 << 20);
    store.set_log_level(LogLevel::Warn);
    store.set_max_log_file_size(1 << 20);
    store.set_keep_log_file_num(4);
    store.set_stats_dump_period_sec(0);
    store.set_stats_persist_period_sec(0);
    store
}

pub(super) fn family(family: Family, options: &EngineOptions, cache: &Cache, floor: &Arc<AtomicI64>) -> Options {
    let mut settings = Options::default();
    settings.set_compression_type(DBCompressionType::Lz4);
    settings.set_level_compaction_dynamic_level_bytes(true);
    settings.set_write_buffer_size(memtable_bytes(family, options));
    settings.set_max_write_buffer_number(4);
    settings.set_block_based_table_factory(&table(family, cache));
    if family == Family::Cur {
        // Lists walk every overwrite that is not compacted: 960 against 560 µs per 500 keys.
        settings.set_level_zero_file_num_compaction_trigger(2);
        // And every delete: a file with 512 deletes in a row of 1,024 entries, or half of it deletes, is compacted soon.
        settings.add_compact_on_deletion_collector_factory(1024, 512, 0.5);
    }
    if family == Family::Log {
        // Files go whole when history is dropped; smaller ones follow the floor more closely.
        settings.set_target_file_size_base(16 << 20);
    }
    if matches!(family, Family::Log | Family::Idx | Family::Gone) {
        let name = CString::new(format!("conclave.history.{}", family.name())).expect("names hold no zero byte");
        settings.set_compaction_filter_factory(History { family, name, floor: Arc::clone(floor) });
    }
    settings
}

/// A put of 1 KiB over an old value fills `log` (both values) twice as fast as `cur`; each share is what the measured
/// 16, 64, 32 and 8 MB come to when the sum, with one set being written out, is 96 MB; the default scales them down.
fn memtable_bytes(family: Family, options: &EngineOptions) -> usize {
    let part = match family {
        Family::Log => 3,
        Family::Cur | Family::Idx => 6,
        Family::Gone => 12,
        _ => 48,
    };
    (options.memtable_bytes / part).max(SMALLEST_MEMTABLE)
}

fn table(family: Family, cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // Indexes and filters in the cache, or memory would grow with the number of keys.
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_block_size(match family {
        Family::Cur => 16 << 10,
        Family::Log => 32 << 10,
        _ => 4 << 10,
    });
    // Where single keys are asked for that may not be there: 10 bits a key let one in a hundred through.
    if matches!(family, Family::Cur | Family::Gone | Family::Requests) {
        table.set_bloom_filter(10.0, false);
    }
    table
}

/// Makes the filter of each compaction of `family`.
///
/// RocksDB runs filters without regard to snapshots: what is below the floor vanishes from views too. That is why the
/// floor is only ever a durable compacted revision, and why past reads check the compacted revision again.
struct History {
    family: Family,
    name: CString,
    floor: Arc<AtomicI64>,
}

/// Knows the floor as it was when the compaction began.
struct Below {
    family: Family,
    name: CString,
    floor: Revision,
}

impl CompactionFilterFactory for History {
    type Filter = Below;

    fn create(&mut self, _context: CompactionFilterContext) -> Below {
        // No other memory is published with it, so the order does not matter.
        let floor = Revision(self.floor.load(Ordering::Relaxed));
        Below { family: self.family, name: self.name.clone(), floor }
    }

    fn name(&self) -> &CStr {
        &self.name
    }
}

impl CompactionFilter for Below {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> Decision {
        if history::droppable(self.family, key, value, self.floor) { Decision::Remove } else { Decision::Keep }
    }

    fn name(&self) -> &CStr {
        &self.name
    }
}
