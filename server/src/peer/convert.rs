//! Between node's messages and those of the wire: by moves, entries' data shared with what was read.

use conclave_proto::conclave::peer::v1::{self as pb, archive_answer::State, frame};

use crate::{
    node::{
        Aside, Forward, LeaseAnswer, LeaseAsk, LeaseTime, Message, MessageKind, Ticket,
        log::{EntryKind, LogEntry},
    },
    snapshot::{ArchiveMeta, Chunk, Refusal, ToReceiver, ToSender},
    types::{ClusterId, LeaseId, LogIndex, MemberId, Revision, Term},
};

const KINDS: [(MessageKind, pb::Kind); 16] = [
    (MessageKind::Propose, pb::Kind::Propose),
    (MessageKind::Append, pb::Kind::Append),
    (MessageKind::AppendResponse, pb::Kind::AppendResponse),
    (MessageKind::RequestVote, pb::Kind::RequestVote),
    (MessageKind::RequestVoteResponse, pb::Kind::RequestVoteResponse),
    (MessageKind::RequestPreVote, pb::Kind::RequestPreVote),
    (MessageKind::RequestPreVoteResponse, pb::Kind::RequestPreVoteResponse),
    (MessageKind::Heartbeat, pb::Kind::Heartbeat),
    (MessageKind::HeartbeatResponse, pb::Kind::HeartbeatResponse),
    (MessageKind::TimeoutNow, pb::Kind::TimeoutNow),
    (MessageKind::ReadIndex, pb::Kind::ReadIndex),
    (MessageKind::ReadIndexResponse, pb::Kind::ReadIndexResponse),
    (MessageKind::Snapshot, pb::Kind::Snapshot),
    (MessageKind::ProposeRefused, pb::Kind::ProposeRefused),
    (MessageKind::LeaseAsk, pb::Kind::LeaseAsk),
    (MessageKind::LeaseAnswer, pb::Kind::LeaseAnswer),
];

const ENTRIES: [(EntryKind, pb::EntryKind); 3] = [
    (EntryKind::Normal, pb::EntryKind::Normal),
    (EntryKind::ConfChange, pb::EntryKind::ConfChange),
    (EntryKind::ConfChangeV2, pb::EntryKind::ConfChangeV2),
];

/// For the wire.
#[must_use]
pub fn message_out(message: Message) -> pb::Message {
    let (_, kind) = KINDS.into_iter().find(|(kind, _)| *kind == message.kind).expect("the table has every kind");
    pb::Message {
        kind: kind.into(),
        to: message.to.0,
        from: message.from.0,
        term: message.term.0,
        log_term: message.log_term.0,
        index: message.index.0,
        entries: message.entries.into_iter().map(entry_out).collect(),
        commit: message.commit.0,
        commit_term: message.commit_term.0,
        reject: message.reject,
        reject_hint: message.reject_hint.0,
        request_snapshot: message.request_snapshot.0,
        context: message.context,
        priority: message.priority,
        archive: message.archive.map(archive_out),
        aside: message.aside.map(|aside| aside_out(*aside)),
    }
}

fn archive_out(meta: ArchiveMeta) -> pb::ArchiveMeta {
    pb::ArchiveMeta {
        cluster: meta.cluster.0,
        index: meta.index.0,
        term: meta.term.0,
        revision: meta.revision.0,
        conf_state: meta.conf_state,
    }
}

fn aside_out(aside: Aside) -> pb::message::Aside {
    match aside {
        Aside::Forward(Forward { life, number }) => pb::message::Aside::Forward(pb::Forward { life, number }),
        Aside::Asks(asks) => {
            pb::message::Aside::LeaseAsks(pb::LeaseAsks { asks: asks.into_iter().map(ask_out).collect() })
        }
        Aside::Answers(answers) => {
            let answers = answers.into_iter().map(answer_out).collect();
            pb::message::Aside::LeaseAnswers(pb::LeaseAnswers { answers })
        }
    }
}

fn ask_out(ask: LeaseAsk) -> pb::LeaseAsk {
    pb::LeaseAsk { ticket: ask.ticket.0, lease: ask.id.0, renew: ask.renew }
}

fn answer_out(answer: LeaseAnswer) -> pb::LeaseAnswer {
    let LeaseTime { remaining_ms, granted_ms } = answer.lease.unwrap_or(LeaseTime { remaining_ms: 0, granted_ms: 0 });
    pb::LeaseAnswer { ticket: answer.ticket.0, lives: answer.lease.is_some(), remaining_ms, granted_ms }
}

fn entry_out(entry: LogEntry) -> pb::Entry {
    let (_, kind) = ENTRIES.into_iter().find(|(kind, _)| *kind == entry.kind).expect("the table has every kind");
    pb::Entry { kind: kind.into(), term: entry.term.0, index: entry.index.0, data: entry.data }
}

