//! The I/O shell. (door essay to be written by the room's builder)

mod core;
pub mod datadir;
mod drive;
mod handle;
pub mod log;

use crate::{
    state::Reply,
    types::{ClusterId, LogIndex, MemberId, Revision, Term},
};

pub use handle::Handle;

/// What a proposal came to.
#[derive(Clone, Debug)]
pub struct Answer {
    pub reply: Reply,
    pub revision: Revision,
    pub term: Term,
}

/// Where this member stands; read from atomics, never blocks.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub leader: Option<MemberId>,
    pub term: Term,
    pub committed: LogIndex,
    pub applied: LogIndex,
    pub learner: bool,
}
