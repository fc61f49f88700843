//! The archive: the whole state at one applied index, as bytes that any member can read.
//!
//! It promises that who holds an archive that was found whole holds the state that it names: every record of every
//! family, none twice, none changed. One format serves a follower behind a cut log, a member whose log rotted, and
//! backups. It holds sorted records and no files of the store, so both engines write and read it, and it leaves out what
//! is a member's own and what compaction let go.
//!
//! *Invariants*
//! - *The same state gives the same bytes*, on both engines and however much dropped history a member still holds
//!   (`both_engines_write_the_same`, which compares members of different age). So a chunk is named by its number alone,
//!   and a transfer that was cut goes on where it stood, after a restart of the receiver too (`transfers`).
//! - *Nothing damaged passes*: [`Checker`] judges every byte, by a checksum for each block, by the order of the keys, and
//!   by counts and a digest at the end (`every_flipped_bit_is_seen`, `every_cut_is_seen`).
//! - *What a peer sends cannot panic or grow here*: a length is believed only as far as its bytes have come
//!   (`garbage_is_refused`).
//! - *Memory is bounded*, by a chunk and a block while writing, by a block while reading, whatever the state's size.
//!
//! *Life of a transfer*
//! 1. The sender opens an [`Archive`] over a view and keeps both until the transfer ends. History that the view may
//!    still need must not be dropped meanwhile, since a view does not protect it (`node` sees to it).
//! 2. It tells the receiver which archive it is ([`ToReceiver::Begin`]); the receiver answers which chunks it has
//!    ([`ToSender::Have`]), or why it takes none.
//! 3. [`Sender`] hands out chunks while its window is open; [`Receiver`] judges each, and what it says is on its disk
//!    opens the window.
//! 4. After the last chunk the receiver has all of it on disk and says so.
//!
//! *Not here*: files, sockets, time-outs, when an archive is needed and who may send one (`node`, `peer`); how it becomes
//! the state (`state::State::install_begin`).
//!
//! References: Raft paper, section 7; `docs/disk-format.md` for the bytes.

mod format;

mod archive;
mod checker;
mod transfer;

#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::types::{ClusterId, LogIndex, Revision, Term};

pub use archive::{Archive, Chunk};
pub use checker::{Checker, Records};
pub use format::{Broken, CHUNK_BYTES, MAX_CONF_STATE_BYTES};
pub use transfer::{Judged, Receiver, Refusal, Sender, ToReceiver, ToSender, Verdict, WINDOW_CHUNKS};

/// Which state an archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveMeta {
    pub cluster: ClusterId,
    /// The last entry that is in it.
    pub index: LogIndex,
    pub term: Term,
    pub revision: Revision,
    /// Raft's membership as of that entry: opaque bytes.
    pub conf_state: Bytes,
}
