//! One member's log on a simulated disk, next to a model of what it has to hold.

use bytes::Bytes;
use conclave_server::{
    node::log::{EntryKind, HardState, LogBatch, LogEntry, LogOptions, LogStore, Recovered},
    types::{LogIndex, MemberId, Term},
};
use conclave_tests::sim::disk::{SimDisk, SimFolder};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

pub(crate) type Store = LogStore<SimFolder>;

/// The log as its user knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) hard_state: HardState,
    pub(crate) base: (u64, u64),
    pub(crate) entries: Vec<LogEntry>,
}

impl Model {
    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub(crate) fn term(&self, index: u64) -> u64 {
        if index == self.base.0 { self.base.1 } else { self.get(index).term.0 }
    }

    pub(crate) fn get(&self, index: u64) -> &LogEntry {
        &self.entries[usize::try_from(index - self.base.0 - 1).unwrap()]
    }

    /// What the log holds after the first `count` entries of the batch.
    pub(crate) fn with(&self, entries: &[LogEntry], count: usize) -> Self {
        let mut model = self.clone();
        if let Some(first) = entries[..count].first() {
            model.entries.truncate(usize::try_from(first.index.0 - model.base.0 - 1).unwrap());
            model.entries.extend_from_slice(&entries[..count]);
        }
        model
    }

    pub(crate) fn cut(&mut self, first: u64) {
        assert!(first > self.base.0);
        let term = self.term(first - 1);
        self.entries.drain(..usize::try_from(first - 1 - self.base.0).unwrap());
        self.base = (first - 1, term);
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Persist(LogBatch),
    Mark,
    Prepare,
    Cut(u64),
    Reset(u64, u64),
    Reopen,
}

/// One member's log, its disk and its model.
pub(crate) struct Bench {
    pub(crate) disk: SimDisk,
    pub(crate) options: LogOptions,
    pub(crate) store: Option<Store>,
    pub(crate) model: Model,
    /// Runs out with the segment size; entries are kept below.
    pub(crate) max_entry: usize,
    pub(crate) epoch: u64,
    /// What a crash took away; sent again, so that stale bytes get every chance to fit.
    pub(crate) lost: Option<LogBatch>,
    pub(crate) tally: Tally,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) persisted: u64,
    pub(crate) overwrites: u64,
    pub(crate) torn_cuts: u64,
    pub(crate) partial: u64,
    pub(crate) reopened: u64,
    pub(crate) cuts: u64,
    pub(crate) resets: u64,
    pub(crate) crashes_in_open: u64,
}

impl Bench {
    pub(crate) fn new(segment_bytes: u64) -> Self {
        let options = LogOptions { segment_bytes, log_id: 99, must_exist: false };
        let disk = SimDisk::new();
        let (store, recovered) = Store::open(disk.folder("log"), options).expect("a fresh log");
        let max_entry = usize::try_from(segment_bytes).unwrap() - 12_288 - 128;
        let (model, lost, tally) = (Model::default(), None, Tally::default());
        Self { disk, options, store: Some(store), model, max_entry, epoch: recovered.epoch, lost, tally }
    }

    /// Runs one operation; `Err` means that the disk failed in the middle of it.
    pub(crate) fn run(&mut self, op: &Op) -> Result<(), ()> {
        if matches!(op, Op::Reopen) {
            self.store = None;
            self.disk.kill();
            let model = self.model.clone();
            self.recover(std::slice::from_ref(&model), &model.hard_state, &model);
            return Ok(());
        }
        let store = self.store.as_mut().expect("open");
        match op {
            Op::Persist(batch) => {
                let persisted = store.persist(batch).map_err(|_| ())?;
                assert_eq!(persisted.ready(), batch.ready);
                self.tally.persisted += 1;
                self.tally.overwrites +=
                    u64::from(batch.entries.first().is_some_and(|e| e.index.0 <= self.model.last()));
                self.model = self.model.with(&batch.entries, batch.entries.len());
                self.model.hard_state = batch.hard_state.unwrap_or(self.model.hard_state);
                assert_eq!(persisted.last_index().0, self.model.last());
            }
            Op::Mark => store.write_mark().map_err(|_| ())?,
            Op::Prepare => store.prepare().map_err(|_| ())?,
            Op::Cut(index) => {
                store.cut_below(LogIndex(*index)).map_err(|_| ())?;
                let first = store.reader().first_index().0;
                assert!(first <= *index, "cut no higher than asked");
                if first > self.model.base.0 + 1 {
                    self.tally.cuts += 1;
                    self.model.cut(first);
                }
            }
            Op::Reset(index, term) => {
                store.reset(LogIndex(*index), Term(*term)).map_err(|_| ())?;
                self.tally.resets += 1;
                self.model.base = (*index, *term);
                self.model.entries.clear();
                self.model.hard_state.commit = self.model.hard_state.commit.max(LogIndex(*index));
            }
            Op::Reopen => unreachable!("above"),
        }
        Ok(())
    }

