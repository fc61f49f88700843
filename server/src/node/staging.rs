//! An archive on its way into this member: received into a file, found whole, synced, and kept until it is the state.
//!
//! ```text
//! DATA/archive/partial   chunks as they come; nothing relies on it
//! DATA/archive/staged    whole and synced before it got this name
//! ```
//! There is one archive at a time. `partial` may hold anything after a crash: what is whole of it is found out by reading
//! it, and is *written again* before it counts, because a sync that failed in an earlier life leaves its pages readable
//! and clean (`docs/decisions/006-append-only-log.md`). `staged` is believed to be there as `log`'s marks believe what
//! was synced before them, and is still checked block by block whenever it is read.
//!
//! *Invariants*
//! - *Staged means whole and durable*: the name is given after the last check and the sync, and is itself durable before
//!   anybody hears of it (`archive_torture` in the test crate crashes at every call).
//! - *What raft took is kept* until the state that it became is flushed: nothing replaces or removes it (asserts).
//! - *Every answer of this struct is true after a crash but [`ToSender::Have`]*, which only says where to go on.
//!
//! The files are written by whoever receives, in pieces of a chunk, synced every few MiB so that no sync is long. All of
//! it blocks: an async caller uses a thread for it.

use std::{io, sync::Arc};

use super::log::LogIo;
use crate::{
    snapshot::{ArchiveMeta, Broken, CHUNK_BYTES, Checker, Chunk, Judged, Receiver, Refusal, ToSender},
    state::Point,
    types::{ClusterId, LogIndex, Term},
};

const PARTIAL: &str = "partial";
const STAGED: &str = "staged";

/// Bytes that wait for a sync at most: as a store's own files, which are written back as they are made.
const SYNC_BYTES: u64 = 4 << 20;
/// Read at a time when a file is looked through.
const READ_BYTES: u64 = 1 << 20;

/// A file operation failed: final, as it is for the log. What the failed call did is unknown until the next start.
#[derive(Debug, thiserror::Error)]
#[error("archive: cannot {action} {file}: {source}")]
pub struct StagingFailed {
    action: &'static str,
    file: &'static str,
    source: io::Error,
}

fn failed(action: &'static str, file: &'static str) -> impl FnOnce(io::Error) -> StagingFailed {
    move |source| StagingFailed { action, file, source }
}

/// Names one beginning of a transfer: chunks that a connection sends after another one has begun are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session(u64);

/// See the top of this file.
pub struct Staging<I: LogIo> {
    io: Arc<I>,
    cluster: ClusterId,
    slot: Slot<I::File>,
    session: u64,
}

enum Slot<F> {
    Empty,
    /// What an earlier life left of some archive.
    Left(F),
    Partial {
        file: F,
        receiver: Box<Receiver>,
        /// Of the leader that sends it.
        term: Term,
        unsynced: u64,
    },
    Staged {
        file: F,
        meta: ArchiveMeta,
        claim: Claim,
    },
}

/// Who relies on the staged archive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// Nobody: an earlier life left it, and another one may take its place.
    None,
    /// Raft, or the state that is being made of it.
    Held,
}

impl<I: LogIo> Staging<I> {
    /// Looks at what an earlier life left. A staged archive that does not read back as a whole one is thrown away: who
    /// needs it finds it missing.
    ///
    /// # Errors
    /// Final.
    pub fn open(io: I, cluster: ClusterId) -> Result<Self, StagingFailed> {
        let mut staging = Self { io: Arc::new(io), cluster, slot: Slot::Empty, session: 0 };
        let names = staging.io.list().map_err(failed("list", "the folder of archives"))?;
        let has = |name: &str| names.iter().any(|found| found == name);
        if has(STAGED) {
            let file = staging.io.open(STAGED).map_err(failed("open", STAGED))?;
            match staging.look_through(&file)? {
                Ok(meta) => staging.slot = Slot::Staged { file, meta, claim: Claim::None },
                Err(broken) => {
                    tracing::error!(target: "conclave", %broken, "the staged archive is damaged and was removed");
                    staging.remove(STAGED)?;
                }
            }
        }
        if has(PARTIAL) {
            match staging.slot {
                Slot::Empty => staging.slot = Slot::Left(staging.io.open(PARTIAL).map_err(failed("open", PARTIAL))?),
                _ => staging.remove(PARTIAL)?,
            }
        }
        Ok(staging)
    }

    fn look_through(&self, file: &I::File) -> Result<Result<ArchiveMeta, Broken>, StagingFailed> {
        let (mut checker, mut at) = (Checker::new(), 0);
        let length = self.io.len(file).map_err(failed("measure", STAGED))?;
        while at < length {
            let bytes = self.read(file, STAGED, at, READ_BYTES.min(length - at))?;
            if let Err(broken) = checker.push(&bytes, &mut |_| {}) {
                return Ok(Err(broken));
            }
            at += bytes.len() as u64;
        }
        if !checker.is_whole() {
            return Ok(Err(Broken::Short));
        }
        let meta = checker.meta().expect("a whole archive has a head").clone();
        let fits = meta.cluster == self.cluster && fits(&meta, checker.applied());
        Ok(if fits { Ok(meta) } else { Err(Broken::Another) })
    }

