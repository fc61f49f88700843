//! The file that holds what must never be forgotten: term, vote, and which segments make up the log.
//!
//! Two slots, at 0 and 4096:
//! ```text
//! 8 magic, u32 version, u32 0, u64 log id, u64 counter, u64 term, u64 vote, u64 commit,
//! u64 first generation, u64 active generation, u64 epoch, u32 crc32c
//! ```
//! Each change goes to both, one sync after the other, before anything that relies on it leaves. So at any moment at
//! least one slot is whole, and after a change either one alone tells it: a single damaged slot forgets nothing.

use std::sync::Arc;

use super::{
    entry::HardState,
    failure::{LogFailed, OpenError},
    io::LogIo,
    record::{u32_at, u64_at},
};
use crate::types::{LogIndex, MemberId, Term};

pub(super) const FILE: &str = "hard-state";
/// Where the file is made before it gets its name; found after a crash it means nothing.
pub(super) const NEW_FILE: &str = "hard-state.new";
const MAGIC: &[u8; 8] = b"CNCLVHST";
const VERSION: u32 = 1;
const SLOT_LEN: usize = 84;
/// A page apart, so that a torn write reaches only one of them.
const PLACES: [u64; 2] = [0, 4096];

/// What both slots say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) log_id: u64,
    pub(super) counter: u64,
    pub(super) hard_state: HardState,
    /// Oldest segment of the log; what is older may be used again.
    pub(super) first_generation: u64,
    /// Newest segment of the log; a newer one was being prepared and holds nothing.
    pub(super) active_generation: u64,
    /// How often the log was opened.
    pub(super) epoch: u64,
}

enum SlotRead {
    Slot(Slot),
    Newer(u32),
    Bad,
}

impl Slot {
    pub(super) fn encode(&self) -> [u8; SLOT_LEN] {
        let mut out = [0; SLOT_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let numbers = [
            self.log_id,
            self.counter,
            self.hard_state.term.0,
            // 0 is no member's id: etcd and raft both use it for "none".
            self.hard_state.vote.map_or(0, |member| member.0),
            self.hard_state.commit.0,
            self.first_generation,
            self.active_generation,
            self.epoch,
        ];
        for (place, number) in out[16..80].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..80]);
        out[80..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(buf: &[u8; SLOT_LEN]) -> SlotRead {
        if &buf[..8] != MAGIC || crc32c::crc32c(&buf[..80]) != u32_at(buf, 80) {
            return SlotRead::Bad;
        }
        let version = u32_at(buf, 8);
        if version != VERSION {
            return SlotRead::Newer(version);
        }
        let vote = u64_at(buf, 40);
        SlotRead::Slot(Self {
            log_id: u64_at(buf, 16),
            counter: u64_at(buf, 24),
            hard_state: HardState {
                term: Term(u64_at(buf, 32)),
                vote: (vote != 0).then_some(MemberId(vote)),
                commit: LogIndex(u64_at(buf, 48)),
            },
            first_generation: u64_at(buf, 56),
            active_generation: u64_at(buf, 64),
            epoch: u64_at(buf, 72),
        })
    }
}

/// The open file and what it says.
pub(super) struct HardStateFile<I: LogIo> {
    io: Arc<I>,
    file: I::File,
    now: Slot,
    /// Which of [`PLACES`] holds the newest slot.
    newest: usize,
    /// One slot could not be read when the file was opened. The next save makes it whole again.
    damaged: bool,
}

impl<I: LogIo> HardStateFile<I> {
    /// Makes the file under another name and gives it its own when it is whole, so that it is never seen half made.
    pub(super) fn create(io: &I, slot: Slot) -> Result<(), LogFailed> {
        let fail = |action| move |source| LogFailed::new(action, NEW_FILE, source);
        let file = io.create(NEW_FILE).map_err(fail("create"))?;
        for (place, counter) in PLACES.into_iter().zip(slot.counter..) {
            io.write_at(&file, place, &Slot { counter, ..slot }.encode()).map_err(fail("write"))?;
        }
        io.sync_data(&file).map_err(fail("sync"))?;
        io.rename(NEW_FILE, FILE).map_err(fail("rename"))?;
        io.sync_dir().map_err(fail("sync the folder of"))
    }

    pub(super) fn open(io: Arc<I>, log_id: u64) -> Result<Self, OpenError> {
        let fail = |action| move |source| LogFailed::new(action, FILE, source);
        let file = io.open(FILE).map_err(fail("open"))?;
        let len = io.len(&file).map_err(fail("measure"))?;
        let mut slots = Vec::new();
        for (number, place) in PLACES.into_iter().enumerate() {
            let mut buf = [0; SLOT_LEN];
            if place + SLOT_LEN as u64 <= len {
                io.read_at(&file, place, &mut buf).map_err(fail("read"))?;
            }
            match Slot::decode(&buf) {
                SlotRead::Slot(slot) => slots.push((number, slot)),
                SlotRead::Newer(found) => {
                    return Err(OpenError::NewerFormat { file: FILE.to_owned(), found, known: VERSION });
                }
                SlotRead::Bad => {}
            }
        }
        let damaged = slots.len() < PLACES.len();
        let Some((newest, now)) = slots.into_iter().max_by_key(|(_, slot)| slot.counter) else {
            return Err(OpenError::HardStateLost { file: FILE, detail: "both of its copies are damaged".to_owned() });
        };
        if now.log_id != log_id {
            return Err(OpenError::Foreign { file: FILE.to_owned() });
        }
        Ok(Self { io, file, now, newest, damaged })
    }

    pub(super) fn was_damaged(&self) -> bool {
        self.damaged
    }

    pub(super) fn now(&self) -> &Slot {
        &self.now
    }

    /// Writes a change into both slots. A crash between the two leaves one that tells the change and one that does
    /// not: nobody was told of it yet, so both are right.
    pub(super) fn save(&mut self, change: impl FnOnce(&mut Slot)) -> Result<(), LogFailed> {
        let before = self.now;
        change(&mut self.now);
        assert!(self.now.hard_state.term >= before.hard_state.term, "the term never goes back");
        assert!(self.now.first_generation <= self.now.active_generation, "the log has at least one segment");
        // The older slot goes first, which is also the damaged one if there is one: while it is written the other tells.
        for place in [PLACES[1 - self.newest], PLACES[self.newest]] {
            self.now.counter += 1;
            let write = self.io.write_at(&self.file, place, &self.now.encode());
            write.map_err(|source| LogFailed::new("write", FILE, source))?;
            self.io.sync_data(&self.file).map_err(|source| LogFailed::new("sync", FILE, source))?;
        }
        Ok(())
    }
}
