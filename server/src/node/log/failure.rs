//! How the log says that this member cannot go on.

use std::{fmt, io};

use crate::types::LogIndex;

/// Exit code of a member that stopped because its log could not be written, synced or read: `EX_TEMPFAIL` of
/// `sysexits.h`, since a restart reads back what really reached the disk.
pub const EXIT_LOG: i32 = 75;

/// A file operation failed while the member was running. Final: the process must stop (exit code [`EXIT_LOG`])
/// without acknowledging anything more. What the failed call wrote is unknown until the next start reads it back.
#[derive(Debug, thiserror::Error)]
#[error("raft log: cannot {action} {file}: {source}")]
pub struct LogFailed {
    pub action: &'static str,
    pub file: String,
    pub source: io::Error,
}

impl LogFailed {
    pub(super) fn new(action: &'static str, file: &str, source: io::Error) -> Self {
        Self { action, file: file.to_owned(), source }
    }
}

/// Why a log was not opened. No file was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Failed(#[from] LogFailed),
    #[error("{0}")]
    Rotten(Box<Rotten>),
    #[error(
        "raft log: {file} cannot be trusted ({detail}), so the votes of this member are lost. All files were kept. \
         Remove the member from its cluster and add it again under a new id, or restore a backup; a member that \
         starts without its vote could elect two leaders in one term"
    )]
    HardStateLost { file: &'static str, detail: String },
    #[error("raft log: {file} has format {found}; this version reads up to {known}. Use a newer version")]
    NewerFormat { file: String, found: u32, known: u32 },
    #[error("raft log: {file} belongs to another member or to an earlier life of this one")]
    Foreign { file: String },
    #[error(
        "raft log: the folder is empty although this member has already run. Restore the folder, or remove the member \
         from its cluster and add it again under a new id"
    )]
    Missing,
    #[error("raft log: segment size {0} is too small or not a multiple of 4096")]
    SegmentSize(u64),
}

/// Records that were durable are damaged or gone: the disk broke its word. Never repaired by cutting, because the
/// member may have promised what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotten {
    pub file: String,
    /// Where the damage begins.
    pub offset: u64,
    pub damage: Damage,
    /// Last index that can still be read in front of the damage.
    pub readable_to: LogIndex,
    /// Last index that is known to have been durable.
    pub durable_to: LogIndex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// A record's checksum, its length or its place in the chain is wrong.
    Record,
    /// A segment that the HardState file names is missing, or its header cannot be read.
    Segment,
    /// Both marks at the head of the last segment are unreadable.
    Marks,
    /// Records are sound in themselves but do not continue each other.
    Order,
}

impl fmt::Display for Rotten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.damage {
            Damage::Record => "a damaged record",
            Damage::Segment => "a missing or unreadable segment",
            Damage::Marks => "unreadable durability marks",
            Damage::Order => "records out of order",
        };
        write!(
            f,
            "raft log: {what} in {} at byte {}: readable up to index {}, but synced at least up to index {}. \
             The disk lost or changed synced data; nothing was cut and all files were kept. Copy the data folder away, \
             then restore a backup (single member), or remove this member and add it again under a new id",
            self.file, self.offset, self.readable_to, self.durable_to
        )
    }
}

/// Why entries could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Below the first index: a follower that needs it gets a snapshot.
    #[error("raft log: the entry was cut away")]
    Cut,
    /// Above the last index on disk.
    #[error("raft log: the entry is not on disk")]
    Unavailable,
    /// Final, as a failed write is.
    #[error(transparent)]
    Failed(#[from] LogFailed),
    #[error("{0}")]
    Rotten(Box<Rotten>),
}
