//! Writing: a view becomes numbered chunks, made when they are asked for.
//!
//! Nothing of the archive is kept but the piece that is being cut into chunks, so the size of the state does not matter.
//! Going back to an earlier chunk makes it again, from the last place before it that was noted down.

use bytes::Bytes;
use sha1::{Digest, Sha1};

use super::{
    ArchiveMeta,
    format::{self, BlockWriter, CHUNK_BYTES},
};
use crate::{
    engine::{Family, Key, MetaKey, Read, View, droppable},
    types::{Revision, Sub},
};

/// Bytes of keys in the notes of places. Beyond it every second note is forgotten and notes are made half as often, so
/// that going back costs at most a few thousandths of the archive.
const MAX_NOTE_BYTES: usize = 4 << 20;
/// Notes at most, for the same reason.
const MAX_NOTES: usize = 1_024;

/// One numbered piece; all but the last have [`CHUNK_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub number: u64,
    pub bytes: Bytes,
    pub last: bool,
}

/// The state of a view as an archive.
pub struct Archive {
    view: View,
    meta: ArchiveMeta,
    /// What compaction let go as of the view is left out, whether this member still holds it or not.
    compacted: Revision,
    next: Place,
    digest: Sha1,
    counts: [u64; Family::ALL.len()],
    /// What was made and not yet dropped, and where it begins.
    ready: Vec<u8>,
    ready_from: u64,
    notes: Vec<Note>,
    note_bytes: usize,
    note_every: u64,
}

/// What comes next.
#[derive(Clone)]
enum Place {
    Head,
    /// Records of this family, by its place among all, behind the key.
    Records {
        family: usize,
        after: Option<Vec<u8>>,
    },
    End,
    Nothing,
}

/// All that is needed to go on from an offset.
struct Note {
    offset: u64,
    next: Place,
    digest: Sha1,
    counts: [u64; Family::ALL.len()],
}

impl Archive {
    /// `view` is the store after a whole entry, which is the one that `meta` names; `compacted` is its compacted
    /// revision.
    #[must_use]
    pub fn new(view: View, meta: ArchiveMeta, compacted: Revision) -> Self {
        let counts = [0; Family::ALL.len()];
        let start = Note { offset: 0, next: Place::Head, digest: Sha1::new(), counts };
        Self {
            view,
            meta,
            compacted,
            next: Place::Head,
            digest: Sha1::new(),
            counts,
            ready: Vec::new(),
            ready_from: 0,
            notes: vec![start],
            note_bytes: 0,
            note_every: CHUNK_BYTES as u64,
        }
    }

    #[must_use]
    pub fn meta(&self) -> &ArchiveMeta {
        &self.meta
    }

    /// The chunk with this number; None behind the last one. Cheap for the same or the next one.
    #[must_use]
    pub fn chunk(&mut self, number: u64) -> Option<Chunk> {
        let from = number.checked_mul(CHUNK_BYTES as u64)?;
        if from < self.ready_from {
            self.go_back(from);
        }
        // One byte more than the chunk tells whether it is the last.
        while self.ready_from + self.ready.len() as u64 <= from + CHUNK_BYTES as u64 {
            if !self.make_more(from) {
                break;
            }
        }
        let start = usize::try_from(from.checked_sub(self.ready_from)?).ok()?;
        if start >= self.ready.len() {
            return None;
        }
        self.ready.drain(..start);
        self.ready_from = from;
        let length = self.ready.len().min(CHUNK_BYTES);
        let last = matches!(self.next, Place::Nothing) && length == self.ready.len();
        Some(Chunk { number, bytes: Bytes::copy_from_slice(&self.ready[..length]), last })
    }

    fn go_back(&mut self, to: u64) {
        let place = self.notes.partition_point(|note| note.offset <= to);
        let note = &self.notes[place - 1];
        self.next = note.next.clone();
        self.digest = note.digest.clone();
        self.counts = note.counts;
        self.ready_from = note.offset;
        self.ready.clear();
    }

    /// Makes the head, a block or the end, and drops what lies before `wanted`. False: there is no more.
    fn make_more(&mut self, wanted: u64) -> bool {
        let made_to = self.ready_from + self.ready.len() as u64;
        self.note(made_to);
        let bytes = match std::mem::replace(&mut self.next, Place::Nothing) {
            Place::Head => {
                let mut head = Vec::new();
                format::write_head(&self.meta, &mut head);
                self.next = Place::Records { family: 0, after: None };
                head
            }
            Place::Records { family, after } => match self.block(family, after) {
                Some(block) => block,
                None => return true,
            },
            Place::End => format::write_end(&self.counts, self.digest.clone()),
            Place::Nothing => return false,
        };
        self.digest.update(&bytes);
        if made_to <= wanted {
            self.ready.clear();
            self.ready_from = made_to;
        }
        self.ready.extend_from_slice(&bytes);
        true
    }

    /// The next block of a family; None when it has no more records.
    fn block(&mut self, place: usize, after: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let family = Family::ALL[place];
        // The first key behind `after`; or where a family begins, of which the change log may be long gone below.
        let begin = || match family {
            Family::Log if self.compacted.0 > 0 => Key::Log { revision: self.compacted, sub: Sub(0) }.encode(),
            _ => Vec::new(),
        };
        let from = after.map_or_else(begin, |mut after| {
            after.push(0);
            after
        });
        let mut block = BlockWriter::new(family);
        let mut last = None;
        let mut cursor = self.view.scan(family, &from, None);
        while cursor.valid() && !block.is_full() {
            if belongs(family, cursor.key(), cursor.value(), self.compacted) {
                block.add(cursor.key(), cursor.value());
                last = Some(cursor.key().to_vec());
            }
            cursor.next();
        }
        let more = cursor.valid();
        drop(cursor);
        self.counts[place] += u64::from(block.count());
        self.next = if more {
            Place::Records { family: place, after: last }
        } else if place + 1 < Family::ALL.len() {
            Place::Records { family: place + 1, after: None }
        } else {
            Place::End
        };
        (block.count() > 0).then(|| block.finish())
    }

    fn note(&mut self, offset: u64) {
        let due = self.notes.last().is_none_or(|last| offset >= last.offset + self.note_every);
        if !due || matches!(self.next, Place::Nothing) {
            return;
        }
        self.notes.push(Note { offset, next: self.next.clone(), digest: self.digest.clone(), counts: self.counts });
        self.note_bytes += self.notes.last().map_or(0, Note::bytes);
        while self.notes.len() > 2 && (self.notes.len() > MAX_NOTES || self.note_bytes > MAX_NOTE_BYTES) {
            // The first one stays: it is the beginning.
            let mut keep = false;
            self.notes.retain(|_| {
                keep = !keep;
                keep
            });
            self.note_bytes = self.notes.iter().map(Note::bytes).sum();
            self.note_every *= 2;
        }
    }
}

impl Note {
    fn bytes(&self) -> usize {
        match &self.next {
            Place::Records { after: Some(after), .. } => after.len(),
            _ => 0,
        }
    }
}

/// Marks of work under way are the member's own, and what compaction let go may be there on one member and gone on
/// another.
fn belongs(family: Family, key: &[u8], value: &[u8], compacted: Revision) -> bool {
    match family {
        Family::Meta => {
            matches!(Key::decode(family, key), Ok(Key::Meta(MetaKey::Applied | MetaKey::ClusterVersion)))
        }
        _ => !droppable(family, key, value, compacted),
    }
}