    fn read(&self, file: &I::File, name: &'static str, at: u64, length: u64) -> Result<Vec<u8>, StagingFailed> {
        let mut bytes = vec![0; usize::try_from(length).expect("a piece fits into memory")];
        self.io.read_at(file, at, &mut bytes).map_err(failed("read", name))?;
        Ok(bytes)
    }

    fn remove(&self, name: &'static str) -> Result<(), StagingFailed> {
        // It need not be durable: what comes back is looked at as anything else.
        self.io.unlink(name).map_err(failed("remove", name))
    }

    /// The archive that is whole and durable here.
    #[must_use]
    pub fn staged(&self) -> Option<&ArchiveMeta> {
        match &self.slot {
            Slot::Staged { meta, .. } => Some(meta),
            _ => None,
        }
    }

    /// A leader of `term` wants to send this archive to this member, which has applied `applied`. The answer is for the
    /// leader; chunks come with the session. When the answer is [`ToSender::Staged`], the archive is claimed for the
    /// caller, as after the last chunk.
    ///
    /// # Errors
    /// Final.
    pub fn begin(
        &mut self,
        meta: &ArchiveMeta,
        term: Term,
        applied: LogIndex,
    ) -> Result<(Session, ToSender), StagingFailed> {
        self.session += 1;
        let session = Session(self.session);
        let answer = |answer| Ok((session, answer));
        if meta.cluster != self.cluster || meta.index <= applied {
            return answer(ToSender::Refused(Refusal::Unwanted));
        }
        match &mut self.slot {
            Slot::Staged { claim: Claim::Held, .. } => return answer(ToSender::Refused(Refusal::Busy)),
            Slot::Staged { meta: staged, claim, .. } if staged == meta => {
                *claim = Claim::Held;
                return answer(ToSender::Staged);
            }
            // The newest leader's counts: an older one may be gone in the middle of its own.
            Slot::Partial { term: older, .. } if term < *older => return answer(ToSender::Refused(Refusal::Busy)),
            Slot::Partial { receiver, term: older, .. } if receiver.meta() == meta => {
                *older = term;
                return answer(ToSender::Have(receiver.have()));
            }
            Slot::Empty | Slot::Left(_) | Slot::Partial { .. } | Slot::Staged { .. } => {}
        }
        let have = self.take_up(meta, term)?;
        answer(ToSender::Have(have))
    }

    /// Makes the slot this archive's, with what an earlier life left of it.
    fn take_up(&mut self, meta: &ArchiveMeta, term: Term) -> Result<u64, StagingFailed> {
        match std::mem::replace(&mut self.slot, Slot::Empty) {
            Slot::Left(file) => {
                let (receiver, unsynced) = self.what_is_left(&file, meta)?;
                if receiver.have() > 0 {
                    let have = receiver.have();
                    self.slot = Slot::Partial { file, receiver: Box::new(receiver), term, unsynced };
                    return Ok(have);
                }
                self.remove(PARTIAL)?;
            }
            Slot::Partial { .. } => self.remove(PARTIAL)?,
            Slot::Staged { .. } => self.remove(STAGED)?,
            Slot::Empty => {}
        }
        let file = self.io.create(PARTIAL).map_err(failed("create", PARTIAL))?;
        let receiver = Box::new(Receiver::new(meta.clone()));
        self.slot = Slot::Partial { file, receiver, term, unsynced: 0 };
        Ok(0)
    }

    /// The chunks at the beginning of the file that are of this archive, written again.
    fn what_is_left(&self, file: &I::File, meta: &ArchiveMeta) -> Result<(Receiver, u64), StagingFailed> {
        let length = self.io.len(file).map_err(failed("measure", PARTIAL))?;
        // The last chunk comes again anyhow: only it can be shorter, and its sender knows that it is the last.
        let mut whole = (length / CHUNK_BYTES as u64).saturating_sub(1);
        let chunk = |number: u64| -> Result<Chunk, StagingFailed> {
            let bytes = self.read(file, PARTIAL, number * CHUNK_BYTES as u64, CHUNK_BYTES as u64)?;
            Ok(Chunk { number, bytes: bytes.into(), last: false })
        };
        let mut receiver = Receiver::new(meta.clone());
        for number in 0..whole {
            if receiver.chunk(&chunk(number)?).is_err() {
                whole = number;
                break;
            }
        }
        let (mut receiver, mut unsynced) = (Receiver::new(meta.clone()), 0);
        for number in 0..whole {
            let chunk = chunk(number)?;
            if receiver.chunk(&chunk).is_err() {
                return Ok((Receiver::new(meta.clone()), 0));
            }
            let at = number * CHUNK_BYTES as u64;
            self.io.write_at(file, at, &chunk.bytes).map_err(failed("write", PARTIAL))?;
            unsynced += CHUNK_BYTES as u64;
            if unsynced >= SYNC_BYTES {
                self.io.sync_data(file).map_err(failed("sync", PARTIAL))?;
                unsynced = 0;
            }
        }
        Ok((receiver, unsynced))
    }

