//! One record of a segment: the entries of (a part of) one batch, or the note that the log was opened.
//!
//! ```text
//!  0 u32 length of the body        16 u64 index of the first entry     40 u32 chain
//!  4 u32 generation (low half)     24 u64 term of the entry before it  44 body
//!  8 u32 type: 1 entries, 2 opened 32 u64 commit index when written
//! 12 u32 number of entries
//! ```
//! Little-endian. The *chain* is the crc32c over the previous record's chain (of the segment's header for the first
//! record), then bytes 0 to 40, then the body: a record is valid only behind the very records it was written behind.
//! Body of an entries record, per entry: `u32 length, u32 kind, u64 term, bytes`; indexes are consecutive. Body of an
//! opened record: `u64 epoch`.

use bytes::Bytes;

use super::entry::{EntryKind, LogEntry};
use crate::types::{LogIndex, Term};

pub(super) const HEADER: usize = 44;
/// In front of each entry's bytes.
const ENTRY_HEADER: usize = 16;

/// A record takes no further entry once its body has this size. A reader that wants one entry reads a whole record to
/// check it, and this is what it costs at most (unless a single entry is larger).
const BODY_TARGET: usize = 64 * 1024;

const ENTRIES: u32 = 1;
const OPENED: u32 = 2;

/// What a record says besides its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) generation: u32,
    pub(super) first: LogIndex,
    pub(super) prev_term: Term,
    pub(super) commit: LogIndex,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Entries { count: u32 },
    Opened { epoch: u64 },
}

/// A record that was found sound.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) meta: Meta,
    pub(super) content: Content,
    pub(super) chain: u32,
    /// Length of the whole record.
    pub(super) len: usize,
    body: &'a [u8],
}

#[derive(Debug)]
pub(super) enum Parsed<'a> {
    Record(Record<'a>),
    /// The buffer ends inside the record, which has this length.
    Need(usize),
    /// Not a record of this segment's generation: untouched zeros or an earlier life of the file.
    Blank,
    /// Meant to be a record of this generation, but not sound.
    Broken,
}

/// Appends one record with as many of `entries` as fit into `room` bytes, and returns how many those are and the new
/// chain; 0 entries leave `out` unchanged.
pub(super) fn write_entries(
    out: &mut Vec<u8>,
    meta: Meta,
    entries: &[LogEntry],
    room: usize,
    chain: u32,
) -> (usize, u32) {
    let mut count = 0;
    let mut body = 0;
    for entry in entries {
        let len = ENTRY_HEADER + entry.data.len();
        if HEADER + body + len > room || (count > 0 && body + len > BODY_TARGET) {
            break;
        }
        body += len;
        count += 1;
    }
    if count == 0 {
        return (0, chain);
    }
    let start = begin(out, meta, ENTRIES, u32::try_from(count).expect("a record holds few entries"), body);
    for entry in &entries[..count] {
        out.extend_from_slice(&u32::try_from(entry.data.len()).expect("fits a segment").to_le_bytes());
        out.extend_from_slice(&kind_code(entry.kind).to_le_bytes());
        out.extend_from_slice(&entry.term.0.to_le_bytes());
        out.extend_from_slice(&entry.data);
    }
    (count, finish(out, start, chain))
}

/// Length of the opened record.
pub(super) const OPENED_LEN: usize = HEADER + 8;

/// Appends the record that each opening of the log leaves. Its epoch is new every time, so no record that an earlier
/// life left behind a torn one can ever continue the chain again.
pub(super) fn write_opened(out: &mut Vec<u8>, meta: Meta, epoch: u64, chain: u32) -> u32 {
    let start = begin(out, meta, OPENED, 0, 8);
    out.extend_from_slice(&epoch.to_le_bytes());
    finish(out, start, chain)
}

fn begin(out: &mut Vec<u8>, meta: Meta, kind: u32, count: u32, body: usize) -> usize {
    let start = out.len();
    out.reserve(HEADER + body);
    out.extend_from_slice(&u32::try_from(body).expect("fits a segment").to_le_bytes());
    out.extend_from_slice(&meta.generation.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&meta.first.0.to_le_bytes());
    out.extend_from_slice(&meta.prev_term.0.to_le_bytes());
    out.extend_from_slice(&meta.commit.0.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    start
}

fn finish(out: &mut [u8], start: usize, chain: u32) -> u32 {
    let (header, body) = out[start..].split_at(HEADER);
    let chain = chained(chain, &header[..HEADER - 4], body);
    out[start + HEADER - 4..start + HEADER].copy_from_slice(&chain.to_le_bytes());
    chain
}

fn chained(previous: u32, header: &[u8], body: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&previous.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, header), body)
}

