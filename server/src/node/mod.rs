//! The I/O shell: raft, the threads around it, and the only async door to them.
//!
//! `node` promises that what a client was told is durable and can be read by everybody, that no thread waits for another
//! one's disk or peer, and that whatever clients do, what waits in here is bounded. Raft itself and the state machine are
//! pure; here they meet threads, clocks and disks.
//!
//! # Threads
//! | thread | owns | blocks on |
//! |---|---|---|
//! | raft | [`Driver`]: all of raft | its queue, until the next tick |
//! | log | the raft log's writing side | its queue, writes, one sync a batch |
//! | apply | the state machine | its queue, the engine |
//! | watch | the hub | its inbox |
//! | reclaim | nothing | flushes, dropping history |
//! | archives-in, archives-out | nothing; a thread more for each transfer | pipes, the staged file |
//! | each runtime's carrier task | nothing | nothing |
//!
//! # Invariants
//! - *All calls to raft are in [`Driver::drive`]*, which knows no thread, clock or disk, and draws election timeouts from
//!   a seed: the raft thread and the simulator run the same code (`a_seed_decides_a_run`; a test of the house finds
//!   `RawNode` in one file).
//! - *Nothing that promises durability leaves before its sync.* Votes and acknowledgements are [`Held`], and come out only
//!   for a [`log::Persisted`], which only the log store makes (assert in [`Held::release`]; script `three_voters`).
//! - *Nothing is applied that this member has not persisted* (assert in `tests::group`, over random schedules).
//! - *Whatever was answered can be read.* Apply publishes its view before it answers (`apply_thread`), and the door of
//!   local reads closes before a vote leaves (`handle` has the argument).
//! - *Who waits is answered once or told that its time is over*, and a slot is never another's (`tests::mailboxes`).
//! - *A proposal is appended at most once*, though it may be sent to another member, come back, be sent again, and be
//!   repeated by the network (`forward` has the argument; script `forwarding`, `tests::random`).
//! - *A renewal is answered by a leader that proved itself after it moved the deadline* (`lease_desk`, `tests::leases`).
//! - *No message stops this member*, whatever it holds (`core::admit`, `tests::crafted`).
//! - *A state is another member's as a whole or not at all*, whatever call the process dies in while an archive comes,
//!   the log begins anew and the state is put in (`archive_torture` in the test crate, `tests::archives`).
//! - *History and log that an open archive needs stay* until nobody reads it (`archives` has the argument).
//! - *Everything is bounded*: proposals in flight by number and bytes, waiting reads by slots, messages by the queue's
//!   bound, what is not applied by raft's own limit, the log above the flushed index by the reclaim thread.
//! - *A thread that cannot go on stops the process* (`thread`), with nothing promised that is not kept.
//!
//! # Life of a put
//! On a follower the third part of step 2 is the leader's: the driver sends what was proposed to it, and the entry comes
//! back with what is committed.
//!
//! 1. `Handle::propose` takes a slot of its runtime's mailbox; the slot's ticket becomes the sequence of the entry's
//!    request id. The carrier task hands everything that the runtime's handlers proposed in this turn to the raft thread.
//! 2. The raft thread takes all that waits and drives raft once: one batch of entries for all of it.
//! 3. The log thread merges the batches that gathered meanwhile, writes and syncs once, lets go what was held, reports.
//! 4. Raft commits; the apply thread applies what is committed in one engine batch, publishes the view, tells the watch
//!    hub, the lease keeper and the readers that waited for the index.
//! 5. The outcomes of the batch go to each runtime in one hand-over with one wake; its carrier lets the handlers go.
//!
//! # Not here
//! What entries mean (`state`), who is told of changes (`watch`), when a lease runs out (`lease::Expiry`), gRPC (`api`).
//! Messages for other members end in `transport`, whose queues the room `peer` empties and fills; changes of the
//! membership are not built yet, but nothing in here takes the members for fixed. A member whose log rotted refuses to
//! start; that it asks the others for the state instead is not built yet. What an archive is: `snapshot`.
//!
//! References: Ongaro's thesis, sections 3 (raft), 6.4 (ReadIndex), 9.6 (PreVote), 10.2.1 (writing in parallel);
//! raft-rs 0.7.0 for the contract of its `Ready`.

mod message;

mod asks;
mod core;
mod forward;
mod links;
mod proposals;
mod reads;

mod catch_up;
mod drive;

pub mod datadir;
pub mod log;

mod install;
mod staging;

mod mailbox;
mod pipe;
mod queue;
mod shared;
mod stats;
mod thread;
mod transport;

mod archives;
mod carry;
mod encode;
mod keeper;
mod lateness;
mod lease_desk;
mod publish;

mod apply_thread;
mod archive_duty;
mod log_thread;
mod raft_thread;
mod reclaim;
mod watch_thread;

mod handle;
mod member;
mod recovery;
mod start;

#[cfg(test)]
mod tests;

use crate::{
    state::Reply,
    types::{ClusterId, LogIndex, MemberId, Revision, Term},
};

pub use self::{
    apply_thread::decode,
    archives::{ArchiveDoor, Outgoing, snapshot_message},
    asks::fresh_ms,
    catch_up::Verdict,
    core::{RaftStart, Standing, first_conf_state},
    drive::{ConfirmedReads, Driver, DriverConfig, Effects, Held, Input, Persist, Proposal, TICK_MS},
    encode::entry,
    handle::Handle,
    install::{Install, InstallFailed},
    keeper::Keeper,
    lease_desk::{Asked, LeaseDesk, Told},
    mailbox::Ticket,
    message::{Aside, Forward, LeaseAnswer, LeaseAsk, LeaseTime, Message, MessageKind},
    pipe::{Giving, Pipe, Taking, pipe},
    reclaim::{KeepLog, Needed, give_back},
    recovery::{Mismatch, StateFacts, fit, install_due, may_bootstrap},
    shared::Identity,
    staging::{Session, Staging, StagingFailed},
    start::{EXIT_IDENTITY, InitialMember, Mode, Node, NodeConfig, Prepared, StartError},
    stats::{BUCKETS_US, Histogram, ROUND_TRIPS_US, Stats, Traffic},
    thread::{EXIT_STATE, spawn},
    transport::{Lane, Outbox, Transport},
};

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
