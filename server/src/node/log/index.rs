//! Where the entries are: in memory, small, shared between the thread that writes and those that read.
//!
//! The log only ever grows at its end; entries that replace a conflicting tail are written behind it. An *extent* is a
//! stretch of records of one segment in which indexes rise without a break, and the list of extents holds, in order,
//! only what still counts: a lookup takes the last extent that begins at or below the index, and what that extent
//! holds at or above the beginning of the next one was replaced.

use std::{collections::BTreeMap, sync::Arc};

use super::failure::Rotten;
use crate::types::{LogIndex, Term};

/// An extent takes no further record once it has this many bytes: what a reader reads to find one entry, and what one
/// extent's 48 bytes of memory stand for (3 MiB of them for 1 GiB of log).
const EXTENT_TARGET: u32 = 16 * 1024;

/// An open segment file.
#[derive(Debug)]
pub(super) struct SegmentFile<F> {
    pub(super) file: F,
    pub(super) name: String,
}

/// See the top of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) first: LogIndex,
    pub(super) generation: u64,
    pub(super) offset: u64,
    pub(super) bytes: u32,
    /// The chain in front of the first record.
    pub(super) chain: u32,
    /// Bytes of log that were written in front of this extent, counted over all segments since this start.
    at: u64,
}

/// One entries record and its place.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) generation: u64,
    pub(super) offset: u64,
    pub(super) bytes: u32,
    pub(super) chain: u32,
    pub(super) first: LogIndex,
    pub(super) prev_term: Term,
    /// Terms of the entries, run by run, with the number of entries in each.
    pub(super) terms: Vec<(Term, u64)>,
}

/// A stretch that a reader can read without holding the lock.
#[derive(Debug)]
pub(super) struct Found<F> {
    pub(super) extent: Extent,
    pub(super) file: Arc<SegmentFile<F>>,
    /// First index behind what counts in this extent.
    pub(super) end: LogIndex,
}

#[derive(Debug)]
pub(super) struct Index<F> {
    /// The entry in front of the first one: its term is still known.
    base: (LogIndex, Term),
    last: LogIndex,
    extents: Vec<Extent>,
    /// First index and term of each run of entries of one term; rises in both.
    terms: Vec<(LogIndex, Term)>,
    files: BTreeMap<u64, Arc<SegmentFile<F>>>,
    written: u64,
}

/// The records of a segment do not continue what was there before.
#[derive(Debug)]
pub(super) struct OutOfOrder;

impl<F> Index<F> {
    pub(super) fn new(base: (LogIndex, Term)) -> Self {
        Self { base, last: base.0, extents: Vec::new(), terms: Vec::new(), files: BTreeMap::new(), written: 0 }
    }

    pub(super) fn base(&self) -> (LogIndex, Term) {
        self.base
    }

    pub(super) fn first(&self) -> LogIndex {
        self.base.0.next()
    }

    pub(super) fn last(&self) -> LogIndex {
        self.last
    }

    pub(super) fn last_term(&self) -> Term {
        self.terms.last().map_or(self.base.1, |(_, term)| *term)
    }

