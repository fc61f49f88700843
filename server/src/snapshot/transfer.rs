//! The two ends of a transfer: plain structs that decide everything. A shell moves what they say over a connection, and
//! a new connection goes on with the same structs, or with new ones.

use super::{
    Archive, ArchiveMeta, Checker, Chunk, Records,
    format::{Broken, CHUNK_BYTES},
};
use crate::types::Term;

/// Chunks that are on their way. At 256 KiB each this fills a link of 1 Gbit/s and 16 ms, and is what a connection
/// holds of an archive in memory: 2 MiB.
pub const WINDOW_CHUNKS: u64 = 8;

/// From who has the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToReceiver {
    /// First on every connection: which archive, and the term of the leader that sends it.
    Begin {
        meta: ArchiveMeta,
        term: Term,
    },
    Chunk(Chunk),
}

/// From who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToSender {
    /// The answer to the beginning and to chunks: it has all chunks below this number.
    Have(u64),
    /// It has all of it, on disk.
    Staged,
    Refused(Refusal),
}

/// Why an archive is not taken. The sender gives up; raft will ask for another one if it still needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another one is being received or put in.
    Busy,
    /// The receiver's state is as new, or of another cluster.
    Unwanted,
    /// The receiver's disk is full.
    NoSpace,
    /// What came is not the archive that was announced; what was kept of it is gone.
    Broken,
}

/// What the receiver's answer means for the transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    GoesOn,
    Done,
    /// Refused, or an answer that makes no sense: the connection is of no more use.
    Over,
}

/// Hands out chunks as fast as the receiver has them.
pub struct Sender {
    archive: Archive,
    /// The receiver has all chunks below; it says so before any chunk is sent.
    have: Option<u64>,
    next: u64,
    end: Option<u64>,
}

impl Sender {
    #[must_use]
    pub fn new(archive: Archive) -> Self {
        Self { archive, have: None, next: 0, end: None }
    }

    #[must_use]
    pub fn meta(&self) -> &ArchiveMeta {
        self.archive.meta()
    }

    /// What a new connection begins with. What is under way on an older one is forgotten.
    pub fn begin(&mut self, term: Term) -> ToReceiver {
        self.have = None;
        ToReceiver::Begin { meta: self.archive.meta().clone(), term }
    }

    /// The next chunk to send; None while the window is full, before the receiver said what it has, and at the end.
    pub fn next_chunk(&mut self) -> Option<Chunk> {
        if self.next >= self.have?.saturating_add(WINDOW_CHUNKS) || self.end.is_some_and(|end| self.next >= end) {
            return None;
        }
        // None only if the receiver says that it has more than there is; its checks will find out.
        let chunk = self.archive.chunk(self.next)?;
        self.next += 1;
        if chunk.last {
            self.end = Some(self.next);
        }
        Some(chunk)
    }

    pub fn hear(&mut self, answer: ToSender) -> Verdict {
        match (answer, self.have) {
            (ToSender::Have(chunks), None) => {
                self.have = Some(chunks);
                self.next = chunks;
                Verdict::GoesOn
            }
            (ToSender::Have(chunks), Some(have)) if (have..=self.next).contains(&chunks) => {
                self.have = Some(chunks);
                Verdict::GoesOn
            }
            (ToSender::Have(_) | ToSender::Refused(_), _) => Verdict::Over,
            (ToSender::Staged, _) => Verdict::Done,
        }
    }
}

/// Judges chunks in order.
pub struct Receiver {
    meta: ArchiveMeta,
    checker: Checker,
    /// The first chunk that is missing.
    next: u64,
}

/// What a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Write it there.
    Write { offset: u64 },
    /// As [`Judged::Write`], and with it the archive is whole.
    Last { offset: u64 },
    /// It was taken before: a connection that was cut sent it already.
    Again,
}

impl Receiver {
    #[must_use]
    pub fn new(meta: ArchiveMeta) -> Self {
        Self { meta, checker: Checker::new(), next: 0 }
    }

    #[must_use]
    pub fn meta(&self) -> &ArchiveMeta {
        &self.meta
    }

    /// All chunks below are here.
    #[must_use]
    pub fn have(&self) -> u64 {
        self.next
    }

    /// The value of the applied index within the archive.
    #[must_use]
    pub fn applied(&self) -> Option<&bytes::Bytes> {
        self.checker.applied()
    }

    /// # Errors
    /// If it is not a chunk of the archive that was announced. The receiver must not be used any more.
    pub fn chunk(&mut self, chunk: &Chunk) -> Result<Judged, Broken> {
        if chunk.number < self.next {
            return Ok(Judged::Again);
        }
        let whole = chunk.bytes.len() == CHUNK_BYTES;
        let fits = if chunk.last { (1..=CHUNK_BYTES).contains(&chunk.bytes.len()) } else { whole };
        if chunk.number > self.next || !fits || self.checker.is_whole() {
            return Err(Broken::Short);
        }
        let offset = self.next * CHUNK_BYTES as u64;
        self.checker.push(&chunk.bytes, &mut |_: Records| {})?;
        if self.checker.meta().is_some_and(|meta| *meta != self.meta) {
            return Err(Broken::Another);
        }
        self.next += 1;
        match (chunk.last, self.checker.is_whole()) {
            (true, true) => Ok(Judged::Last { offset }),
            (false, false) => Ok(Judged::Write { offset }),
            (true, false) => Err(Broken::Short),
            (false, true) => Err(Broken::End),
        }
    }
}
