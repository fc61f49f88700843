//! The in-memory twin of the store: what RocksDB without a log and with `atomic_flush` may show and may leave, decided
//! by a seed.
//!
//! - *A crash* goes back to a batch at or after the last flush that was asked for: RocksDB also flushes when a memtable
//!   is full, and whether that came in time is chance.
//! - *Dropped history stays dropped.* Files are unlinked at once, whoever reads, and no crash brings them back. Only
//!   what was flushed lies in files and can go.
//! - *Which part of it goes is chance*: a file goes when all of it may, a filter runs when a compaction does.
//!
//! Every entry keeps its versions by the sequence of their batch, as a memtable does. So a view is a number, and taking
//! one costs the same whatever the store holds. A version is forgotten when neither a view nor a crash can reach it.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound::{self, Excluded, Included, Unbounded},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Batch, Family, Key, MetaKey, Size, history::droppable};
use crate::types::Revision;

/// One in how many batches is followed by a flush that nobody asked for. Small, so that short simulations see many.
const FLUSH_ONE_IN: u32 = 16;
/// One in how many of those is followed by a compaction, whose filters drop history.
const COMPACT_ONE_IN: u32 = 4;

/// What happened to a twin and those it came from by crashes, for the simulator's report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryCounts {
    /// Crashes that lost at least one batch.
    pub rollbacks: u64,
    /// Batches lost by them.
    pub batches_lost: u64,
    /// Flushes that nobody asked for.
    pub own_flushes: u64,
    /// Entries of history that went.
    pub dropped: u64,
}

/// A store that a crash leaves as RocksDB might. Clones are the same store.
#[derive(Clone)]
pub struct MemoryEngine {
    shared: Arc<Mutex<Twin>>,
}

/// Values by sequence, oldest first; `None` is a delete.
type Versions = Vec<(u64, Option<Bytes>)>;

struct Twin {
    families: [BTreeMap<Vec<u8>, Versions>; Family::ALL.len()],
    /// Number of the last batch.
    sequence: u64,
    /// A crash goes back to this batch at most.
    flushed: u64,
    /// How many views stand at each sequence.
    views: BTreeMap<u64, usize>,
    /// Entries with a version that is hidden since that sequence, oldest first.
    hidden: VecDeque<(u64, Family, Vec<u8>)>,
    floor: Revision,
    rng: ChaCha8Rng,
    counts: MemoryCounts,
}

