//! Reading, from any thread, while another one writes.
//!
//! Raft keeps what is not yet applied in its own cache; from here come the entries that a slow follower needs, and
//! those between the flushed applied index and the end at a start. Only what is durable can be seen.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::{
    entry::LogEntry,
    failure::{Damage, LogFailed, ReadError},
    index::{Found, Index},
    io::LogIo,
    record::{self, Parsed},
    segment,
};
use crate::types::{LogIndex, Term};

/// What the writing side and the readers share. The lock is held for look-ups, never during a file operation.
pub(super) struct Shared<I: LogIo> {
    pub(super) io: Arc<I>,
    index: RwLock<Index<I::File>>,
}

impl<I: LogIo> Shared<I> {
    pub(super) fn new(io: Arc<I>, index: Index<I::File>) -> Self {
        Self { io, index: RwLock::new(index) }
    }

    /// A panic while the lock is held stops the process, so what a poisoned one guards is never used for long.
    pub(super) fn index(&self) -> RwLockReadGuard<'_, Index<I::File>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index_mut(&self) -> RwLockWriteGuard<'_, Index<I::File>> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle for reading; cheap to clone.
pub struct LogReader<I: LogIo> {
    shared: Arc<Shared<I>>,
}

impl<I: LogIo> Clone for LogReader<I> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<I: LogIo> LogReader<I> {
    pub(super) fn new(shared: Arc<Shared<I>>) -> Self {
        Self { shared }
    }

    /// First index that can be read; one above [`LogReader::last_index`] while the log is empty.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.shared.index().first()
    }

    /// Last index on disk.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.shared.index().last()
    }

    /// Term of an entry, of the one in front of the first too. From memory.
    #[must_use]
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        self.shared.index().term(index)
    }

    /// Bytes of log from the entry on: what a restart that begins there has to replay, to about 16 KiB.
    #[must_use]
    pub fn bytes_from(&self, index: LogIndex) -> u64 {
        self.shared.index().bytes_from(index)
    }

    /// Entries from `from` up to, not including, `to`, as many as fit `max_bytes` of data, but at least one.
    ///
    /// # Errors
    /// [`ReadError::Cut`] and [`ReadError::Unavailable`] if the log does not hold all of the range; the others mean
    /// that the process has to stop.
    pub fn read(&self, from: LogIndex, to: LogIndex, max_bytes: u64) -> Result<Vec<LogEntry>, ReadError> {
        let mut out: Vec<LogEntry> = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        while next < to {
            let found = self.find(next, to)?;
            let Some(records) = self.load(&found)? else {
                // Cut or replaced while it was read: look again, and find out which.
                continue;
            };
            for entry in records {
                if entry.index < next || entry.index >= found.end || entry.index >= to {
                    continue;
                }
                bytes += entry.data.len() as u64;
                if bytes > max_bytes && !out.is_empty() {
                    return Ok(out);
                }
                out.push(entry);
            }
            let reached = out.last().map(|entry| entry.index.next());
            assert!(reached > Some(next), "an extent holds what the index says");
            next = reached.expect("checked above");
        }
        Ok(out)
    }

    fn find(&self, next: LogIndex, to: LogIndex) -> Result<Found<I::File>, ReadError> {
        let index = self.shared.index();
        if next < index.first() {
            return Err(ReadError::Cut);
        }
        if to > index.last().next() {
            return Err(ReadError::Unavailable);
        }
        index.find(next).ok_or(ReadError::Unavailable)
    }

    /// The records of an extent, checked again on every read: bits rot on disks that were sound at the start. `None`
    /// if the file was put to another use meanwhile.
    fn load(&self, found: &Found<I::File>) -> Result<Option<Vec<LogEntry>>, ReadError> {
        let extent = &found.extent;
        let mut buf = vec![0; extent.bytes as usize];
        let read = self.shared.io.read_at(&found.file.file, extent.offset, &mut buf);
        read.map_err(|source| LogFailed::new("read", &found.file.name, source))?;
        let buf = Bytes::from(buf);
        let (mut entries, mut at, mut chain) = (Vec::new(), 0, extent.chain);
        while at < buf.len() {
            let rest = &buf[at..];
            let Parsed::Record(record) = record::parse(rest, segment::tag(extent.generation), rest.len(), chain) else {
                return self.gone_or_rotten(found);
            };
            entries.extend(record.entries(&buf, at));
            chain = record.chain;
            at += record.len;
        }
        Ok(Some(entries))
    }

    fn gone_or_rotten(&self, found: &Found<I::File>) -> Result<Option<Vec<LogEntry>>, ReadError> {
        let index = self.shared.index();
        let now = index.find(found.extent.first).map(|now| now.extent);
        if now.is_some_and(|now| now.generation == found.extent.generation && now.offset == found.extent.offset) {
            return Err(ReadError::Rotten(Box::new(index.rotten(&found.extent, Damage::Record))));
        }
        Ok(None)
    }
}
