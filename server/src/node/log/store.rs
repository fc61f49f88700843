//! The writing side: one owner, one thread.

use std::sync::Arc;

use super::{
    entry::{HardState, LogBatch, LogEntry, Persisted},
    failure::{LogFailed, OpenError},
    hard_state::{self, HardStateFile},
    index::{Index, Placed, SegmentFile},
    io::LogIo,
    reader::{LogReader, Shared},
    record::{self, Meta},
    recover::{self, Judged, TornTail},
    segment::{Header, Mark, RECORDS},
    spare::Spares,
};
use crate::{
    mutants::{self, Mutant},
    types::{LogIndex, Term},
};

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bytes of a segment file, its head included. Takes effect from the next segment on.
    pub segment_bytes: u64,
    /// Random number of this member's data folder; files with another one are refused.
    pub log_id: u64,
    /// The member has run before, so an empty folder means that its votes are lost.
    pub must_exist: bool,
}

impl LogOptions {
    /// Large enough that making a segment is rare, small enough that a cut gives space back soon.
    pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
    /// The smallest that is of use, for tests: the head and a few records.
    pub const MIN_SEGMENT_BYTES: u64 = 16 * 1024;
}

/// What an opened log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// `commit` may lie above or below what was committed to the state, and above `last`: clamp it.
    pub hard_state: HardState,
    pub first: LogIndex,
    pub last: LogIndex,
    pub last_term: Term,
    /// Index and term in front of `first`.
    pub base: (LogIndex, Term),
    pub torn: Option<TornTail>,
    /// One of the two HardState slots was damaged; it has been written anew.
    pub repaired_hard_state: bool,
    /// How often this log was opened, this time included.
    pub epoch: u64,
}

/// The raft log of one member. Its reading side is [`LogReader`].
pub struct LogStore<I: LogIo> {
    io: Arc<I>,
    segment_bytes: u64,
    shared: Arc<Shared<I>>,
    hard: HardStateFile<I>,
    spares: Spares<I>,
    active: Active<I>,
    next_generation: u64,
    /// Commit index as of the last batch that is on disk. Whatever lies at or below it *and* on disk is committed. The
    /// commit index of a batch must not be written before its entries are: they may replace a conflicting tail, and
    /// after a crash in between the old tail would pass for committed.
    commit: LogIndex,
    /// Reused for each write.
    buffer: Vec<u8>,
    /// A call failed: nothing may be written or promised any more.
    failed: bool,
}

/// The segment that is being written.
struct Active<I: LogIo> {
    header: Header,
    file: Arc<SegmentFile<I::File>>,
    /// Where the next record goes; everything in front is synced.
    end: u64,
    chain: u32,
    /// The newest mark.
    mark: Mark,
}

impl<I: LogIo> LogStore<I> {
    /// Opens the log, makes an empty one if there is none, and cuts a torn tail.
    ///
    /// # Errors
    /// See [`OpenError`]. Unless it is [`OpenError::Failed`], no file was changed.
    pub fn open(io: I, options: LogOptions) -> Result<(Self, Recovered), OpenError> {
        let size = options.segment_bytes;
        if size < LogOptions::MIN_SEGMENT_BYTES || !size.is_multiple_of(4096) || u32::try_from(size).is_err() {
            return Err(OpenError::SegmentSize(size));
        }
        let io = Arc::new(io);
        if !recover::list(&io)?.iter().any(|name| name == hard_state::FILE) {
            if options.must_exist {
                return Err(OpenError::Missing);
            }
            recover::create(&io, options.log_id, size)?;
        }
        let judged = recover::judge(&io, options.log_id)?;
        Ok(Self::take_over(io, size, judged)?)
    }

    /// The first writes of this life: a new epoch, and the record that separates what follows from whatever an
    /// earlier life left behind the end.
    fn take_over(io: Arc<I>, segment_bytes: u64, judged: Judged<I>) -> Result<(Self, Recovered), LogFailed> {
        let Judged { hard, index, active, end, chain, mark, commit, torn, free, next_slot, next_generation } = judged;
        let file = Arc::clone(index.file(active.generation));
        let mut store = Self {
            spares: Spares::new(Arc::clone(&io), segment_bytes, next_slot),
            shared: Arc::new(Shared::new(Arc::clone(&io), index)),
            io,
            segment_bytes,
            hard,
            active: Active { header: active, file, end, chain, mark },
            next_generation,
            commit,
            buffer: Vec::new(),
            failed: false,
        };
        let repaired_hard_state = store.hard.was_damaged();
        store.hard.save(|slot| slot.epoch += 1)?;
        for file in free {
            store.spares.give(file)?;
        }
        // What was read may stand in a cache only: the process alone may have crashed, and power may fail next. A mark
        // must never name it before it is durable, and the names of the files must be durable as well.
        store.io.sync_dir().map_err(|source| LogFailed::new("sync", "the log folder", source))?;
        store.write_again()?;
        store.io.sync_data(&store.active.file.file).map_err(|source| store.active.failed("sync", source))?;
        if store.room() < record::OPENED_LEN {
            store.roll()?;
        }
        let (meta, epoch) = (store.meta(store.last().next(), store.last_term()), store.hard.now().epoch);
        let mut buffer = Vec::with_capacity(record::OPENED_LEN);
        let chain = record::write_opened(&mut buffer, meta, epoch, store.active.chain);
        store.write(&buffer, chain)?;
        store.write_mark()?;
        let index = store.shared.index();
        let recovered = Recovered {
            hard_state: HardState { commit, ..store.hard.now().hard_state },
            first: index.first(),
            last: index.last(),
            last_term: index.last_term(),
            base: index.base(),
            torn,
            repaired_hard_state,
            epoch,
        };
        drop(index);
        Ok((store, recovered))
    }