    /// Everything that may be found after `op` was interrupted, the HardState that may be, and the log that raft had.
    pub(crate) fn possible(&self, op: &Op) -> (Vec<Model>, HardState, Model) {
        let mut models = vec![self.model.clone()];
        let mut hard_state = self.model.hard_state;
        let mut raft = self.model.clone();
        match op {
            Op::Persist(batch) => {
                models.extend((1..=batch.entries.len()).map(|count| self.model.with(&batch.entries, count)));
                hard_state = batch.hard_state.unwrap_or(hard_state);
                raft = self.model.with(&batch.entries, batch.entries.len());
            }
            Op::Reset(index, term) => {
                models.push(Model { base: (*index, *term), entries: Vec::new(), ..self.model.clone() });
                hard_state.commit = hard_state.commit.max(LogIndex(*index));
            }
            Op::Mark | Op::Prepare | Op::Cut(_) | Op::Reopen => {}
        }
        (models, hard_state, raft)
    }

    /// Opens what is on the disk and compares it with what may be there; goes on with what was found.
    pub(crate) fn recover(&mut self, models: &[Model], hard_state: &HardState, raft: &Model) {
        let options = LogOptions { must_exist: true, ..self.options };
        let (store, found) = match Store::open(self.disk.folder("log"), options) {
            Ok(opened) => opened,
            Err(error) => panic!("a crash is not rot: {error}"),
        };
        self.tally.reopened += 1;
        self.tally.torn_cuts += u64::from(found.torn.is_some());
        assert!(found.epoch > self.epoch, "an epoch is never used twice");
        self.epoch = found.epoch;
        let reader = store.reader();
        let entries = reader.read(found.first, found.last.next(), u64::MAX).expect("what was recovered can be read");
        let matching = models.iter().position(|model| {
            let skip = (found.first.0 - 1).checked_sub(model.base.0);
            let skip = skip.and_then(|skip| usize::try_from(skip).ok()).filter(|skip| *skip <= model.entries.len());
            skip.is_some_and(|skip| {
                model.entries[skip..] == entries[..] && model.term(found.first.0 - 1) == found.base.1.0
            })
        });
        let Some(matching) = matching else {
            let found: Vec<_> = entries.iter().map(|e| (e.index.0, e.term.0)).collect();
            panic!("found {found:?}, which is none of {} possible logs: {models:?}", models.len())
        };
        self.tally.partial += u64::from(matching > 0 && matching + 1 < models.len());
        self.check_hard_state(&found, hard_state, matching > 0);
        for index in found.first.0..=found.last.0.min(found.hard_state.commit.0) {
            let entry = &entries[usize::try_from(index - found.first.0).unwrap()];
            assert_eq!(entry, raft.get(index), "entry {index} counts as committed and is not raft's");
        }
        self.model = Model { hard_state: found.hard_state, base: (found.base.0.0, found.base.1.0), entries };
        self.store = Some(store);
    }

    pub(crate) fn check_hard_state(&self, found: &Recovered, attempted: &HardState, moved: bool) {
        let promised = &self.model.hard_state;
        let vote = |state: &HardState| (state.term, state.vote);
        let now = vote(&found.hard_state);
        assert!(now == vote(promised) || now == vote(attempted), "{now:?} was neither {promised:?} nor {attempted:?}");
        assert!(!moved || now == vote(attempted), "entries of a term that HardState does not know");
        assert!(found.hard_state.commit <= attempted.commit.max(promised.commit), "commit was never that high");
    }

    /// Runs a script to its end, with the fault at the given call if it is reached.
    pub(crate) fn crash_and_recover(&mut self, op: &Op, pick: &mut dyn FnMut(usize) -> usize, power: bool) {
        self.store = None;
        let (models, hard_state, raft) = self.possible(op);
        if power {
            self.disk.power_off(pick)
        } else {
            self.disk.kill()
        }
        self.lost = match op {
            Op::Persist(batch) => Some(batch.clone()),
            _ => None,
        };
        self.recover(&models, &hard_state, &raft);
    }