    pub(super) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        if index < self.base.0 || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        Some(self.terms[run - 1].1)
    }

    pub(super) fn add_file(&mut self, generation: u64, file: Arc<SegmentFile<F>>) {
        let was = self.files.insert(generation, file);
        assert!(was.is_none(), "a generation is used once");
    }

    pub(super) fn generations(&self) -> impl DoubleEndedIterator<Item = u64> + '_ {
        self.files.keys().copied()
    }

    pub(super) fn file(&self, generation: u64) -> &Arc<SegmentFile<F>> {
        &self.files[&generation]
    }

    /// Takes up a record that is durable. One that begins at or below the last index replaces what follows from there.
    pub(super) fn append(&mut self, record: &Placed) -> Result<(), OutOfOrder> {
        if record.first > self.last.next() {
            return Err(OutOfOrder);
        }
        let replaces = record.first <= self.last;
        if record.first <= self.base.0 {
            // What the record builds on was cut with an older segment; only its term is left, in the record.
            self.base = (LogIndex(record.first.0 - 1), record.prev_term);
            self.extents.clear();
            self.terms.clear();
            self.last = self.base.0;
        } else if replaces {
            self.replace_from(record.first);
        }
        if record.prev_term != self.last_term() || record.terms.iter().any(|(term, _)| *term < self.last_term()) {
            return Err(OutOfOrder);
        }
        self.place(record, replaces);
        for (term, count) in &record.terms {
            if *term != self.last_term() || self.terms.is_empty() {
                self.terms.push((self.last.next(), *term));
            }
            self.last.0 += count;
        }
        Ok(())
    }

    fn replace_from(&mut self, index: LogIndex) {
        self.extents.truncate(self.extents.partition_point(|extent| extent.first < index));
        self.terms.truncate(self.terms.partition_point(|(first, _)| *first < index));
        self.last = LogIndex(index.0 - 1);
    }

    /// A record that replaces others opens an extent of its own: indexes do not rise across it.
    fn place(&mut self, record: &Placed, replaces: bool) {
        let open = self.extents.last_mut().filter(|extent| {
            !replaces
                && extent.generation == record.generation
                && extent.offset + u64::from(extent.bytes) == record.offset
                && extent.bytes < EXTENT_TARGET
        });
        match open {
            Some(extent) => extent.bytes += record.bytes,
            None => self.extents.push(Extent {
                first: record.first,
                generation: record.generation,
                offset: record.offset,
                bytes: record.bytes,
                chain: record.chain,
                at: self.written,
            }),
        }
        self.written += u64::from(record.bytes);
    }

    pub(super) fn find(&self, index: LogIndex) -> Option<Found<F>> {
        if index <= self.base.0 || index > self.last {
            return None;
        }
        let behind = self.extents.partition_point(|extent| extent.first <= index);
        let extent = self.extents[behind - 1];
        let end = self.extents.get(behind).map_or(self.last.next(), |next| next.first);
        Some(Found { extent, file: Arc::clone(&self.files[&extent.generation]), end })
    }

    /// Bytes of log written since the record that holds `index`.
    pub(super) fn bytes_from(&self, index: LogIndex) -> u64 {
        let behind = self.extents.partition_point(|extent| extent.first <= index);
        let extent = if behind == 0 { self.extents.first() } else { self.extents.get(behind - 1) };
        extent.filter(|_| index <= self.last).map_or(0, |extent| self.written - extent.at)
    }

    /// The oldest generation that must stay if entries below `index` may go: segments go whole, oldest first, and
    /// never the newest.
    pub(super) fn keep_from(&self, index: LogIndex) -> u64 {
        let newest = *self.files.keys().next_back().expect("the log has at least one segment");
        // The first extent whose end is above `index - 1` is needed; so is everything behind it.
        let behind = self.extents.partition_point(|extent| extent.first <= index);
        match self.extents.get(behind.saturating_sub(1)) {
            Some(extent) if index <= self.last => extent.generation,
            _ => newest,
        }
    }

    /// Drops segments older than `generation`, and hands out their files.
    pub(super) fn drop_before(&mut self, generation: u64) -> Vec<Arc<SegmentFile<F>>> {
        let kept = self.files.split_off(&generation);
        let dropped = std::mem::replace(&mut self.files, kept);
        let gone = self.extents.partition_point(|extent| extent.generation < generation);
        if gone > 0 {
            let first = self.extents.get(gone).map_or(self.last.next(), |extent| extent.first);
            let base = LogIndex(first.0 - 1);
            self.base = (base, self.term(base).expect("in front of an entry that is there"));
            self.extents.drain(..gone);
            let run = self.terms.partition_point(|(start, _)| *start <= first);
            if first > self.last {
                self.terms.clear();
            } else {
                self.terms.drain(..run - 1);
                self.terms[0].0 = first;
            }
        }
        dropped.into_values().collect()
    }

    pub(super) fn rotten(&self, extent: &Extent, damage: super::failure::Damage) -> Rotten {
        Rotten {
            file: self.files.get(&extent.generation).map(|file| file.name.clone()).unwrap_or_default(),
            offset: extent.offset,
            damage,
            readable_to: LogIndex(extent.first.0 - 1),
            durable_to: self.last,
        }
    }
}
