//! What members say to each other, as plain data. Only [`super::core`] knows how raft's own types look.

use bytes::Bytes;

use super::{log::LogEntry, mailbox::Ticket};
use crate::{
    snapshot::ArchiveMeta,
    types::{LeaseId, LogIndex, MemberId, Term},
};

/// The kinds of message that cross the network. The names of raft's own are those of the Raft paper and thesis; the
/// others are answered by the driver and never reach raft.
///
/// Leadership is handed over by the leader alone (its `TimeoutNow`), so a request for it is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    RequestPreVote,
    RequestPreVoteResponse,
    Heartbeat,
    HeartbeatResponse,
    TimeoutNow,
    ReadIndex,
    ReadIndexResponse,
    /// InstallSnapshot of the paper: names an archive. It goes with the archive, and raft sees it only once the archive
    /// is staged.
    Snapshot,
    /// Proposals of the sender's clients, for the leader of the message's term and for no other (`forward`).
    Propose,
    /// Proposals that came back: the leader they were sent to has not taken them, and never will.
    ProposeRefused,
    /// Questions about leases, for the leader of the message's term, which alone keeps their time (`asks`).
    LeaseAsk,
    LeaseAnswer,
}

/// One message. Fields that a kind does not use are zero or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: MessageKind,
    pub to: MemberId,
    pub from: MemberId,
    /// 0 in ReadIndex: it is for whoever leads.
    pub term: Term,
    /// Term of the entry at `index`.
    pub log_term: Term,
    pub index: LogIndex,
    /// Of Append; and, without index and term, the proposals of Propose and ProposeRefused and the context of ReadIndex
    /// and its response.
    pub entries: Vec<LogEntry>,
    pub commit: LogIndex,
    pub commit_term: Term,
    pub reject: bool,
    pub reject_hint: LogIndex,
    /// A follower that can only be helped by a snapshot says from where on.
    pub request_snapshot: LogIndex,
    /// Of a heartbeat: which ReadIndex round it confirms.
    pub context: Bytes,
    pub priority: i64,
    /// Of a snapshot: which archive.
    pub archive: Option<ArchiveMeta>,
    /// What the kinds that raft does not know carry.
    pub aside: Option<Box<Aside>>,
}

impl Message {
    /// Everything but the entries.
    #[must_use]
    pub fn clone_head(&self) -> Self {
        let (entries, context, archive) = (Vec::new(), self.context.clone(), self.archive.clone());
        Self { entries, context, archive, aside: self.aside.clone(), ..*self }
    }

    /// One without anything beyond its kind and term.
    #[must_use]
    pub fn new(kind: MessageKind, from: MemberId, to: MemberId, term: Term) -> Self {
        Self {
            kind,
            to,
            from,
            term,
            log_term: Term(0),
            index: LogIndex(0),
            entries: Vec::new(),
            commit: LogIndex(0),
            commit_term: Term(0),
            reject: false,
            reject_hint: LogIndex(0),
            request_snapshot: LogIndex(0),
            context: Bytes::new(),
            priority: 0,
            archive: None,
            aside: None,
        }
    }

    pub(super) fn with(self, aside: Aside) -> Self {
        Self { aside: Some(Box::new(aside)), ..self }
    }

    /// Of Propose and ProposeRefused.
    #[must_use]
    pub fn forward(&self) -> Option<Forward> {
        match self.aside.as_deref() {
            Some(Aside::Forward(forward)) => Some(*forward),
            _ => None,
        }
    }

    /// Of LeaseAsk.
    #[must_use]
    pub fn asks(&self) -> &[LeaseAsk] {
        match self.aside.as_deref() {
            Some(Aside::Asks(asks)) => asks,
            _ => &[],
        }
    }

    /// Of LeaseAnswer.
    #[must_use]
    pub fn answers(&self) -> &[LeaseAnswer] {
        match self.aside.as_deref() {
            Some(Aside::Answers(answers)) => answers,
            _ => &[],
        }
    }

    /// Whether the message promises something that only a synced log can keep: that entries are held, or that a vote
    /// was given. What promises nothing need not wait for a write that is under way.
    pub(super) fn promises(&self) -> bool {
        matches!(self.kind, MessageKind::AppendResponse | MessageKind::RequestVoteResponse)
    }
}

/// What raft's messages have no room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aside {
    /// Of Propose and ProposeRefused: which of the proposer's messages it is.
    Forward(Forward),
    /// Of LeaseAsk: what the sender's handlers want to know.
    Asks(Vec<LeaseAsk>),
    /// Of LeaseAnswer.
    Answers(Vec<LeaseAnswer>),
}

/// Which message with proposals this is: the number never comes again in the proposer's life, and lives are in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// Counts the openings of the proposer's raft log.
    pub life: u64,
    pub number: u64,
}

/// A question about a lease, and the slot of the handler that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseAsk {
    pub ticket: Ticket,
    pub id: LeaseId,
    /// Renew it; if not, only tell how long it has.
    pub renew: bool,
}

/// The answer to the question with the same ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseAnswer {
    pub ticket: Ticket,
    /// None: there is no such lease, or it ran out.
    pub lease: Option<LeaseTime>,
}

/// Time of a lease, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    pub remaining_ms: i64,
    pub granted_ms: i64,
}
