//! The head of a segment file: who it is, and how much of it is known to be durable.
//!
//! ```text
//!     0 header: 8 magic, u32 version, u32 0, u64 log id, u64 generation, u64 size, u64 previous generation,
//!               u64 index before the first record, u64 its term, u64 end of the previous segment, u32 its chain, u32 crc32c
//!  4096 mark A: u64 generation, u64 counter, u64 end, u64 last index, u64 commit, u32 chain, u32 crc32c
//!  8192 mark B
//! 12288 records
//! ```
//! Each part has a page of its own, so that a torn write of one cannot harm another even where the device writes
//! 4 KiB at a time. The header is written once, when the file takes up a new generation.

use super::record::{u32_at, u64_at};
use crate::types::{LogIndex, Term};

pub(super) const MAGIC: &[u8; 8] = b"CNCLVLOG";
pub(super) const VERSION: u32 = 1;
const PAGE: usize = 4096;
/// Where records begin.
pub(super) const RECORDS: u64 = 3 * PAGE as u64;
const HEADER_LEN: usize = 80;
const MARK_LEN: usize = 48;

/// The head of one segment, and what it says about the one before it, which was whole and synced when this was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) log_id: u64,
    /// Rises with each use of any file, so that what an earlier use left in the file is never taken for a record.
    pub(super) generation: u64,
    pub(super) size: u64,
    /// 0 where the log begins.
    pub(super) prev_generation: u64,
    pub(super) prev_index: LogIndex,
    pub(super) prev_term: Term,
    pub(super) prev_end: u64,
    pub(super) prev_chain: u32,
}

/// Everything in front of `end` was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) generation: u64,
    /// The higher one of two valid marks counts.
    pub(super) counter: u64,
    pub(super) end: u64,
    pub(super) last: LogIndex,
    pub(super) commit: LogIndex,
    pub(super) chain: u32,
}

/// What the first bytes of a file turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderRead {
    Header(Header),
    Newer(u32),
    /// Never used, or its head is damaged.
    None,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let numbers =
            [self.log_id, self.generation, self.size, self.prev_generation, self.prev_index.0, self.prev_term.0];
        for (place, number) in out[16..64].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        out[64..72].copy_from_slice(&self.prev_end.to_le_bytes());
        out[72..76].copy_from_slice(&self.prev_chain.to_le_bytes());
        let crc = crc32c::crc32c(&out[..76]);
        out[76..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(buf: &[u8]) -> HeaderRead {
        if buf.len() < HEADER_LEN || &buf[..8] != MAGIC || crc32c::crc32c(&buf[..76]) != u32_at(buf, 76) {
            return HeaderRead::None;
        }
        let version = u32_at(buf, 8);
        if version != VERSION {
            return HeaderRead::Newer(version);
        }
        HeaderRead::Header(Self {
            log_id: u64_at(buf, 16),
            generation: u64_at(buf, 24),
            size: u64_at(buf, 32),
            prev_generation: u64_at(buf, 40),
            prev_index: LogIndex(u64_at(buf, 48)),
            prev_term: Term(u64_at(buf, 56)),
            prev_end: u64_at(buf, 64),
            prev_chain: u32_at(buf, 72),
        })
    }

    /// The chain that the first record continues. It covers the log id, which is random, so that nobody who writes
    /// values can prepare bytes that would pass for a record where a torn one left a hole.
    pub(super) fn seed(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(b"seed"), &self.encode())
    }

    /// The low half, as records carry it.
    pub(super) fn tag(&self) -> u32 {
        tag(self.generation)
    }

    /// Header and both marks, as they stand before the first record.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut out = vec![0; 3 * PAGE];
        out[..HEADER_LEN].copy_from_slice(&self.encode());
        for counter in 1..=2 {
            let mark = self.first_mark(counter);
            let at = usize::try_from(mark.place()).expect("within the head");
            out[at..at + MARK_LEN].copy_from_slice(&mark.encode());
        }
        out
    }

    /// Nothing but the head is durable.
    pub(super) fn first_mark(&self, counter: u64) -> Mark {
        Mark {
            generation: self.generation,
            counter,
            end: RECORDS,
            last: self.prev_index,
            commit: LogIndex(0),
            chain: self.seed(),
        }
    }

    /// The mark that counts, of those in a head; `None` if neither can be read.
    pub(super) fn read_marks(&self, head: &[u8]) -> Option<Mark> {
        let marks = [PAGE, 2 * PAGE].map(|at| Mark::decode(&head[at..at + MARK_LEN], self.generation));
        marks.into_iter().flatten().max_by_key(|mark| mark.counter)
    }
}

/// The low half of a generation, never 0: blank space carries 0.
pub(super) fn tag(generation: u64) -> u32 {
    let low = u32::try_from(generation & 0xffff_ffff).expect("masked");
    if low == 0 { u32::MAX } else { low }
}

impl Mark {
    /// The two places take turns.
    pub(super) fn place(&self) -> u64 {
        PAGE as u64 * (1 + self.counter % 2)
    }

    pub(super) fn encode(&self) -> [u8; MARK_LEN] {
        let mut out = [0; MARK_LEN];
        let numbers = [self.generation, self.counter, self.end, self.last.0, self.commit.0];
        for (place, number) in out[..40].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        out[40..44].copy_from_slice(&self.chain.to_le_bytes());
        let crc = crc32c::crc32c(&out[..44]);
        out[44..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(buf: &[u8], generation: u64) -> Option<Self> {
        let sound = crc32c::crc32c(&buf[..44]) == u32_at(buf, 44) && u64_at(buf, 0) == generation;
        sound.then(|| Self {
            generation,
            counter: u64_at(buf, 8),
            end: u64_at(buf, 16),
            last: LogIndex(u64_at(buf, 24)),
            commit: LogIndex(u64_at(buf, 32)),
            chain: u32_at(buf, 40),
        })
    }
}

/// `Io` names of segment files. The name says nothing: which part of the log a file holds stands in its header, so
/// that a file can be used again without renaming it.
pub(super) fn file_name(slot: u64) -> String {
    format!("{slot:08x}.seg")
}

pub(super) fn slot_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 8).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}
