//! Compaction: history below a revision is no longer told. That is one number in the position: reads compare with it, so
//! it holds the moment it is applied; what lies below is taken away behind its back (`Engine::drop_history`).

use super::Position;
use crate::{error::Error, types::Revision};

/// Where the key space stands after a compaction at `revision`. Its order of checks is etcd's, and so is that a store
/// which was never compacted accepts even 0, once.
pub fn compact(at: Position, revision: Revision) -> Result<Position, Error> {
    if revision <= at.compacted {
        return Err(Error::Compacted);
    }
    if revision > at.revision {
        return Err(Error::FutureRev);
    }
    Ok(Position { compacted: revision, ..at })
}
