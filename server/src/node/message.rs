//! What members say to each other, as plain data. Only [`super::core`] knows how raft's own types look.

use bytes::Bytes;

use super::log::LogEntry;
use crate::{
    snapshot::ArchiveMeta,
    types::{LogIndex, MemberId, Term},
};

/// The kinds of message that cross the network. The names are those of the Raft paper and thesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    Propose,
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    RequestPreVote,
    RequestPreVoteResponse,
    Heartbeat,
    HeartbeatResponse,
    TransferLeader,
    TimeoutNow,
    ReadIndex,
    ReadIndexResponse,
    /// InstallSnapshot of the paper: names an archive. It goes with the archive, and raft sees it only once the archive
    /// is staged.
    Snapshot,
}

/// One message. Fields that a kind does not use are zero or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: MessageKind,
    pub to: MemberId,
    pub from: MemberId,
    /// 0 in what is forwarded to a leader without a term of its own (Propose, ReadIndex).
    pub term: Term,
    /// Term of the entry at `index`.
    pub log_term: Term,
    pub index: LogIndex,
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
}

impl Message {
    /// Everything but the entries.
    #[must_use]
    pub fn clone_head(&self) -> Self {
        Self { entries: Vec::new(), context: self.context.clone(), archive: self.archive.clone(), ..*self }
    }

    /// Whether the message promises something that only a synced log can keep: that entries are held, or that a vote
    /// was given. What promises nothing need not wait for a write that is under way.
    pub(super) fn promises(&self) -> bool {
        matches!(self.kind, MessageKind::AppendResponse | MessageKind::RequestVoteResponse)
    }
}
