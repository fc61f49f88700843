//! The in-memory twin: what RocksDB without a log and with `atomic_flush` may leave after a crash, from a seed.
//!
//! - A crash goes back to the last flush plus any *prefix of the batches* since (here: some of them may have been
//!   flushed on their own account, as RocksDB does when a memtable is full).
//! - History that was dropped stays dropped: files are unlinked at once, whoever reads, and do not come back in a
//!   crash. Only what had been flushed lies in files and can be dropped.
//! - Which part of the droppable goes is random: a file goes only when all of it may, a filter runs when a compaction
//!   happens to.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Batch, Family, Key, MetaKey, Size, history::droppable};
use crate::types::Revision;

type Entries = BTreeMap<Vec<u8>, Bytes>;
type Families = [Entries; Family::ALL.len()];
type Write = (Family, Vec<u8>, Option<Bytes>);

/// One in how many batches is followed by a flush that nobody asked for.
const SPONTANEOUS_FLUSH: u32 = 16;

/// What happened to a twin, for the simulator's report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryCounts {
    /// Crashes that lost at least one batch.
    pub rollbacks: u64,
    /// Batches lost by them.
    pub batches_lost: u64,
    /// Entries of history that were dropped.
    pub dropped: u64,
}

/// A store that a crash leaves as RocksDB might.
#[derive(Clone)]
pub struct MemoryEngine {
    shared: Arc<Mutex<Store>>,
}

struct Store {
    /// What is in files.
    flushed: Families,
    /// Batches since, oldest first.
    unflushed: Vec<Vec<Write>>,
    /// Every version that some view may still see: sequence of the batch, and the value or that it is gone.
    versions: [BTreeMap<Vec<u8>, Vec<(u64, Option<Bytes>)>>; Family::ALL.len()],
    sequence: u64,
    /// How many views stand at each sequence.
    views: BTreeMap<u64, usize>,
    rng: ChaCha8Rng,
    counts: MemoryCounts,
}

/// The store at one sequence.
pub(super) struct MemoryView {
    engine: MemoryEngine,
    sequence: u64,
}

impl MemoryEngine {
    /// An empty store; `seed` decides what flushes by itself and what is dropped when.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::over(Families::default(), ChaCha8Rng::seed_from_u64(seed), MemoryCounts::default())
    }

    fn over(flushed: Families, rng: ChaCha8Rng, counts: MemoryCounts) -> Self {
        let versions =
            flushed.clone().map(|entries| entries.into_iter().map(|(k, v)| (k, vec![(0, Some(v))])).collect());
        let store =
            Store { flushed, unflushed: Vec::new(), versions, sequence: 0, views: BTreeMap::new(), rng, counts };
        Self { shared: Arc::new(Mutex::new(store)) }
    }

    /// What a power loss now would leave, drawn from `rng`. This store stays as it is; drop it.
    #[must_use]
    pub fn crash(&self, rng: &mut impl Rng) -> Self {
        let store = self.lock();
        let mut flushed = store.flushed.clone();
        let kept = rng.random_range(0..=store.unflushed.len());
        for batch in &store.unflushed[..kept] {
            fold(&mut flushed, batch);
        }
        let lost = (store.unflushed.len() - kept) as u64;
        let mut counts = store.counts;
        counts.rollbacks += u64::from(lost > 0);
        counts.batches_lost += lost;
        Self::over(flushed, ChaCha8Rng::seed_from_u64(rng.random()), counts)
    }

    #[must_use]
    pub fn counts(&self) -> MemoryCounts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.shared.lock().expect("nothing panics while it holds the store")
    }

    pub(super) fn view(&self) -> MemoryView {
        let mut store = self.lock();
        let sequence = store.sequence;
        *store.views.entry(sequence).or_default() += 1;
        MemoryView { engine: self.clone(), sequence }
    }

    pub(super) fn write(&self, batch: Batch) {
        // The batch's own view goes here, before the lock that its end takes.
        let writes: Vec<Write> = batch.into_writes().collect();
        let mut store = self.lock();
        let store = &mut *store;
        store.sequence += 1;
        let oldest = store.views.keys().next().copied().unwrap_or(store.sequence);
        for (family, key, value) in &writes {
            let versions = store.versions[*family as usize].entry(key.clone()).or_default();
            versions.push((store.sequence, value.clone()));
            // The newest version at or below the oldest view hides all before it.
            let hidden = versions.iter().rposition(|(sequence, _)| *sequence <= oldest).unwrap_or(0);
            versions.drain(..hidden);
        }
        store.unflushed.push(writes);
        if store.rng.random_ratio(1, SPONTANEOUS_FLUSH) {
            store.flush();
        }
    }

    pub(super) fn flush(&self) {
        self.lock().flush();
    }

    pub(super) fn persisted(&self, key: MetaKey) -> Option<Bytes> {
        self.lock().flushed[Family::Meta as usize].get(Key::Meta(key).bytes().as_ref()).cloned()
    }

    pub(super) fn drop_history(&self, floor: Revision) {
        self.lock().drop_history(floor, false);
    }

    pub(super) fn rewrite_history(&self, floor: Revision) {
        self.lock().drop_history(floor, true);
    }

    pub(super) fn size(&self) -> Size {
        let store = self.lock();
        let bytes = store.versions.iter().flatten().filter_map(|(key, versions)| {
            versions.last().and_then(|(_, value)| value.as_ref()).map(|value| (key.len() + value.len()) as u64)
        });
        let in_use = bytes.sum();
        Size { on_disk: in_use, in_use }
    }
}

