//! Between raft's protobuf types and ours: by moves, entry data shared. Peers exchange our own messages, so protobuf 2
//! never parses a peer's bytes.

use protobuf::Message as _;
use raft::eraftpb;

use crate::{
    node::{
        log::{EntryKind, HardState, LogEntry},
        message::{Message, MessageKind},
    },
    snapshot::{ArchiveMeta, MAX_CONF_STATE_BYTES},
    types::{ClusterId, LogIndex, MemberId, Revision, Term},
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

/// The kinds that raft knows; the others are the driver's.
const KINDS: [(MessageKind, eraftpb::MessageType); 12] = [
    (MessageKind::Append, eraftpb::MessageType::MsgAppend),
    (MessageKind::AppendResponse, eraftpb::MessageType::MsgAppendResponse),
    (MessageKind::RequestVote, eraftpb::MessageType::MsgRequestVote),
    (MessageKind::RequestVoteResponse, eraftpb::MessageType::MsgRequestVoteResponse),
    (MessageKind::RequestPreVote, eraftpb::MessageType::MsgRequestPreVote),
    (MessageKind::RequestPreVoteResponse, eraftpb::MessageType::MsgRequestPreVoteResponse),
    (MessageKind::Heartbeat, eraftpb::MessageType::MsgHeartbeat),
    (MessageKind::HeartbeatResponse, eraftpb::MessageType::MsgHeartbeatResponse),
    (MessageKind::TimeoutNow, eraftpb::MessageType::MsgTimeoutNow),
    (MessageKind::ReadIndex, eraftpb::MessageType::MsgReadIndex),
    (MessageKind::ReadIndexResponse, eraftpb::MessageType::MsgReadIndexResp),
    (MessageKind::Snapshot, eraftpb::MessageType::MsgSnapshot),
];

/// None: not for raft, a snapshot without an archive, or one with a membership that raft would panic on.
pub(super) fn message_in(message: Message) -> Option<eraftpb::Message> {
    let (_, kind) = KINDS.into_iter().find(|(kind, _)| *kind == message.kind)?;
    let mut out = eraftpb::Message::default();
    if message.kind == MessageKind::Snapshot {
        out.set_snapshot(snapshot_in(message.archive.as_ref()?)?);
    }
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
    Some(out)
}

/// None: raft talks to itself.
pub(super) fn message_out(mut message: eraftpb::Message) -> Option<Message> {
    let (kind, _) = KINDS.into_iter().find(|(_, kind)| *kind == message.get_msg_type())?;
    let archive = (kind == MessageKind::Snapshot).then(|| archive_out(message.get_snapshot()));
    let (from, to, term) = (MemberId(message.from), MemberId(message.to), Term(message.term));
    Some(Message {
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
        archive,
        ..Message::new(kind, from, to, term)
    })
}

/// What raft knows of an archive. It carries the cluster and the revision, which mean nothing to it, as its data.
pub(super) fn snapshot_in(archive: &ArchiveMeta) -> Option<eraftpb::Snapshot> {
    let membership = conf_state(&archive.conf_state).ok().filter(is_sound)?;
    let data = [archive.cluster.0.to_be_bytes(), archive.revision.0.to_be_bytes()].concat().into();
    let mut out = eraftpb::Snapshot { data, ..eraftpb::Snapshot::default() };
    let metadata = out.mut_metadata();
    metadata.set_conf_state(membership);
    metadata.index = archive.index.0;
    metadata.term = archive.term.0;
    (archive.index.0 > 0).then_some(out)
}

/// # Panics
/// If [`snapshot_in`] did not make it.
pub(super) fn archive_out(snapshot: &eraftpb::Snapshot) -> ArchiveMeta {
    let (cluster, revision) = snapshot.data.split_at(8);
    let metadata = snapshot.get_metadata();
    ArchiveMeta {
        cluster: ClusterId(u64::from_be_bytes(cluster.try_into().expect("eight bytes"))),
        index: LogIndex(metadata.index),
        term: Term(metadata.term),
        revision: Revision(i64::from_be_bytes(revision.try_into().expect("eight bytes"))),
        conf_state: metadata
            .get_conf_state()
            .write_to_bytes()
            .expect("a message without required fields encodes")
            .into(),
    }
}

/// Whether raft-rs takes the membership: it panics on one that no series of changes leads to.
fn is_sound(state: &eraftpb::ConfState) -> bool {
    let lists = [&state.voters, &state.voters_outgoing, &state.learners, &state.learners_next];
    let unique = |list: &[u64]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        let before = list.len();
        list.dedup();
        list.len() == before && !list.contains(&raft::INVALID_ID)
    };
    let joint = !state.voters_outgoing.is_empty();
    state.write_to_bytes().is_ok_and(|bytes| bytes.len() <= MAX_CONF_STATE_BYTES)
        && lists.into_iter().all(|list| unique(list))
        && state.learners.iter().all(|id| !state.voters.contains(id) && !state.voters_outgoing.contains(id))
        && state.learners_next.iter().all(|id| state.voters_outgoing.contains(id) && !state.voters.contains(id))
        && (joint || !state.auto_leave)
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
