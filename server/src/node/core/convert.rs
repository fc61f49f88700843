//! Between raft's protobuf types and ours: by moves, entry data shared. Peers exchange our own messages, so protobuf 2
//! never parses a peer's bytes.

use protobuf::Message as _;
use raft::eraftpb;

use crate::{
    node::{
        log::{EntryKind, HardState, LogEntry},
        message::{Message, MessageKind},
    },
    types::{LogIndex, MemberId, Term},
};

pub(super) fn member(id: u64) -> Option<MemberId> {
    (id != raft::INVALID_ID).then_some(MemberId(id))
}

pub(super) fn entry_in(entry: LogEntry) -> eraftpb::Entry {
    let mut out = eraftpb::Entry::default();
    out.set_entry_type(match entry.kind {
        EntryKind::Normal => eraftpb::EntryType::EntryNormal,
        EntryKind::ConfChange => eraftpb::EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => eraftpb::EntryType::EntryConfChangeV2,
    });
    out.index = entry.index.0;
    out.term = entry.term.0;
    out.data = entry.data;
    out
}

/// Raft's `context` and `sync_log` of an entry are dropped: nothing here sets them.
pub(super) fn entry_out(entry: eraftpb::Entry) -> LogEntry {
    LogEntry {
        index: LogIndex(entry.index),
        term: Term(entry.term),
        kind: match entry.get_entry_type() {
            eraftpb::EntryType::EntryNormal => EntryKind::Normal,
            eraftpb::EntryType::EntryConfChange => EntryKind::ConfChange,
            eraftpb::EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
        },
        data: entry.data,
    }
}

/// An entry in two places shares its data.
pub(super) fn entry_copy(entry: &eraftpb::Entry) -> LogEntry {
    entry_out(entry.clone())
}

pub(super) fn hard_state_out(state: &eraftpb::HardState) -> HardState {
    HardState { term: Term(state.term), vote: member(state.vote), commit: LogIndex(state.commit) }
}

pub(super) fn hard_state_in(state: &HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: state.term.0,
        vote: state.vote.map_or(raft::INVALID_ID, |member| member.0),
        commit: state.commit.0,
        ..eraftpb::HardState::default()
    }
}

const KINDS: [(MessageKind, eraftpb::MessageType); 13] = [
    (MessageKind::Propose, eraftpb::MessageType::MsgPropose),
    (MessageKind::Append, eraftpb::MessageType::MsgAppend),
    (MessageKind::AppendResponse, eraftpb::MessageType::MsgAppendResponse),
    (MessageKind::RequestVote, eraftpb::MessageType::MsgRequestVote),
    (MessageKind::RequestVoteResponse, eraftpb::MessageType::MsgRequestVoteResponse),
    (MessageKind::RequestPreVote, eraftpb::MessageType::MsgRequestPreVote),
    (MessageKind::RequestPreVoteResponse, eraftpb::MessageType::MsgRequestPreVoteResponse),
    (MessageKind::Heartbeat, eraftpb::MessageType::MsgHeartbeat),
    (MessageKind::HeartbeatResponse, eraftpb::MessageType::MsgHeartbeatResponse),
    (MessageKind::TransferLeader, eraftpb::MessageType::MsgTransferLeader),
    (MessageKind::TimeoutNow, eraftpb::MessageType::MsgTimeoutNow),
    (MessageKind::ReadIndex, eraftpb::MessageType::MsgReadIndex),
    (MessageKind::ReadIndexResponse, eraftpb::MessageType::MsgReadIndexResp),
];

pub(super) fn message_in(message: Message) -> eraftpb::Message {
    let (_, kind) = KINDS.into_iter().find(|(kind, _)| *kind == message.kind).expect("the table has every kind");
    let mut out = eraftpb::Message::default();
    out.set_msg_type(kind);
    out.to = message.to.0;
    out.from = message.from.0;
    out.term = message.term.0;
    out.log_term = message.log_term.0;
    out.index = message.index.0;
    out.set_entries(message.entries.into_iter().map(entry_in).collect::<Vec<_>>().into());
    out.commit = message.commit.0;
    out.commit_term = message.commit_term.0;
    out.reject = message.reject;
    out.reject_hint = message.reject_hint.0;
    out.request_snapshot = message.request_snapshot.0;
    out.context = message.context;
    out.priority = message.priority;
    out
}

/// None: raft talks to itself, or of a snapshot, which the storage never offers.
pub(super) fn message_out(mut message: eraftpb::Message) -> Option<Message> {
    let (kind, _) = KINDS.into_iter().find(|(_, kind)| *kind == message.get_msg_type())?;
    Some(Message {
        kind,
        to: MemberId(message.to),
        from: MemberId(message.from),
        term: Term(message.term),
        log_term: Term(message.log_term),
        index: LogIndex(message.index),
        entries: message.take_entries().into_iter().map(entry_out).collect(),
        commit: LogIndex(message.commit),
        commit_term: Term(message.commit_term),
        reject: message.reject,
        reject_hint: LogIndex(message.reject_hint),
        request_snapshot: LogIndex(message.request_snapshot),
        context: message.context,
        priority: message.priority,
    })
}

/// What the state machine stores as raft's membership when a cluster begins.
pub(super) fn first_conf_state(voters: &[MemberId]) -> Vec<u8> {
    let voters = voters.iter().map(|member| member.0).collect();
    let state = eraftpb::ConfState { voters, ..eraftpb::ConfState::default() };
    state.write_to_bytes().expect("a message without required fields encodes")
}

pub(super) fn conf_state(bytes: &[u8]) -> Result<eraftpb::ConfState, String> {
    let mut state = eraftpb::ConfState::default();
    state.merge_from_bytes(bytes).map_err(|error| format!("the stored membership of raft is not readable: {error}"))?;
    if state.voters.is_empty() {
        return Err("the stored membership of raft names no voter".to_owned());
    }
    Ok(state)
}