    /// Writes once more what was read but is not known to be durable. A sync that fails in an earlier life leaves its
    /// pages readable and *clean*, so that the next sync succeeds without writing them (Rebello and others, "Can
    /// Applications Recover from fsync Failures?", ATC 2020). The mark itself is believed: it names what was synced
    /// before it was written.
    fn write_again(&self) -> Result<(), LogFailed> {
        // Large enough to be quick, small enough to be nothing beside the rest.
        const CHUNK: u64 = 1 << 20;
        let active = &self.active;
        let unproven = active.mark.end.clamp(RECORDS, active.end)..active.end;
        let mut buffer = Vec::new();
        for part in [0..RECORDS, unproven] {
            let mut at = part.start;
            while at < part.end {
                let length = (part.end - at).min(CHUNK);
                buffer.resize(usize::try_from(length).expect("a chunk fits into memory"), 0);
                let file = &active.file.file;
                self.io.read_at(file, at, &mut buffer).map_err(|source| active.failed("read", source))?;
                self.io.write_at(file, at, &buffer).map_err(|source| active.failed("write", source))?;
                at += length;
            }
        }
        Ok(())
    }

    /// A handle for other threads.
    #[must_use]
    pub fn reader(&self) -> LogReader<I> {
        LogReader::new(Arc::clone(&self.shared))
    }

    /// Makes a batch durable: HardState first, if term or vote changed, so that no entry is ever of a later term than
    /// the one remembered; then the entries in one write and **one** sync.
    ///
    /// # Errors
    /// Final: the process has to stop.
    ///
    /// # Panics
    /// If the entries are not consecutive, leave a gap, replace what is committed or cut, or a term goes back: raft
    /// broke its own rules, and this member must stop before it promises anything. Also if an entry is larger than a
    /// segment, which the limit on requests excludes.
    pub fn persist(&mut self, batch: &LogBatch) -> Result<Persisted, LogFailed> {
        self.guarded(|store| {
            if let Some(state) = batch.hard_state {
                store.keep(state)?;
            }
            if let Some((index, term)) = batch.reset {
                store.begin_behind(index, term)?;
            }
            store.check(&batch.entries);
            let commit = batch.hard_state.map_or(store.commit, |state| state.commit.max(store.commit));
            if !batch.entries.is_empty() {
                store.check_term(&batch.entries);
                store.append(&batch.entries, commit)?;
            }
            store.commit = commit;
            Ok(Persisted::new(batch.ready, store.last()))
        })
    }

    /// Writes down how far the log is synced, so that a loss up to here is recognised. Each batch does this for the
    /// one before it; this is for the last one, when none follows for a while and at a clean stop.
    ///
    /// # Errors
    /// Final: the process has to stop.
    pub fn write_mark(&mut self) -> Result<(), LogFailed> {
        if !self.wants_mark() {
            return Ok(());
        }
        self.guarded(|store| {
            store.send_mark()?;
            store.io.sync_data(&store.active.file.file).map_err(|source| store.active.failed("sync", source))
        })
    }

    /// The last batch is not yet named by a mark.
    #[must_use]
    pub fn wants_mark(&self) -> bool {
        self.active.mark.end < self.active.end
    }

    /// Prepares the next segment a little. To be called after a batch was reported: it writes at most 1 MiB, for each
    /// MiB that was appended. A store that is never asked still works, but a batch waits now and then.
    ///
    /// # Errors
    /// Final: the process has to stop.
    pub fn prepare(&mut self) -> Result<(), LogFailed> {
        self.guarded(|store| store.spares.prepare())
    }