impl MemoryEngine {
    /// An empty store. `seed` decides what is flushed and dropped when.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(Twin::new(ChaCha8Rng::seed_from_u64(seed)))
    }

    fn with(twin: Twin) -> Self {
        Self { shared: Arc::new(Mutex::new(twin)) }
    }

    /// What the end of the process now would leave, drawn from `rng`. This one stays as it is; drop it.
    #[must_use]
    pub fn crash(&self, rng: &mut impl Rng) -> Self {
        let twin = self.lock();
        let survives = rng.random_range(twin.flushed..=twin.sequence);
        let mut after = Twin::new(ChaCha8Rng::seed_from_u64(rng.random()));
        for (family, entries) in after.families.iter_mut().zip(&twin.families) {
            let visible = entries.iter().filter_map(|(key, versions)| Some((key, at(versions, survives)?)));
            *family = visible.map(|(key, value)| (key.clone(), vec![(0, Some(value.clone()))])).collect();
        }
        let lost = twin.sequence - survives;
        after.counts = twin.counts;
        after.counts.rollbacks += u64::from(lost > 0);
        after.counts.batches_lost += lost;
        Self::with(after)
    }

    #[must_use]
    pub fn counts(&self) -> MemoryCounts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, Twin> {
        self.shared.lock().expect("nothing panics while it holds the twin")
    }

    pub(super) fn view(&self) -> MemoryView {
        let mut twin = self.lock();
        let sequence = twin.sequence;
        *twin.views.entry(sequence).or_default() += 1;
        MemoryView { engine: self.clone(), sequence }
    }

    pub(super) fn write(&self, batch: Batch) {
        self.write_all(false, batch);
    }

    pub(super) fn start_over(&self, batch: Batch) {
        self.write_all(true, batch);
    }

    fn write_all(&self, over: bool, batch: Batch) {
        // The batch's view takes the lock when it goes, so it must be gone before ours.
        let writes: Vec<_> = batch.into_writes().collect();
        let mut twin = self.lock();
        twin.sequence += 1;
        if over {
            twin.hide_all();
        }
        for (family, key, value) in writes {
            twin.set(family, key, value);
        }
        if twin.rng.random_ratio(1, FLUSH_ONE_IN) {
            twin.counts.own_flushes += 1;
            twin.flushed = twin.sequence;
            if twin.rng.random_ratio(1, COMPACT_ONE_IN) {
                twin.drop_history(Part::Some);
            }
        }
        twin.forget();
    }

    pub(super) fn flush(&self) {
        let mut twin = self.lock();
        twin.flushed = twin.sequence;
        twin.forget();
    }

    pub(super) fn persisted(&self, key: MetaKey) -> Option<Bytes> {
        let twin = self.lock();
        let versions = twin.families[Family::Meta as usize].get(Key::Meta(key).bytes().as_ref())?;
        at(versions, twin.flushed).cloned()
    }

    pub(super) fn drop_history(&self, floor: Revision) {
        let mut twin = self.lock();
        twin.floor = twin.floor.max(floor);
        twin.drop_history(Part::Some);
    }

    pub(super) fn rewrite_history(&self, floor: Revision) {
        let mut twin = self.lock();
        twin.floor = twin.floor.max(floor);
        // RocksDB flushes what it is asked to rewrite.
        twin.flushed = twin.sequence;
        twin.drop_history(Part::All);
        twin.forget();
    }

    pub(super) fn size(&self) -> Size {
        let twin = self.lock();
        let live = |(key, versions): (&Vec<u8>, &Versions)| {
            at(versions, twin.sequence).map_or(0, |value| (key.len() + value.len()) as u64)
        };
        let in_use = twin.families.iter().flatten().map(live).sum();
        Size { on_disk: in_use, in_use }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Some,
    All,
}

impl Twin {
    fn new(rng: ChaCha8Rng) -> Self {
        Self {
            families: Default::default(),
            sequence: 0,
            flushed: 0,
            views: BTreeMap::new(),
            hidden: VecDeque::new(),
            floor: Revision::NEVER,
            rng,
            counts: MemoryCounts::default(),
        }
    }

    fn set(&mut self, family: Family, key: Vec<u8>, value: Option<Bytes>) {
        let entries = &mut self.families[family as usize];
        let existed = entries.contains_key(&key);
        if !existed && value.is_none() {
            return;
        }
        if existed {
            self.hidden.push_back((self.sequence, family, key.clone()));
        }
        entries.entry(key).or_default().push((self.sequence, value));
    }

    fn hide_all(&mut self) {
        for family in Family::ALL {
            let visible = |(key, versions): (&Vec<u8>, &Versions)| at(versions, self.sequence).map(|_| key.clone());
            let keys: Vec<Vec<u8>> = self.families[family as usize].iter().filter_map(visible).collect();
            keys.into_iter().for_each(|key| self.set(family, key, None));
        }
    }

    /// Removes the versions that neither a view nor a crash can reach any more.
    fn forget(&mut self) {
        let oldest_view = self.views.keys().next().copied().unwrap_or(u64::MAX);
        let reachable = self.flushed.min(oldest_view);
        while self.hidden.front().is_some_and(|(since, ..)| *since <= reachable) {
            let Some((_, family, key)) = self.hidden.pop_front() else { return };
            let entries = &mut self.families[family as usize];
            // History may have been dropped meanwhile.
            let Some(versions) = entries.get_mut(&key) else { continue };
            let newest = versions.iter().rposition(|(sequence, _)| *sequence <= reachable).unwrap_or(0);
            versions.drain(..newest);
            if let [(sequence, None)] = versions[..]
                && sequence <= reachable
            {
                entries.remove(&key);
            }
        }
    }