/// Reads the record at the start of `buf`; `room` is what the segment has left from there.
pub(super) fn parse(buf: &[u8], generation: u32, room: usize, previous: u32) -> Parsed<'_> {
    if room < HEADER {
        return Parsed::Blank;
    }
    if buf.len() < HEADER {
        return Parsed::Need(HEADER);
    }
    // A record of length zero with generation zero is what zero-filled space looks like; generations begin at 1.
    if u32_at(buf, 4) != generation {
        return Parsed::Blank;
    }
    let len = HEADER + u32_at(buf, 0) as usize;
    if len > room {
        return Parsed::Broken;
    }
    if buf.len() < len {
        return Parsed::Need(len);
    }
    let (header, body) = buf[..len].split_at(HEADER);
    let chain = chained(previous, &header[..HEADER - 4], body);
    if chain != u32_at(buf, 40) {
        return Parsed::Broken;
    }
    let count = u32_at(buf, 12);
    let content = match u32_at(buf, 8) {
        ENTRIES if count > 0 => Content::Entries { count },
        OPENED if body.len() == 8 && count == 0 => Content::Opened { epoch: u64_at(body, 0) },
        _ => return Parsed::Broken,
    };
    let meta = Meta {
        generation,
        first: LogIndex(u64_at(buf, 16)),
        prev_term: Term(u64_at(buf, 24)),
        commit: LogIndex(u64_at(buf, 32)),
    };
    let record = Record { meta, content, chain, len, body };
    if record.is_whole() { Parsed::Record(record) } else { Parsed::Broken }
}

impl Record<'_> {
    /// The entries fill the body exactly. Costs a walk over the entry headers, and lets the accessors below trust it.
    fn is_whole(&self) -> bool {
        let Content::Entries { count } = self.content else { return true };
        let mut at = 0;
        for _ in 0..count {
            if self.body.len() - at < ENTRY_HEADER || kind_of(u32_at(self.body, at + 4)).is_none() {
                return false;
            }
            at += ENTRY_HEADER;
            let len = u32_at(self.body, at - ENTRY_HEADER) as usize;
            if self.body.len() - at < len {
                return false;
            }
            at += len;
        }
        at == self.body.len() && self.meta.first.0.checked_add(u64::from(count)).is_some() && self.meta.first.0 > 0
    }

    /// Terms of the entries, in order.
    pub(super) fn terms(&self) -> impl Iterator<Item = Term> + '_ {
        self.places().map(|(_, term, _)| term)
    }

    /// The entries, sharing the buffer that the record was parsed from; `start` is the record's place in it.
    pub(super) fn entries<'b>(&'b self, buffer: &'b Bytes, start: usize) -> impl Iterator<Item = LogEntry> + 'b {
        self.places().zip(self.meta.first.0..).map(move |((kind, term, range), index)| LogEntry {
            index: LogIndex(index),
            term,
            kind,
            data: buffer.slice(start + HEADER + range.start..start + HEADER + range.end),
        })
    }

    fn places(&self) -> impl Iterator<Item = (EntryKind, Term, std::ops::Range<usize>)> + '_ {
        let count = match self.content {
            Content::Entries { count } => count,
            Content::Opened { .. } => 0,
        };
        let mut at = 0;
        (0..count).map(move |_| {
            let len = u32_at(self.body, at) as usize;
            let kind = kind_of(u32_at(self.body, at + 4)).expect("checked when the record was parsed");
            let term = Term(u64_at(self.body, at + 8));
            let start = at + ENTRY_HEADER;
            at = start + len;
            (kind, term, start..at)
        })
    }
}

/// Disk values; never renumber.
fn kind_code(kind: EntryKind) -> u32 {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    }
}

fn kind_of(code: u32) -> Option<EntryKind> {
    Some(match code {
        0 => EntryKind::Normal,
        1 => EntryKind::ConfChange,
        2 => EntryKind::ConfChangeV2,
        _ => return None,
    })
}

pub(super) fn u32_at(buf: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(buf[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(buf: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(buf[at..at + 8].try_into().expect("eight bytes"))
}
