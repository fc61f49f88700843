//! The raft log on disk: entries and HardState of one member, synced before anything relies on them.
//!
//! The log promises that what it reported as [`Persisted`] is there after any crash, and that it notices when the disk
//! breaks that promise. The state machine writes no log of its own, so this is the only witness of what this member
//! told others: a vote or an acknowledgement that is forgotten here can lose committed data of the whole cluster.
//!
//! # Files
//! `hard-state` holds term, vote and the list of segments (its first and last generation) in two slots. `*.seg` are
//! segments of 64 MiB, each a head and a chain of records (`record.rs`, `segment.rs` and `docs/disk-format.md` give the
//! bytes). The chain runs through records and heads from the oldest segment to the newest: each record's checksum
//! covers the checksum before it. A segment that is no longer needed takes up a new generation and is written again.
//!
//! Records are only ever added at the end. Entries that replace a conflicting tail (Raft paper, section 5.3) are
//! written behind it, and the later record counts; so nothing that a mark names is ever overwritten, and a mark never
//! has to be lowered.
//!
//! # Torn or rotten
//! After a crash any part of what was not synced may be missing, while later parts are there. So the log ends at the
//! first unsound record, *unless* a mark says that more was synced. The mark in a segment's head names an end that was
//! durable before the mark was written: it goes out with the next batch (same file, same sync), or alone when no batch
//! follows ([`LogStore::write_mark`]). Unsound at or below the mark is rot: the log is not opened and nothing is cut,
//! since this member may have acknowledged what is gone. Not noticed, by design, is the loss of a batch that no mark
//! names yet.
//!
//! # Invariants
//! - *Persisted means synced.* Only [`LogStore::persist`] makes a [`Persisted`], after the sync (`log_torture`: crash at
//!   every file operation, any subset of unsynced sectors lost).
//! - *Nothing is invented.* What an earlier life left behind a torn record never continues the chain: each opening
//!   leaves a record of a new epoch, each use of a file has a new generation (`log_torture`, `torn_tail_stays_dead`).
//! - *Term and vote never go back*, one vote in a term (asserts in `store.rs` and `hard_state.rs`; `log_torture`).
//! - *No entry is of a later term than the HardState* (assert; HardState is synced first).
//! - *A failed write or sync is final* (assert in `guarded`; `failed_sync_is_final`). It is never tried again: the
//!   kernel may have dropped the pages and would report success. The process stops with [`EXIT_LOG`].
//! - *Readers see only what is durable*, and check it again (`index_mut` follows the sync in `append_here`).
//! - *Memory is bounded* by the log's size: 48 bytes for each 16 KiB of log, and one pair for each change of term.
//!
//! # Life of a batch
//! 1. Raft's `Ready` becomes a [`LogBatch`]; those that wait while another is synced are merged.
//! 2. If term or vote changed, both HardState slots are written and synced, one after the other.
//! 3. The entries become records of about 64 KiB; one write, plus the 48-byte mark that names the batch before.
//! 4. One `fdatasync`. Then readers are shown the entries, and the caller gets [`Persisted`].
//! 5. Afterwards [`LogStore::prepare`] writes a piece of the next segment's zeros, if that is due.
//!
//! # Not here
//! What entries mean (`state`), when the log may be cut (`node`), a cache of recent entries (`node`), repair from other
//! members (`peer`). Sectors are taken to be written whole or not at all, and bytes of a page that a write does not
//! change are taken to survive it; every SSD and disk that is sold promises both.
//!
//! References: Raft paper sections 5.1 to 5.3 and figure 2; thesis section 10.2.1; Alagappan et al., *Protocol-Aware
//! Recovery for Consensus-Based Storage* (FAST 2018); Rebello et al., *Can Applications Recover from fsync Failures?*
//! (ATC 2020).

mod entry;
mod failure;
mod io;

mod record;
mod segment;

mod hard_state;
mod index;
mod spare;

mod recover;

mod reader;
mod store;

#[cfg(test)]
mod tests;

pub use entry::{EntryKind, HardState, LogBatch, LogEntry, Persisted};
pub use failure::{Damage, EXIT_LOG, LogFailed, OpenError, ReadError, Rotten};
pub use io::{LogIo, RealIo};
pub use reader::LogReader;
pub use recover::TornTail;
pub use store::{LogOptions, LogStore, Recovered};