    pub(crate) fn random_op(&mut self, rng: &mut ChaCha8Rng, ready: u64) -> Op {
        if let Some(lost) = self.lost.take()
            && rng.random_bool(0.6)
            && let Some(op) = self.again(lost, rng)
        {
            return op;
        }
        match rng.random_range(0..100) {
            0..62 => Op::Persist(self.random_batch(rng, ready)),
            62..72 => Op::Mark,
            72..86 => Op::Prepare,
            86..93 => Op::Cut(rng.random_range(self.model.base.0 + 1..=self.model.last().max(self.model.base.0) + 1)),
            93..94 => {
                let term = self.model.hard_state.term.0.max(self.model.term(self.model.last()));
                Op::Reset(self.model.last() + rng.random_range(1..50), term)
            }
            _ => Op::Reopen,
        }
    }

    /// The batch that was lost, or the part of it that is not there, cut where its first record may have ended.
    pub(crate) fn again(&self, mut lost: LogBatch, rng: &mut ChaCha8Rng) -> Option<Op> {
        let now = self.model.hard_state;
        lost.entries.retain(|entry| entry.index.0 > self.model.last() || entry.index.0 > now.commit.0);
        lost.entries.truncate(rng.random_range(0..=lost.entries.len()));
        let first = lost.entries.first()?.index.0;
        let state = lost.hard_state.unwrap_or(now);
        let fits = first <= self.model.last() + 1
            && first > self.model.base.0
            && self.model.term(first - 1) <= lost.entries[0].term.0
            && lost.entries.last()?.term <= state.term;
        let last = lost.entries.last()?.index.0;
        lost.hard_state = Some(HardState { commit: now.commit.max(LogIndex(state.commit.0.min(last))), ..state });
        fits.then_some(Op::Persist(lost))
    }

    pub(crate) fn random_batch(&self, rng: &mut ChaCha8Rng, ready: u64) -> LogBatch {
        let (model, mut state) = (&self.model, self.model.hard_state);
        if rng.random_bool(0.15) {
            state.term = Term(state.term.0.max(model.term(model.last())) + rng.random_range(1..3));
            state.vote = None;
        }
        if state.vote.is_none() && rng.random_bool(0.3) {
            state.vote = Some(MemberId(rng.random_range(1..5)));
        }
        let mut entries = Vec::new();
        if rng.random_bool(0.85) && state.term > Term(0) {
            let lowest = model.base.0.max(state.commit.0.min(model.last())) + 1;
            let replaces = rng.random_bool(0.2) && state.term.0 > model.term(model.last());
            let first = if replaces { rng.random_range(lowest..=model.last() + 1) } else { model.last() + 1 };
            let mut term = if replaces { state.term.0 } else { model.term(first - 1) };
            for index in first..first + rng.random_range(1..=8) {
                term = if rng.random_bool(0.1) { state.term.0 } else { term.max(1).min(state.term.0) };
                entries.push(self.random_entry(rng, index, term));
            }
        }
        let last = entries.last().map_or(model.last(), |entry| entry.index.0);
        if rng.random_bool(0.7) && last > state.commit.0 {
            state.commit = LogIndex(rng.random_range(state.commit.0..=last));
        }
        LogBatch { ready, entries, hard_state: Some(state), ..LogBatch::default() }
    }

    pub(crate) fn random_entry(&self, rng: &mut ChaCha8Rng, index: u64, term: u64) -> LogEntry {
        let kind = [EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2][rng.random_range(0..3)];
        let len = match rng.random_range(0..10) {
            0 => 0,
            1..8 => rng.random_range(1..400),
            _ => rng.random_range(400..self.max_entry.min(40_000)),
        };
        let mut data = vec![0; len];
        rng.fill(&mut data[..]);
        LogEntry { index: LogIndex(index), term: Term(term), kind, data: Bytes::from(data) }
    }
}

impl Bench {
    /// Another outcome of the same crash: same member, its own disk.
    pub(crate) fn fork(&self) -> Self {
        let (disk, model) = (self.disk.fork(), self.model.clone());
        Self { disk, options: self.options, store: None, model, lost: self.lost.clone(), ..*self }
    }
}
