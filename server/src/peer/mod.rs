//! Members talk to each other: sockets, hellos, frames, and who is let in.
//!
//! `peer` promises that what it hands to raft comes from the member that raft takes it for, whole and as it was sent, or
//! not at all; that a heartbeat never waits behind megabytes; and that a member whose disk was emptied is found out before
//! it can break a vote. It promises no delivery: raft sends again.
//!
//! # Invariants
//! - *Nobody is let in unjudged.* Each end of a connection judges the other by one pure function, [`judge`], before any
//!   frame is looked at (`tests::hello`, a table of every mismatch).
//! - *Who is let in is remembered first.* The incarnation of a peer is on disk before the first frame is read or sent
//!   ([`Gate::admit`] gives the only [`Admitted`], and only after the sync; test `remembered_before_let_in`).
//! - *A first start asks everybody.* Raft starts in a folder that never ran only after each other initial member answered
//!   a hello and knew no other incarnation ([`Greetings`]; process test `a_wiped_folder_is_refused`). The argument stands
//!   in `docs/peer-protocol.md`.
//! - *Garbage disconnects, and never panics*: length and checksum are looked at before a frame is decoded, each message's
//!   sender is compared with who was let in (`tests::frames`, random and crafted bytes).
//! - *Everything is bounded*: connections by [`MAX_INBOUND`] and one of each purpose for each member, frames by
//!   [`MAX_FRAME`], what waits by the lanes of `node::Transport`, silence by the time-outs of [`Timing`].
//! - *Clients cannot starve it*: all of it runs on one runtime in a thread of its own.
//!
//! # Life of a message
//! 1. Raft or log thread puts it into the lane of its member's outbox (`node::Transport`).
//! 2. The lane's task (`dial`) takes what waits, turns it into frames of about [`BATCH_BYTES`], and writes them with one
//!    call.
//! 3. The other end's task (`accept`) cuts frames out of what it reads, checks and decodes them in place, so that entries
//!    share the memory they were read into, and gives all messages of a read to the raft thread with one wake.
//!
//! # Life of a connection
//! A member dials each other one once for each lane and only sends on what it dialled. Hello and answer come first; pings
//! show that the way works in both directions, and a connection on which nothing was heard for too long is closed at both
//! ends. What was queued is then dropped, raft is told that the member is unreachable, and dialling begins again after a
//! pause that doubles up to a second, or at once when the other member shows itself by dialling here.
//!
//! An archive has a connection of its own for each transfer, which `archive` joins to a pipe of node's.
//!
//! # Not here
//! What the messages mean (`node`), TLS, and HTTP on the peer port: connections that do not begin with our magic byte are
//! handed to whoever serves HTTP.
//!
//! References: etcd `server/etcdserver/api/rafthttp` for what its operators know; RFC 1122 4.2.3.6 for why TCP's own
//! keepalive is not enough.

mod hello;

mod convert;
mod count;
mod wire;

mod gate;

mod archive;
mod dial;

mod accept;
mod start;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use self::{
    convert::{message_in, message_out},
    gate::{Admitted, Gate, Greeted, Greetings},
    hello::{Greeting, Me, Purpose, Refusal, judge},
    start::{Peers, PeersConfig, Timing},
    wire::{MAX_FRAME, WireError},
};

/// Connections from others at a time, before and after the hello: three purposes for each of a few members, and room for
/// those that a member opens again before we saw the old ones end.
const MAX_INBOUND: usize = 256;
/// What one write takes at most, unless a single message is larger: enough to keep a fast network busy, and small against
/// the time-outs on a slow one.
const BATCH_BYTES: usize = 256 << 10;
