//! What raft reads: new entries from memory, older ones from the log on disk.
//!
//! Raft must be able to read an entry from the moment it handed it out, which is before the log thread has written it
//! (`advance_append_async`). So entries live here until they are both persisted and applied; nothing younger than that
//! is ever looked up on disk, where a tail that was replaced may still stand.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use raft::{GetEntriesContext, RaftState, StorageError, eraftpb};

use super::convert::{entry_copy, entry_in, snapshot_in};
use crate::{
    node::log::{LogEntry, LogIo, LogReader, ReadError},
    snapshot::ArchiveMeta,
    types::{LogIndex, MemberId, Term},
};

/// Applied entries that stay in memory for followers that are a little behind: eight full append messages.
const KEEP_BYTES: usize = 8 << 20;

pub(super) struct Storage<Io: LogIo> {
    reader: LogReader<Io>,
    start: RaftState,
    /// Consecutive, up to the last entry there is. Its first index is where memory takes over from disk.
    recent: VecDeque<eraftpb::Entry>,
    recent_first: u64,
    recent_bytes: usize,
    /// The entry behind which an archive lets the log begin, from the moment raft took it: the log thread has yet to
    /// forget what is in front.
    behind: (u64, u64),
    /// Archives that are held open for followers.
    archives: BTreeMap<u64, ArchiveMeta>,
    /// Followers for which raft asked for an archive that is not there.
    wanted: RefCell<BTreeSet<u64>>,
}

impl<Io: LogIo> Storage<Io> {
    pub(super) fn new(reader: LogReader<Io>, start: RaftState) -> Self {
        let recent_first = reader.last_index().0 + 1;
        Self {
            reader,
            start,
            recent: VecDeque::new(),
            recent_first,
            recent_bytes: 0,
            behind: (0, 0),
            archives: BTreeMap::new(),
            wanted: RefCell::default(),
        }
    }

    /// Raft took an archive: there is nothing in front of its end any more.
    pub(super) fn begin_behind(&mut self, index: LogIndex, term: Term) {
        assert!(index.0 > self.behind.0, "archives only lead forward");
        self.behind = (index.0, term.0);
        self.recent.clear();
        self.recent_bytes = 0;
        self.recent_first = index.0 + 1;
    }

    /// An archive is held open for the follower; None: not any more.
    pub(super) fn offer(&mut self, to: MemberId, archive: Option<ArchiveMeta>) {
        match archive {
            Some(archive) => drop(self.archives.insert(to.0, archive)),
            None => drop(self.archives.remove(&to.0)),
        }
    }

    /// Followers that need an archive, asked for since the last call.
    pub(super) fn take_wanted(&mut self) -> Vec<MemberId> {
        std::mem::take(self.wanted.get_mut()).into_iter().map(MemberId).collect()
    }

    fn last(&self) -> u64 {
        self.recent_first + self.recent.len() as u64 - 1
    }

    /// Takes what raft handed out as new. An index that is there already is replaced with all that follows it.
    pub(super) fn append(&mut self, entries: Vec<eraftpb::Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        assert!(first <= self.last() + 1, "raft left a gap in front of entry {first}");
        if first <= self.recent_first {
            self.recent.clear();
            self.recent_bytes = 0;
            self.recent_first = first;
        }
        while self.last() >= first {
            let replaced = self.recent.pop_back().expect("last is above the first of those in memory");
            self.recent_bytes -= replaced.data.len();
        }
        for entry in entries {
            self.recent_bytes += entry.data.len();
            self.recent.push_back(entry);
        }
    }

    /// Forgets what is safe on disk and applied, but for a short stretch.
    pub(super) fn forget(&mut self, persisted: u64, applied: u64) {
        let safe = persisted.min(applied);
        while self.recent_bytes > KEEP_BYTES && self.recent_first <= safe {
            let Some(entry) = self.recent.pop_front() else { break };
            self.recent_bytes -= entry.data.len();
            self.recent_first += 1;
        }
    }

    /// Bytes of entries held in memory.
    pub(super) fn bytes(&self) -> usize {
        self.recent_bytes
    }

    fn in_memory(&self, index: u64) -> Option<&eraftpb::Entry> {
        let place = index.checked_sub(self.recent_first)?;
        self.recent.get(usize::try_from(place).ok()?)
    }
}

fn other(error: ReadError) -> raft::Error {
    raft::Error::Store(match error {
        ReadError::Cut => StorageError::Compacted,
        ReadError::Unavailable => StorageError::Unavailable,
        // Raft panics on any other error, which stops the process: a log that cannot be read is the end.
        ReadError::Failed(_) | ReadError::Rotten(_) => StorageError::Other(Box::new(error)),
    })
}

impl<Io: LogIo> raft::Storage for Storage<Io> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.start.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        if low <= self.behind.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if low < self.recent_first {
            let to = high.min(self.recent_first);
            let read = self.reader.read(LogIndex(low), LogIndex(to), max_bytes).map_err(other)?;
            // Fewer than asked for is allowed: raft comes again for the rest.
            return Ok(read.into_iter().map(entry_in).collect());
        }
        let mut taken = Vec::with_capacity(usize::try_from(high - low).unwrap_or_default());
        let mut bytes = 0_u64;
        for index in low..high {
            let entry = self.in_memory(index).ok_or(raft::Error::Store(StorageError::Unavailable))?;
            bytes += entry.data.len() as u64;
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if let Some(entry) = self.in_memory(index) {
            return Ok(entry.term);
        }
        if index <= self.behind.0 && self.behind.0 > 0 {
            let (behind, term) = self.behind;
            return if index == behind { Ok(term) } else { Err(raft::Error::Store(StorageError::Compacted)) };
        }
        if index >= self.recent_first {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        match self.reader.term(LogIndex(index)) {
            Some(Term(term)) => Ok(term),
            None => Err(raft::Error::Store(StorageError::Compacted)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.reader.first_index().0.max(self.behind.0 + 1))
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Only what is held open for this very follower. Raft asks again at the next heartbeat.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        let first = self.reader.first_index().0;
        // An archive from behind which the log was cut since would lead nowhere.
        let good = |archive: &&ArchiveMeta| archive.index.0 >= request_index && archive.index.0 + 1 >= first;
        if let Some(snapshot) = self.archives.get(&to).filter(good).and_then(snapshot_in) {
            return Ok(snapshot);
        }
        self.wanted.borrow_mut().insert(to);
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

/// Copies for the log thread, and keeps the originals for raft.
pub(super) fn share(entries: &[eraftpb::Entry]) -> Vec<LogEntry> {
    entries.iter().map(entry_copy).collect()
}
