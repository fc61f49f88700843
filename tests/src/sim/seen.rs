//! What was seen of a cluster, as plain data: the only thing that invariants judge. The simulator tells it as it happens;
//! what is recorded of real processes (their logs, and what clients were told) can be told in the same words.

use bytes::Bytes;
use conclave_proto::mvccpb;
use conclave_server::{
    error::Error,
    lease::Grant,
    mvcc::{Change, KeyRange, Position},
    node::{Message, Standing},
    state::Reply,
    types::{LeaseId, LogIndex, MemberId, Revision, Term},
};

/// One thing that was seen.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A process began, with this on its disk.
    Started(Started),
    /// What the store of a member holds when it starts, unless it holds half an entry.
    Restored(Restored),
    Died(MemberId),
    /// What was synced on the member's disk is not there any more, or not as it was.
    Damaged(MemberId),
    /// Where raft stands, whenever that changed.
    Standing(MemberId, Standing),
    /// A message left its member.
    Sent(Message),
    /// Entries were handed to the member's log, not synced yet. They replace what it held from the first of them on.
    Logged(MemberId, Vec<Slot>),
    /// The member's log begins anew behind this entry; what it held is gone.
    LogBegins(MemberId, (LogIndex, Term)),
    /// A member's state is the one behind this entry, which another member sent.
    Installed(MemberId, LogIndex),
    /// A member applied an entry, with an outcome that has this digest.
    Applied(MemberId, Slot, u32),
    /// An entry was applied for the first time anywhere: from now on it is the truth.
    Decided(Box<Decided>),
    /// How many members would hold a decided entry if the power failed everywhere now, and how many have a vote.
    Stored {
        slot: Slot,
        holders: usize,
        voters: usize,
    },
    /// A client's request began.
    Called(Op, Call),
    /// A client was answered.
    Answered(Op, Answer),
    /// A client will never know.
    Lost(Op),
    /// A client was told that nothing was done.
    Refused(Op),
    /// A read of the past was answered, or refused as compacted.
    Past(PastRead),
    Hashed {
        member: MemberId,
        revision: Revision,
        compacted: Revision,
        hash: u32,
    },
    /// A lease was renewed: the client was told so.
    Renewed(Renewed),
    Watch(WatcherId, Watch),
    /// All is healed and quiet; this member holds this.
    Settled(Restored),
}

/// A request as its client knows it: the same in every attempt.
pub type Op = u64;
pub type WatcherId = usize;

/// An entry and where it stands; `digest` is of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub index: LogIndex,
    pub term: Term,
    pub digest: u32,
}

#[derive(Clone, Debug)]
pub struct Started {
    pub member: MemberId,
    pub term: Term,
    pub vote: Option<MemberId>,
    /// Index and term in front of the log.
    pub base: (LogIndex, Term),
    pub log: Vec<Slot>,
    pub applied: LogIndex,
}

#[derive(Clone, Debug)]
pub struct Restored {
    pub member: MemberId,
    pub applied: LogIndex,
    pub position: Position,
    pub kvs: Vec<mvccpb::KeyValue>,
    pub leases: Vec<(LeaseId, Grant)>,
}

/// An entry of the truth and what applying it did.
#[derive(Clone, Debug)]
pub struct Decided {
    pub slot: Slot,
    pub data: Bytes,
    pub reply: Result<Reply, Error>,
    /// Of the key space after it; of a repeated request, after its first execution.
    pub revision: Revision,
    pub changes: Vec<Change>,
    /// Each member's clock, in its own milliseconds.
    pub clocks: Vec<(MemberId, u64)>,
}

#[derive(Clone, Debug)]
pub enum Call {
    /// The value that its effect is known by, if it writes one.
    Write {
        unique: Option<Bytes>,
    },
    Read {
        range: KeyRange,
        linearizable: bool,
    },
}

#[derive(Clone, Debug)]
pub enum Answer {
    /// Of the entry at this index.
    Write {
        index: LogIndex,
        reply: Result<Reply, Error>,
        revision: Revision,
    },
    Read {
        revision: Revision,
        kvs: Vec<mvccpb::KeyValue>,
    },
}

#[derive(Clone, Debug)]
pub struct PastRead {
    pub range: KeyRange,
    pub revision: Revision,
    /// What is compacted where it was read, afterwards.
    pub compacted: Revision,
    pub found: Result<Vec<mvccpb::KeyValue>, Error>,
}

#[derive(Clone, Debug)]
pub struct Renewed {
    pub lease: LeaseId,
    pub ttl_ms: i64,
    /// Each member's clock when the request began.
    pub called: Vec<(MemberId, u64)>,
}

#[derive(Clone, Debug)]
pub enum Watch {
    /// A stream is opened for the changes from `start` on; 0: from now on.
    Opened {
        range: KeyRange,
        prev_kv: bool,
        start: Revision,
    },
    Created {
        revision: Revision,
    },
    Told {
        revision: Revision,
        events: Vec<mvccpb::Event>,
    },
    Progress {
        revision: Revision,
    },
    Compacted {
        compacted: Revision,
    },
}

/// Changes as a watcher sees them are told apart by this.
#[must_use]
pub fn event_revision(event: &mvccpb::Event) -> Revision {
    Revision(event.kv.as_ref().map_or(0, |kv| kv.mod_revision))
}

#[must_use]
pub fn digest(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
}