fn fold(families: &mut Families, batch: &[Write]) {
    for (family, key, value) in batch {
        let entries = &mut families[*family as usize];
        match value {
            Some(value) => drop(entries.insert(key.clone(), value.clone())),
            None => drop(entries.remove(key)),
        }
    }
}

impl Store {
    fn flush(&mut self) {
        for batch in self.unflushed.drain(..) {
            fold(&mut self.flushed, &batch);
        }
    }

    /// Removes history at or below `floor` from the files: all of it, or what chance lets go now.
    fn drop_history(&mut self, floor: Revision, all: bool) {
        for family in [Family::Log, Family::Idx, Family::Gone] {
            let mut candidates: Vec<Vec<u8>> = self.flushed[family as usize]
                .iter()
                .filter(|(key, value)| droppable(family, key, value, floor))
                .map(|(key, _)| key.clone())
                .collect();
            if !all && family == Family::Log {
                let whole_files = self.rng.random_range(0..=candidates.len());
                candidates.truncate(whole_files);
            } else if !all {
                candidates.retain(|_| self.rng.random());
            }
            for key in candidates {
                // An unflushed write of the same key lies in memory and stays.
                let unflushed = self.unflushed.iter().flatten().any(|(f, k, _)| *f == family && *k == key);
                let gone = self.flushed[family as usize].remove(&key);
                self.counts.dropped += u64::from(gone.is_some());
                if !unflushed {
                    self.versions[family as usize].remove(&key);
                }
            }
        }
    }
}

impl MemoryView {
    fn read<T>(&self, read: impl FnOnce(&Store) -> T) -> T {
        read(&self.engine.lock())
    }

    pub(super) fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.read(|store| store.versions[family as usize].get(key).and_then(|versions| self.seen(versions)))
    }

    fn seen(&self, versions: &[(u64, Option<Bytes>)]) -> Option<Bytes> {
        let seen = versions.iter().rev().find(|(sequence, _)| *sequence <= self.sequence)?;
        seen.1.clone()
    }

    fn first(&self, family: Family, from: &[u8], open: bool, to: Option<&[u8]>) -> Option<(Vec<u8>, Bytes)> {
        let lower = if open { Excluded(from) } else { Included(from) };
        if to.is_some_and(|to| to <= from) {
            return None;
        }
        self.read(|store| {
            let range = store.versions[family as usize].range::<[u8], _>((lower, to.map_or(Unbounded, Excluded)));
            range.into_iter().find_map(|(key, versions)| Some((key.clone(), self.seen(versions)?)))
        })
    }

    pub(super) fn last(&self, family: Family, at: &[u8], open: bool) -> Option<(Vec<u8>, Bytes)> {
        let upper = if open { Excluded(at) } else { Included(at) };
        self.read(|store| {
            let range = store.versions[family as usize].range::<[u8], _>((Unbounded, upper));
            range.rev().find_map(|(key, versions)| Some((key.clone(), self.seen(versions)?)))
        })
    }

    pub(super) fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>) -> MemoryCursor<'_> {
        let current = self.first(family, from, false, to);
        MemoryCursor { view: self, family, to: to.map(<[u8]>::to_vec), current }
    }
}

impl Drop for MemoryView {
    fn drop(&mut self) {
        let mut store = self.engine.lock();
        if let Some(views) = store.views.get_mut(&self.sequence) {
            *views -= 1;
            if *views == 0 {
                store.views.remove(&self.sequence);
            }
        }
    }
}

/// Looks each next entry up anew, so that no lock is held between steps.
pub(super) struct MemoryCursor<'a> {
    view: &'a MemoryView,
    family: Family,
    to: Option<Vec<u8>>,
    current: Option<(Vec<u8>, Bytes)>,
}

impl MemoryCursor<'_> {
    pub(super) fn valid(&self) -> bool {
        self.current.is_some()
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.current.as_ref().expect("the cursor is valid").0
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.current.as_ref().expect("the cursor is valid").1
    }

    pub(super) fn next(&mut self) {
        let (key, _) = self.current.take().expect("the cursor is valid");
        self.current = self.view.first(self.family, &key, true, self.to.as_deref());
    }

    pub(super) fn seek(&mut self, key: &[u8]) {
        self.current = self.view.first(self.family, key, false, self.to.as_deref());
    }
}
