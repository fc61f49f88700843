//! Revisions: the multi-version key space over the engine. (door essay to be written by the room's builder)

mod change;
mod compact;
mod count;
mod feed;
mod hash;
mod range;
mod value;

pub use change::{Change, Changes, Kind};
pub use feed::{FeedChunk, feed};
pub use hash::{HashKv, hash_kv};
pub use range::{KeyRange, Query, Sort, SortTarget, Summary, Version, VersionRef, get, range};

use crate::{
    engine::View,
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
