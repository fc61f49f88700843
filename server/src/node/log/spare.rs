//! Files for the segments to come.
//!
//! A segment is written over bytes that the file already has, so that a sync has no file length or extent to write
//! down beside the data. A file that an old segment no longer needs already has them; a new one gets its zeros piece by
//! piece while the segment before it fills up, so that no batch waits for all of them.

use std::{collections::VecDeque, sync::Arc};

use super::{failure::LogFailed, index::SegmentFile, io::LogIo, segment};

/// Zeros written at a time, for as many bytes that the log took: the file is ready when the segment in front is full.
const CHUNK: u64 = 1024 * 1024;

/// Whole files kept for later; a cut that frees more gives the disk its space back. One is what steady writing needs,
/// the second absorbs a cut that frees two segments at once.
const KEEP: usize = 2;

pub(super) struct Spares<I: LogIo> {
    io: Arc<I>,
    size: u64,
    /// Oldest first; each has at least `size` bytes.
    whole: VecDeque<Arc<SegmentFile<I::File>>>,
    /// Still being filled, up to here.
    partial: Option<(SegmentFile<I::File>, u64)>,
    next_slot: u64,
    /// Bytes the log took for which no zeros were written yet.
    owed: u64,
}

impl<I: LogIo> Spares<I> {
    pub(super) fn new(io: Arc<I>, size: u64, next_slot: u64) -> Self {
        Self { io, size, whole: VecDeque::new(), partial: None, next_slot, owed: 0 }
    }

    /// Takes in a file that no segment of the log uses.
    pub(super) fn give(&mut self, file: Arc<SegmentFile<I::File>>) -> Result<(), LogFailed> {
        let len = self.io.len(&file.file).map_err(|source| LogFailed::new("measure", &file.name, source))?;
        if len == self.size && self.whole.len() < KEEP {
            self.whole.push_back(file);
            return Ok(());
        }
        // The removal need not be durable: the file would come back as one that no segment uses.
        self.io.unlink(&file.name).map_err(|source| LogFailed::new("remove", &file.name, source))
    }

    /// Counts what the log took since.
    pub(super) fn owe(&mut self, bytes: u64) {
        if self.whole.is_empty() {
            self.owed += bytes;
        }
    }

    /// Writes as many zeros as are owed, at most one chunk of them.
    pub(super) fn prepare(&mut self) -> Result<(), LogFailed> {
        if !self.whole.is_empty() {
            self.owed = 0;
            return Ok(());
        }
        if self.owed >= CHUNK.min(self.size) {
            self.owed -= CHUNK.min(self.size);
            self.fill()?;
        }
        Ok(())
    }

    /// A whole file, finished on the spot if need be.
    pub(super) fn take(&mut self) -> Result<Arc<SegmentFile<I::File>>, LogFailed> {
        while self.whole.is_empty() {
            self.fill()?;
        }
        self.owed = 0;
        Ok(self.whole.pop_front().expect("the loop above ended"))
    }

    fn fill(&mut self) -> Result<(), LogFailed> {
        let (file, filled) = match self.partial.take() {
            Some(partial) => partial,
            None => (self.create()?, 0),
        };
        let chunk = CHUNK.min(self.size - filled);
        let zeros = vec![0; usize::try_from(chunk).expect("a chunk fits memory")];
        self.io.write_at(&file.file, filled, &zeros).map_err(|source| LogFailed::new("fill", &file.name, source))?;
        // Synced piece by piece: one sync over the whole file would stall the log's own syncs on the same disk.
        self.io.sync_data(&file.file).map_err(|source| LogFailed::new("sync", &file.name, source))?;
        if filled + chunk == self.size {
            self.whole.push_back(Arc::new(file));
        } else {
            self.partial = Some((file, filled + chunk));
        }
        Ok(())
    }

    fn create(&mut self) -> Result<SegmentFile<I::File>, LogFailed> {
        let slot = self.next_slot;
        self.next_slot += 1;
        let name = segment::file_name(slot);
        let file = self.io.create(&name).map_err(|source| LogFailed::new("create", &name, source))?;
        self.io.sync_dir().map_err(|source| LogFailed::new("sync the folder of", &name, source))?;
        Ok(SegmentFile { file, name })
    }
}