    /// Lets segments go that hold only entries below `index`. The caller keeps what raft, the state's replay and slow
    /// followers need. Afterwards [`LogReader::first_index`] is at or below `index`.
    ///
    /// # Errors
    /// Final: the process has to stop.
    pub fn cut_below(&mut self, index: LogIndex) -> Result<(), LogFailed> {
        let keep = self.shared.index().keep_from(index);
        if self.shared.index().generations().next() == Some(keep) {
            return Ok(());
        }
        self.guarded(|store| store.drop_before(keep))
    }

    /// Begins anew behind a snapshot: the log is empty and its next index is `index + 1`. What was there is gone.
    ///
    /// # Errors
    /// Final: the process has to stop.
    ///
    /// # Panics
    /// If the log begins as far already, or the entry is of a later term than the HardState's.
    pub fn reset(&mut self, index: LogIndex, term: Term) -> Result<(), LogFailed> {
        self.guarded(|store| store.begin_behind(index, term))
    }

    /// The old log is whole until HardState names the new segment, and gone from then on: a crash leaves one or the
    /// other.
    fn begin_behind(&mut self, index: LogIndex, term: Term) -> Result<(), LogFailed> {
        assert!(index > self.shared.index().base().0, "the log does not go back to entry {index}");
        assert!(term <= self.hard.now().hard_state.term, "an archive of a later term than the HardState's");
        let header = Header { prev_generation: 0, prev_index: index, prev_term: term, ..self.next_header() };
        let active = self.begin(header)?;
        let commit = self.commit.max(index);
        self.hard.save(|slot| {
            slot.first_generation = header.generation;
            slot.active_generation = header.generation;
            slot.hard_state.commit = commit;
        })?;
        self.commit = commit;
        let dropped = {
            let mut shared = self.shared.index_mut();
            let mut index = Index::new((index, term));
            index.add_file(header.generation, Arc::clone(&active.file));
            std::mem::replace(&mut *shared, index).drop_before(u64::MAX)
        };
        self.active = active;
        dropped.into_iter().try_for_each(|file| self.spares.give(file))
    }

