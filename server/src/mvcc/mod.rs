//! Revisions: the multi-version key space over the engine.
//!
//! Each request that changes something makes one revision; every key can be read, listed and counted as it was at any
//! revision from the compacted one on, and every change can be read again in order. The answers are etcd 3.7's, the
//! layout is not: `cur` holds nothing but what is valid now, so a get is one lookup and a list never steps over old
//! versions, however many there are.
//!
//! | family | key → value | for |
//! |---|---|---|
//! | `cur` | user key → current version | everything that is asked about now |
//! | `log` | revision, sub → the change, and what it replaced | the feed, and undoing changes for reads of the past |
//! | `idx` | user key, revision and sub of the change that superseded a version → nothing | finding that change |
//! | `gone` | user key → when it was deleted | lists of the past |
//! | `count` | end of a piece → keys in it | counting |
//!
//! # Invariants
//!
//! - *A read at Q sees all changes up to Q and none after.* The current version if it is not younger; else what the first
//!   change after Q replaced, if that is not younger (`past`). Held by the model test: all revisions, all options.
//! - *A revision is one step.* Reads see the last of its changes of a key; watchers are told all of them, and each time
//!   what was there before the revision (etcd lets a few transactions change a key twice). Held by the model test.
//! - *Subs have no gap* within a revision, and revisions have no gap above the compacted one (`feed::walk` notices).
//! - *Nothing below the compacted revision is looked at*, of that revision itself only its changes: so a compaction is
//!   done when the number is written, and what it lets go may vanish at any time, in any order, and partly
//!   (model test, which drops history after each compaction).
//! - *Counts are exact* (`count`; the model test compares each with a walk).
//! - *The same changes give the same bytes* on every member: nothing here asks a clock, chance, or an unordered map.
//! - *A revision that is made in pieces ends the same* wherever a crash fell between them ([`Changes`]; model test).
//! - *Memory is bounded by the answer*, or by a stated number where the answer is small: `select`, `hash`, [`Changes`].
//!
//! # Life of a change
//!
//! 1. `state` takes a committed entry, and a [`Changes`] over the batch, with the revision after the current one.
//! 2. `put` and `delete` look at the current version, write the change with what it replaced to `log`, the new version to
//!    `cur` (or the deletion to `gone`), the superseding revision to `idx`, and the piece's number of keys to `count`.
//! 3. `state` writes the batch and publishes a [`ReadView`]: from then on readers see the revision, all of it.
//! 4. [`Changes::take`] goes to the watch hub; who missed it there reads it with [`feed`].
//! 5. A [`compact`] at or above a later revision makes what it replaced unreachable, and one above itself the change.
//!
//! # Reads of the past
//!
//! A view does not keep history from being dropped. Reads below the current revision, the feed and the hash go through
//! [`read_past`] or [`hash_published`], which look at the published compacted revision again when the reading is done.
//! Reads at the current revision touch `cur` and `count` only, need no such care, and go on in an old view for ever.
//!
//! # Not here
//!
//! What may be changed and by whom, transactions, leases (`state`); when history is physically dropped (`node` decides,
//! `engine` does); who is told (`watch`); bytes of keys (`engine`); etcd's messages (`api`).

mod value;

mod past;
mod query;
mod select;

mod count;
mod range;

mod change;
mod compact;
mod feed;

mod combine;
mod hash;

#[cfg(test)]
mod tests;

pub use change::{Change, Changes, Deleted, Kind};
pub use compact::compact;
pub use feed::{FeedChunk, feed};
pub use hash::{HashKv, hash_kv, hash_published};
pub use query::{KeyRange, Query, Sort, SortTarget, Summary, Version, VersionRef};
pub use range::{get, piece, range};

use crate::{
    engine::{View, fatal},
    error::Error,
    types::{LogIndex, Revision},
};

/// Where the key space stands. Goes with a [`crate::engine::View`] or a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub revision: Revision,
    /// [`Revision::NEVER`] until the first compaction.
    pub compacted: Revision,
}

/// A consistent picture for readers, published after each written batch.
#[derive(Clone)]
pub struct ReadView {
    pub applied: LogIndex,
    pub position: Position,
    pub view: View,
}

/// Where the newest [`ReadView`] stands for all readers.
pub type Published = std::sync::Arc<arc_swap::ArcSwap<ReadView>>;

/// Reads from `view` what depends on history from `revision` on, and judges the answer by what is compacted *now*: a view
/// does not protect history, so an answer counts only if nothing that it needed was let go meanwhile.
///
/// Inside apply it is not needed: history goes only up to what is durably compacted, and apply never asks below that.
pub fn read_past<T>(
    published: &Published,
    view: &ReadView,
    revision: Revision,
    read: impl FnOnce(&ReadView) -> Result<T, Error>,
) -> Result<T, Error> {
    let answer = read(view);
    if revision.0 > 0 && revision < published.load().position.compacted {
        return Err(Error::Compacted);
    }
    match answer {
        Err(Error::Compacted) if revision.0 > 0 && revision >= view.position.compacted => {
            lost_history(view.position, revision)
        }
        answer => answer,
    }
}

/// History that is not compacted is not there.
#[cold]
fn lost_history(at: Position, revision: Revision) -> ! {
    fatal(
        &format!("revision {revision} cannot be read"),
        format_args!(
            "changes are missing, though at revision {} only what is below {} is compacted",
            at.revision, at.compacted
        ),
    )
}

impl From<past::Vanished> for Error {
    /// What the loser of a race with a compaction is told. Whether there was one, [`read_past`] and [`hash_published`] find
    /// out: no other outcome says `Compacted` of a revision that the view has.
    fn from(_: past::Vanished) -> Self {
        Self::Compacted
    }
}
