//! The replicated state machine: committed entries go in one after the other, and on every member the same state, the
//! same replies and the same events come out. This is the only room that puts the tables together: the key space, the
//! leases, the members, and the answers that are remembered for retries.
//!
//! *Invariants*
//! - Inputs are the entry and the state, nothing else: no clock, no randomness, no order of a hash map (`determinism`
//!   test: the same entries in other groups give the same bytes).
//! - An entry is applied whole or not at all, whatever a crash leaves. All that it writes is in one engine batch with the
//!   applied index, the term, raft's ConfState and the revision, which are one value. An entry too wide for one batch is
//!   written in pieces with a mark, goes on from the mark when it is applied again, and ends in the same state (`pieces`
//!   test crashes between any two of them).
//! - An entry at or below the applied index changes nothing; a hole stops the member (`a_hole_stops`).
//! - What fails has changed nothing: everything that can fail is checked before the first write (assert in `apply`).
//! - A txn makes one revision, or none when it changed nothing (scripts, `model` test).
//! - What was published is whole: readers see the state after an entry, never within one; and it is published before
//!   anyone is answered (`State::commit`).
//! - A state is exchanged for an archive's as a whole, or the store says that it holds a part of one (`install`).
//! - Nothing held in memory grows with the state: a batch is bounded, and so are the events of one revision. Replies
//!   hold what the client asked for, as large as that is.
//!
//! *Life of an entry*
//! 1. `apply` skips what was applied, refuses a hole, a level above ours and a command that we do not know: it stops
//!    rather than guess, since a member that guesses differs from the others for ever.
//! 2. A request that carries a client's idempotency key is looked up in the window (`requests`). If it was applied
//!    before, its outcome is told again.
//! 3. `command` checks and changes; `txn` evaluates all compares first, then checks all operations of the branches
//!    taken, then executes them. `work` counts sub-revisions, gathers events, and cuts pieces.
//! 4. The outcome is remembered, the applied index moves, and after the last entry of the call the batch is written and
//!    the view is published.
//!
//! *A wide entry.* `work` writes a piece whenever the batch passes 16 MiB, with the applied index of the entry *before*
//! and a mark: where in the list of operations it stands, what the compares said, how many keys each delete deleted. A
//! crash then leaves a store with half an entry in it. Nothing is answered from such a store: [`State::unfinished`]
//! tells of it, and the entry, which was committed, is the first to be applied. Compares are not evaluated again, since
//! the state that they saw is gone; a delete that stood half done deletes what is left.
//!
//! *Not here*: proposing and waiting (`node`), who may do what (`auth`), how versions lie on disk (`mvcc`), when a
//! lease runs out (`lease::Expiry`), dropping compacted history (`engine`, at `node`'s bidding), quota (never decided
//! by a size below the log).
//!
//! References: etcd's `server/etcdserver/txn` and `api/v3rpc/key.go` for behaviour; `docs/disk-format.md` for values.

mod apply;
mod command;
mod compare;
mod guard;
mod install;
mod meta;
mod query;
mod requests;
#[cfg(test)]
mod tests;
mod txn;
mod work;

use std::sync::Arc;

use conclave_proto::{conclave::raft::v1 as entry, etcdserverpb as pb};

pub use apply::State;
pub use guard::{
    IDEMPOTENCY_KEY_MAX_BYTES, check_delete_range, check_idempotency_key, check_put, check_range, check_range_stream,
    check_txn,
};
pub use install::Point;
pub use query::{header, query, range_reply};
pub use requests::WINDOW_KEYS;
pub use txn::{is_read_only, is_serializable, read_txn};

use crate::{
    error::Error,
    lease::Grant,
    mvcc::Change,
    types::{LeaseId, LogIndex, Revision, Term},
};

/// The highest feature level this program understands.
pub const LEVEL: u32 = 1;

/// One committed entry, decoded.
#[derive(Clone, Debug)]
pub struct Committed {
    pub index: LogIndex,
    pub term: Term,
    /// None: the empty entry of a new leader.
    pub entry: Option<entry::Entry>,
}

/// What applying one entry did: pure data.
#[derive(Clone, Debug)]
pub struct Applied {
    pub index: LogIndex,
    pub request: Option<entry::RequestId>,
    pub reply: Result<Reply, Error>,
    /// Of the key space after the entry; of a request that was applied before, after that.
    pub revision: Revision,
    pub effects: Effects,
}

/// What a member must do beside answering.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub events: Events,
    pub leases: Vec<LeaseEffect>,
    pub compacted: Option<Revision>,
}

/// What the entry changed, all of it in the revision that it made.
#[derive(Clone, Debug, Default)]
pub enum Events {
    #[default]
    None,
    Changes(Arc<[Change]>),
    /// Too many to hold: who watches reads them from the change log.
    TooMany,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEffect {
    Granted { id: LeaseId, grant: Grant },
    Revoked { id: LeaseId },
}

/// Replies as etcd's messages; headers carry only the revision (the api adds the rest).
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// Nobody is told anything: an empty entry, a member's publication, an expiry that came too late.
    Done,
}

/// Why this member may not go on. It is left as it was before the entry; the text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    #[error(
        "log entry {index} needs feature level {required}, this program has level {LEVEL}; nothing was lost: start this \
         member with a version that has level {required}"
    )]
    Level { index: LogIndex, required: u32 },
    #[error(
        "log entry {index} holds a command that this program does not know; nothing was lost: start this member with the \
         version that the other members run"
    )]
    UnknownCommand { index: LogIndex },
    #[error(
        "log entry {index} came after entry {applied}: what lies between is missing, and applying on would lose it"
    )]
    Hole { applied: LogIndex, index: LogIndex },
}
