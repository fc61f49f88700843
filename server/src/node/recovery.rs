//! What the disk holds after a start, made to fit together, or refused.
//!
//! Two things come back from a crash, each at a point of its own: the raft log, at some entry at or above what it
//! promised, and the state, at its last flush. The HardState's commit index was written now and then. So at a start
//! commit may lie below the applied index (the state was flushed after the last commit index was written) or above the
//! end of the log (never by our own writing, but the clamp costs nothing and raft-rs panics on it), and both are put
//! right here. What cannot be put right means that one of the two was lost or exchanged, and the member refuses to start
//! with every file kept: it would break promises that it cannot know of any more.

use super::{core::RaftStart, log::Recovered};
use crate::{
    mutants::{self, Mutant},
    snapshot::ArchiveMeta,
    types::{LogIndex, Term},
};

/// What the state machine holds on disk.
#[derive(Clone, Debug)]
pub struct StateFacts {
    pub applied: (LogIndex, Term),
    /// An entry of which a crash left pieces in the store. It was being applied, so it is committed.
    pub unfinished: Option<LogIndex>,
    /// Empty before the first start was finished.
    pub conf_state: Vec<u8>,
}

/// Why log and state do not belong together. No file was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error(
        "the raft log ends at index {last}, but the state has applied index {applied}: synced entries are gone. Nothing \
         was changed. Restore the folder of the log, or remove this member from its cluster and add it again under a \
         new id; a single member is restored from a backup"
    )]
    LogShort { last: LogIndex, applied: LogIndex },
    #[error(
        "the raft log begins at index {first}, but the state has applied only index {applied}: what lies between was cut \
         away because the state once held it. Nothing was changed. Restore the folder of the state, or remove this \
         member from its cluster and add it again under a new id; a single member is restored from a backup"
    )]
    Hole { first: LogIndex, applied: LogIndex },
    #[error(
        "the raft log holds term {in_log} at index {index}, but the state applied it in term {in_state}: they are not of \
         the same member, or not of the same time. Nothing was changed. Restore both folders from the same copy"
    )]
    Terms { index: LogIndex, in_log: Term, in_state: Term },
    #[error(
        "the raft log holds votes or entries, but the state is empty. Nothing was changed. Restore the folder of the \
         state, or remove this member from its cluster and add it again under a new id; a single member is restored \
         from a backup"
    )]
    StateLost,
    #[error(
        "the state is the part of an archive as of index {index}, and the archive is gone or damaged. Nothing was changed.          Remove this member from its cluster and add it again under a new id; a single member is restored from a backup"
    )]
    ArchiveLost { index: LogIndex },
}

/// Whether the staged archive has to become the state before anything else: a crash came between raft's taking it (the
/// log begins behind it from then on) and its being the state. `installing`: the archive of which the store holds a part.
///
/// # Errors
/// If the store holds a part of an archive that is not staged.
pub fn install_due(
    log: &Recovered,
    state: &StateFacts,
    installing: Option<(LogIndex, Term)>,
    staged: Option<&ArchiveMeta>,
) -> Result<bool, Mismatch> {
    let staged = staged.map(|meta| (meta.index, meta.term));
    match installing {
        Some((index, _)) if staged != installing => Err(Mismatch::ArchiveLost { index }),
        Some(_) => Ok(!mutants::is(Mutant::HalfArchive)),
        // A staged archive that raft did not take changes nothing.
        None => Ok(log.base.0 > state.applied.0 && staged == Some(log.base)),
    }
}

/// Whether a member that was just started for the first time, or died while it was, may begin from nothing.
/// `initialised`: its first start was finished once.
///
/// # Errors
/// If there was something, and it is gone.
pub fn may_bootstrap(initialised: bool, log: &Recovered, state: &StateFacts) -> Result<bool, Mismatch> {
    if !state.conf_state.is_empty() {
        return Ok(false);
    }
    // Neither a vote nor an entry: nothing was ever promised.
    if !initialised && log.last == LogIndex(0) && log.hard_state.term == Term(0) && log.hard_state.vote.is_none() {
        return Ok(true);
    }
    Err(Mismatch::StateLost)
}

/// Where raft starts from. `term_at`: the log's term of an entry, if it knows it.
///
/// # Errors
/// If log and state cannot be of one member at one time.
pub fn fit(
    log: &Recovered,
    term_at: impl Fn(LogIndex) -> Option<Term>,
    state: StateFacts,
) -> Result<RaftStart, Mismatch> {
    let (applied, in_state) = state.applied;
    let committed = state.unfinished.map_or(applied, |index| index.max(applied));
    if log.last < committed {
        return Err(Mismatch::LogShort { last: log.last, applied: committed });
    }
    if log.first > applied.next() {
        return Err(Mismatch::Hole { first: log.first, applied });
    }
    if let Some(in_log) = term_at(applied)
        && in_log != in_state
    {
        return Err(Mismatch::Terms { index: applied, in_log, in_state });
    }
    let mut hard_state = log.hard_state;
    hard_state.commit = hard_state.commit.max(committed).min(log.last);
    Ok(RaftStart { hard_state, applied, life: log.epoch, conf_state: state.conf_state })
}