    /// A failed store stays failed: what the failed call did is unknown, and a later sync that succeeds proves nothing.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, LogFailed>) -> Result<T, LogFailed> {
        assert!(!self.failed, "the process stops after a failed write or sync");
        let result = work(self);
        self.failed = result.is_err();
        result
    }

    fn keep(&mut self, state: HardState) -> Result<(), LogFailed> {
        let before = self.hard.now().hard_state;
        assert!(state.term >= before.term, "the term never goes back");
        assert!(state.term > before.term || before.vote.is_none() || before.vote == state.vote, "one vote in a term");
        if state.term != before.term || state.vote != before.vote {
            let commit = self.commit;
            self.hard.save(|slot| slot.hard_state = HardState { commit, ..state })?;
        }
        Ok(())
    }

    fn append(&mut self, entries: &[LogEntry], commit: LogIndex) -> Result<(), LogFailed> {
        let mut rest = entries;
        while !rest.is_empty() {
            let written = self.append_here(rest, commit)?;
            rest = &rest[written..];
            if !rest.is_empty() {
                self.roll()?;
                let first = &rest[0];
                let fits = record::HEADER + 16 + first.data.len() <= self.room();
                assert!(fits, "entry {} of {} bytes is larger than a segment", first.index, first.data.len());
            }
        }
        Ok(())
    }

    fn check(&self, entries: &[LogEntry]) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        let index = self.shared.index();
        assert!(first <= index.last().next(), "no gap: entry {first} behind {}", index.last());
        assert!(first > index.base().0, "entry {first} was cut away");
        assert!(first > self.commit.min(index.last()), "entry {first} would replace a committed one");
        let mut term = index.term(LogIndex(first.0 - 1)).expect("between base and last");
        drop(index);
        for (entry, index) in entries.iter().zip(first.0..) {
            assert!(entry.index.0 == index && entry.term >= term, "entries follow each other");
            term = entry.term;
        }
    }

    fn check_term(&self, entries: &[LogEntry]) {
        let last = entries.last().map(|entry| entry.term);
        assert!(last <= Some(self.hard.now().hard_state.term), "an entry of a later term than the HardState's");
    }

    /// Writes what fits into the active segment, and returns how many entries that were.
    fn append_here(&mut self, entries: &[LogEntry], commit: LogIndex) -> Result<usize, LogFailed> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let (mut chain, mut taken) = (self.active.chain, 0);
        let mut records = Vec::new();
        let mut prev_term = {
            let index = self.shared.index();
            index.term(LogIndex(entries[0].index.0 - 1)).expect("checked: no gap and not cut")
        };
        while taken < entries.len() {
            let rest = &entries[taken..];
            let start = buffer.len();
            let meta = Meta { commit, ..self.meta(rest[0].index, prev_term) };
            let (count, after) = record::write_entries(&mut buffer, meta, rest, self.room() - start, chain);
            if count == 0 {
                break;
            }
            records.push(Placed {
                generation: self.active.header.generation,
                offset: self.active.end + start as u64,
                bytes: u32::try_from(buffer.len() - start).expect("fits a segment"),
                chain,
                first: rest[0].index,
                prev_term,
                terms: recover::runs(rest[..count].iter().map(|entry| entry.term)),
            });
            prev_term = rest[count - 1].term;
            taken += count;
            chain = after;
        }
        if taken > 0 {
            self.write(&buffer, chain)?;
            // Only now can a reader see them: what it reads is durable.
            let mut index = self.shared.index_mut();
            for record in &records {
                index.append(record).expect("checked before it was written");
            }
        }
        self.buffer = buffer;
        self.buffer.shrink_to(BUFFER_KEPT);
        Ok(taken)
    }

    /// The one write and the one sync of a batch. The mark that goes with it names what was synced before.
    fn write(&mut self, records: &[u8], chain: u32) -> Result<(), LogFailed> {
        if self.wants_mark() {
            self.send_mark()?;
        }
        let active = &mut self.active;
        let write = self.io.write_at(&active.file.file, active.end, records);
        write.map_err(|source| active.failed("write", source))?;
        if !mutants::is(Mutant::AckBeforeFsync) {
            self.io.sync_data(&active.file.file).map_err(|source| active.failed("sync", source))?;
        }
        active.end += records.len() as u64;
        active.chain = chain;
        self.spares.owe(records.len() as u64);
        Ok(())
    }

    /// Must be called before the records of the next batch are indexed: `last` is the last index in front of `end`.
    fn send_mark(&mut self) -> Result<(), LogFailed> {
        let last = self.last();
        let active = &mut self.active;
        let mark = Mark {
            generation: active.header.generation,
            counter: active.mark.counter + 1,
            end: active.end,
            last,
            commit: self.commit,
            chain: active.chain,
        };
        let write = self.io.write_at(&active.file.file, mark.place(), &mark.encode());
        write.map_err(|source| active.failed("write the mark of", source))?;
        active.mark = mark;
        Ok(())
    }

    /// Goes on in a new segment. What is in the present one is synced; the new head says so.
    fn roll(&mut self) -> Result<(), LogFailed> {
        let header = self.next_header();
        let active = self.begin(header)?;
        // From here on the log has one segment more. Before, the new file meant nothing; no record is in it yet.
        let commit = self.commit;
        self.hard.save(|slot| {
            slot.active_generation = header.generation;
            slot.hard_state.commit = commit;
        })?;
        self.shared.index_mut().add_file(header.generation, Arc::clone(&active.file));
        self.active = active;
        Ok(())
    }

    fn next_header(&mut self) -> Header {
        let generation = self.next_generation;
        self.next_generation += 1;
        Header {
            log_id: self.active.header.log_id,
            generation,
            size: self.segment_bytes,
            prev_generation: self.active.header.generation,
            prev_index: self.last(),
            prev_term: self.last_term(),
            prev_end: self.active.end,
            prev_chain: self.active.chain,
        }
    }

    fn begin(&mut self, header: Header) -> Result<Active<I>, LogFailed> {
        let file = self.spares.take()?;
        let write = self.io.write_at(&file.file, 0, &header.head());
        write.map_err(|source| LogFailed::new("write the head of", &file.name, source))?;
        self.io.sync_data(&file.file).map_err(|source| LogFailed::new("sync", &file.name, source))?;
        Ok(Active { file, end: RECORDS, chain: header.seed(), mark: header.first_mark(2), header })
    }

    fn drop_before(&mut self, generation: u64) -> Result<(), LogFailed> {
        // Durable before any file is used again, or the log would seem to have lost its beginning.
        let commit = self.commit;
        self.hard.save(|slot| {
            slot.first_generation = generation;
            slot.hard_state.commit = commit;
        })?;
        let dropped = self.shared.index_mut().drop_before(generation);
        dropped.into_iter().try_for_each(|file| self.spares.give(file))
    }

    fn meta(&self, first: LogIndex, prev_term: Term) -> Meta {
        Meta { generation: self.active.header.tag(), first, prev_term, commit: self.commit }
    }

    fn room(&self) -> usize {
        usize::try_from(self.active.header.size.saturating_sub(self.active.end)).expect("a segment fits memory")
    }

    fn last(&self) -> LogIndex {
        self.shared.index().last()
    }

    fn last_term(&self) -> Term {
        self.shared.index().last_term()
    }
}

/// A batch of raft's is seldom larger; a larger buffer is given back after use.
const BUFFER_KEPT: usize = 1024 * 1024;

impl<I: LogIo> Active<I> {
    fn failed(&self, action: &'static str, source: std::io::Error) -> LogFailed {
        LogFailed::new(action, &self.file.name, source)
    }
}