/// From the wire. None: of a kind that does not exist.
#[must_use]
pub fn message_in(message: pb::Message) -> Option<Message> {
    // Compared as a number: what a later version added reads as the unspecified kind otherwise.
    let (kind, _) = KINDS.into_iter().find(|(_, kind)| i32::from(*kind) == message.kind)?;
    Some(Message {
        kind,
        to: MemberId(message.to),
        from: MemberId(message.from),
        term: Term(message.term),
        log_term: Term(message.log_term),
        index: LogIndex(message.index),
        entries: message.entries.into_iter().map(entry_in).collect::<Option<_>>()?,
        commit: LogIndex(message.commit),
        commit_term: Term(message.commit_term),
        reject: message.reject,
        reject_hint: LogIndex(message.reject_hint),
        request_snapshot: LogIndex(message.request_snapshot),
        context: message.context,
        priority: message.priority,
        archive: message.archive.map(archive_in),
        aside: message.aside.map(|aside| Box::new(aside_in(aside))),
    })
}

fn aside_in(aside: pb::message::Aside) -> Aside {
    match aside {
        pb::message::Aside::Forward(pb::Forward { life, number }) => Aside::Forward(Forward { life, number }),
        pb::message::Aside::LeaseAsks(all) => Aside::Asks(all.asks.into_iter().map(ask_in).collect()),
        pb::message::Aside::LeaseAnswers(all) => Aside::Answers(all.answers.into_iter().map(answer_in).collect()),
    }
}

fn archive_in(meta: pb::ArchiveMeta) -> ArchiveMeta {
    ArchiveMeta {
        cluster: ClusterId(meta.cluster),
        index: LogIndex(meta.index),
        term: Term(meta.term),
        revision: Revision(meta.revision),
        conf_state: meta.conf_state,
    }
}

fn ask_in(ask: pb::LeaseAsk) -> LeaseAsk {
    LeaseAsk { ticket: Ticket(ask.ticket), id: LeaseId(ask.lease), renew: ask.renew }
}

fn answer_in(answer: pb::LeaseAnswer) -> LeaseAnswer {
    let pb::LeaseAnswer { ticket, lives, remaining_ms, granted_ms } = answer;
    LeaseAnswer { ticket: Ticket(ticket), lease: lives.then_some(LeaseTime { remaining_ms, granted_ms }) }
}

fn entry_in(entry: pb::Entry) -> Option<LogEntry> {
    let (kind, _) = ENTRIES.into_iter().find(|(_, kind)| i32::from(*kind) == entry.kind)?;
    Some(LogEntry { index: LogIndex(entry.index), term: Term(entry.term), kind, data: entry.data })
}

/// Whether a message may come from a member at the other end of a connection: everybody speaks for itself.
pub(super) fn may_come_from(message: &Message, speaker: MemberId, me: MemberId) -> bool {
    message.to == me && message.from == speaker
}

/// From who has an archive.
pub(super) fn to_receiver_out(frame: ToReceiver) -> frame::Kind {
    match frame {
        ToReceiver::Begin { meta, term } => {
            frame::Kind::ArchiveBegin(pb::ArchiveBegin { meta: Some(archive_out(meta)), term: term.0 })
        }
        ToReceiver::Chunk(Chunk { number, bytes, last }) => {
            frame::Kind::ArchiveChunk(pb::ArchiveChunk { number, last, data: bytes })
        }
    }
}

/// None: not of an archive, or not whole.
pub(super) fn to_receiver_in(frame: frame::Kind) -> Option<ToReceiver> {
    match frame {
        frame::Kind::ArchiveBegin(pb::ArchiveBegin { meta, term }) => {
            meta.map(|meta| ToReceiver::Begin { meta: archive_in(meta), term: Term(term) })
        }
        frame::Kind::ArchiveChunk(pb::ArchiveChunk { number, last, data: bytes }) => {
            Some(ToReceiver::Chunk(Chunk { number, bytes, last }))
        }
        _ => None,
    }
}

/// From who wants one.
pub(super) fn to_sender_out(answer: ToSender) -> frame::Kind {
    let (state, have) = match answer {
        ToSender::Have(have) => (State::Have, have),
        ToSender::Staged => (State::Staged, 0),
        ToSender::Refused(Refusal::Busy) => (State::Busy, 0),
        ToSender::Refused(Refusal::Unwanted) => (State::Unwanted, 0),
        ToSender::Refused(Refusal::NoSpace) => (State::NoSpace, 0),
        ToSender::Refused(Refusal::Broken) => (State::Broken, 0),
    };
    frame::Kind::ArchiveAnswer(pb::ArchiveAnswer { state: state.into(), have })
}

/// None: of a kind that does not exist.
pub(super) fn to_sender_in(answer: &pb::ArchiveAnswer) -> Option<ToSender> {
    Some(match State::try_from(answer.state).ok()? {
        State::Have => ToSender::Have(answer.have),
        State::Staged => ToSender::Staged,
        State::Busy => ToSender::Refused(Refusal::Busy),
        State::Unwanted => ToSender::Refused(Refusal::Unwanted),
        State::NoSpace => ToSender::Refused(Refusal::NoSpace),
        State::Broken => ToSender::Refused(Refusal::Broken),
    })
}
