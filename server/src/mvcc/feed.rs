use super::{Change, Position};
use crate::{engine::Read, error::Error, types::Revision};

/// A run of whole revisions from the change log.
pub struct FeedChunk {
    pub changes: Vec<(Revision, Vec<Change>)>,
    /** first revision not in the chunk */
    pub next: Revision,
}

/// Reads changes from revision `from` on, at most about `max_bytes` but at least one whole revision.
/// `Err(Compacted)` if `from` is below the compacted revision. Changes of the compacted revision itself carry no prev.
pub fn feed(_read: &impl Read, _at: Position, _from: Revision, _max_bytes: usize) -> Result<FeedChunk, Error> {
    todo!()
}