    /// Takes droppable entries out of what was flushed. Views lose them too, as they lose unlinked files.
    fn drop_history(&mut self, part: Part) {
        let Self { families, rng, flushed, floor, counts, .. } = self;
        // A prefix of `log` goes, file by file; the filters reach any part.
        let all = part == Part::All || rng.random();
        let first_file_kept: u64 = rng.random_range(0..=u64::try_from(floor.0).unwrap_or(0));
        for family in [Family::Log, Family::Idx, Family::Gone] {
            families[family as usize].retain(|key, versions| {
                let Some(value) = at(versions, *flushed) else { return true };
                if !droppable(family, key, value, *floor) {
                    return true;
                }
                let goes = all
                    || match family {
                        Family::Log => key[..] < first_file_kept.to_be_bytes()[..],
                        _ => rng.random(),
                    };
                if goes {
                    versions.retain(|(sequence, _)| *sequence > *flushed);
                    counts.dropped += 1;
                }
                !versions.is_empty()
            });
        }
    }
}

/// What is visible at `sequence`.
fn at(versions: &Versions, sequence: u64) -> Option<&Bytes> {
    versions.iter().rev().find(|(written, _)| *written <= sequence)?.1.as_ref()
}

/// The twin as it was after one batch.
pub(super) struct MemoryView {
    engine: MemoryEngine,
    sequence: u64,
}

impl Drop for MemoryView {
    fn drop(&mut self) {
        let mut twin = self.engine.lock();
        let views = twin.views.get_mut(&self.sequence).expect("each view was counted");
        *views -= 1;
        if *views == 0 {
            twin.views.remove(&self.sequence);
            twin.forget();
        }
    }
}

impl MemoryView {
    pub(super) fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        let twin = self.engine.lock();
        at(twin.families[family as usize].get(key)?, self.sequence).cloned()
    }

    pub(super) fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>) -> MemoryCursor<'_> {
        let mut cursor = MemoryCursor { view: self, family, to: to.map(<[u8]>::to_vec), entry: None };
        cursor.find(Included(from));
        cursor
    }

    /// The last entry below `bound`, or at it unless the bound is open.
    pub(super) fn last(&self, family: Family, bound: &[u8], open: bool) -> Option<(Vec<u8>, Bytes)> {
        let twin = self.engine.lock();
        let upper = if open { Excluded(bound) } else { Included(bound) };
        let below = twin.families[family as usize].range::<[u8], _>((Unbounded, upper));
        let mut visible = below.rev().filter_map(|(key, versions)| Some((key, at(versions, self.sequence)?)));
        visible.next().map(|(key, value)| (key.clone(), value.clone()))
    }
}

/// Looks each next entry up anew, so that it holds no lock between steps.
pub(super) struct MemoryCursor<'a> {
    view: &'a MemoryView,
    family: Family,
    to: Option<Vec<u8>>,
    entry: Option<(Vec<u8>, Bytes)>,
}

impl MemoryCursor<'_> {
    pub(super) fn valid(&self) -> bool {
        self.entry.is_some()
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.entry.as_ref().expect("the caller asked `valid`").0
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.entry.as_ref().expect("the caller asked `valid`").1
    }

    pub(super) fn next(&mut self) {
        if let Some((key, _)) = self.entry.take() {
            self.find(Excluded(&key));
        }
    }

    pub(super) fn seek(&mut self, key: &[u8]) {
        self.find(Included(key));
    }

    fn find(&mut self, from: Bound<&[u8]>) {
        let twin = self.view.engine.lock();
        let entries = twin.families[self.family as usize].range::<[u8], _>((from, Unbounded));
        let below_end = entries.take_while(|(key, _)| self.to.as_ref().is_none_or(|to| *key < to));
        let mut visible = below_end.filter_map(|(key, versions)| Some((key, at(versions, self.view.sequence)?)));
        self.entry = visible.next().map(|(key, value)| (key.clone(), value.clone()));
    }
}