    /// Takes a chunk. [`ToSender::Staged`] claims the archive for the caller, who offers it to raft.
    ///
    /// # Errors
    /// Final.
    pub fn chunk(&mut self, session: Session, chunk: &Chunk) -> Result<ToSender, StagingFailed> {
        let busy = Ok(ToSender::Refused(Refusal::Busy));
        if session.0 != self.session {
            return busy;
        }
        let Slot::Partial { file, receiver, unsynced, .. } = &mut self.slot else { return busy };
        let (offset, last) = match receiver.chunk(chunk) {
            Ok(Judged::Again) => return Ok(ToSender::Have(receiver.have())),
            Ok(Judged::Write { offset }) => (offset, false),
            Ok(Judged::Last { offset }) if fits(receiver.meta(), receiver.applied()) => (offset, true),
            Ok(Judged::Last { .. }) => return self.give_up(&Broken::Another, Refusal::Broken),
            Err(broken) => return self.give_up(&broken, Refusal::Broken),
        };
        match self.io.write_at(file, offset, &chunk.bytes) {
            // No promise is broken by a full disk: a member that serves goes on without this archive.
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                return self.give_up(&error, Refusal::NoSpace);
            }
            written => written.map_err(failed("write", PARTIAL))?,
        }
        *unsynced += chunk.bytes.len() as u64;
        if last || *unsynced >= SYNC_BYTES {
            self.io.sync_data(file).map_err(failed("sync", PARTIAL))?;
            *unsynced = 0;
        }
        if !last {
            return Ok(ToSender::Have(receiver.have()));
        }
        self.io.rename(PARTIAL, STAGED).map_err(failed("rename", PARTIAL))?;
        self.io.sync_dir().map_err(failed("sync the folder of", STAGED))?;
        let Slot::Partial { file, receiver, .. } = std::mem::replace(&mut self.slot, Slot::Empty) else {
            unreachable!("it was just looked at")
        };
        self.slot = Slot::Staged { file, meta: receiver.meta().clone(), claim: Claim::Held };
        Ok(ToSender::Staged)
    }

    fn give_up(&mut self, why: &dyn std::fmt::Display, refusal: Refusal) -> Result<ToSender, StagingFailed> {
        tracing::warn!(target: "conclave", %why, "an archive is not received any further");
        self.slot = Slot::Empty;
        self.remove(PARTIAL)?;
        Ok(ToSender::Refused(refusal))
    }

    /// Raft has no use for the staged archive, or the state is made of it and flushed: it can go.
    ///
    /// # Errors
    /// Final.
    pub fn discard(&mut self, meta: &ArchiveMeta) -> Result<(), StagingFailed> {
        match &self.slot {
            Slot::Staged { meta: staged, .. } if staged == meta => {
                self.slot = Slot::Empty;
                self.remove(STAGED)
            }
            _ => Ok(()),
        }
    }

    /// At a start: an archive that the state does not need, because it is as far. Others may still be of use.
    ///
    /// # Errors
    /// Final.
    pub fn discard_applied(&mut self, applied: LogIndex) -> Result<(), StagingFailed> {
        match self.staged().filter(|meta| meta.index <= applied).cloned() {
            Some(meta) => self.discard(&meta),
            None => Ok(()),
        }
    }

    /// At a start: the staged archive is to become the state.
    pub(super) fn claim(&mut self) {
        if let Slot::Staged { claim, .. } = &mut self.slot {
            *claim = Claim::Held;
        }
    }

    /// Bytes of the staged archive from an offset on; empty at its end.
    pub(super) fn read_staged(&self, at: u64, most: u64) -> Result<Vec<u8>, StagingFailed> {
        let Slot::Staged { file, claim: Claim::Held, .. } = &self.slot else {
            panic!("only what is staged and claimed is read")
        };
        let length = self.io.len(file).map_err(failed("measure", STAGED))?;
        self.read(file, STAGED, at, most.min(length.saturating_sub(at)))
    }
}

/// Whether the state within is the one that the head names.
fn fits(meta: &ArchiveMeta, applied: Option<&bytes::Bytes>) -> bool {
    applied.and_then(Point::of_value).is_some_and(|point| {
        (point.index, point.term, point.revision) == (meta.index, meta.term, meta.revision)
            && point.conf_state == meta.conf_state
    })
}
