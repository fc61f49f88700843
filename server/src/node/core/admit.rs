//! What raft is given of what comes over the network.
//!
//! raft-rs takes its peers for correct, and ends the process when one of them says what a correct one cannot say. A
//! member's peers are members, but bits flip, versions differ and somebody may hold a stolen certificate: whatever a
//! message holds, it can be refused, and it cannot stop this member. So each assertion of raft-rs and of the log that a
//! message could reach has a line here that keeps it from there (`tests::crafted`).
//!
//! This is no defence against a member that lies well: raft trusts members to say the truth about their logs.

use crate::{
    node::{
        log::{EntryKind, LogEntry, LogOptions},
        message::{Message, MessageKind},
    },
    types::{LogIndex, MemberId, Term},
};

/// No index or term comes near, and sums of two do not overflow.
const NUMBER_END: u64 = 1 << 62;
/// Contexts of ReadIndex rounds have 24 bytes; more is allowed so that a later version may say more.
const MAX_CONTEXT: usize = 64;
/// An entry lies within one segment of the log, and a start refuses settings under which a request would not.
const MAX_ENTRY_BYTES: usize = (LogOptions::SEGMENT_BYTES / 2) as usize;
/// ReadIndex rounds that a leader has under way. Each member has one, and begins another one when half a second went by
/// without an answer; a leader without its quorum steps down within an election timeout.
const MAX_ROUNDS: usize = 1_024;
/// Questions or answers in one message.
pub(in crate::node) const MAX_ASKS: usize = 1_024;

/// Where raft stands, as far as messages are judged by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) me: MemberId,
    pub(super) term: Term,
    pub(super) leader: Option<MemberId>,
    pub(super) leading: bool,
    pub(super) last: LogIndex,
    /// The sender is in the configuration that is applied here.
    pub(super) known: bool,
    pub(super) rounds: usize,
}

/// Why a message is not looked at; `None` if it is.
pub(super) fn refuse(facts: Facts, message: &Message) -> Option<&'static str> {
    use MessageKind as Kind;
    if message.to != facts.me || message.from == facts.me || message.from == MemberId(0) {
        return Some("it is not from another member to this one");
    }
    // A follower that lags behind a change of the membership must follow a leader that it does not know yet, and vote
    // for it. Whoever only answers or asks is known to whom it speaks to.
    let may_be_new = matches!(
        message.kind,
        Kind::Append | Kind::Heartbeat | Kind::RequestVote | Kind::RequestPreVote | Kind::Snapshot
    );
    if !facts.known && !may_be_new {
        return Some("its sender is no member");
    }
    let Message { term, log_term, index, commit, commit_term, reject_hint, request_snapshot, .. } = *message;
    let numbers = [term.0, log_term.0, index.0, commit.0, commit_term.0, reject_hint.0, request_snapshot.0];
    if numbers.into_iter().any(|number| number >= NUMBER_END)
        || message.forward().is_some_and(|forward| forward.number >= NUMBER_END)
    {
        return Some("a number is out of all bounds");
    }
    // raft-rs takes a message of term 0 for one of its own, whatever its kind.
    if (term == Term(0)) != (message.kind == Kind::ReadIndex) {
        return Some("its kind does not go with its term");
    }
    if message.priority != 0 || message.context.len() > MAX_CONTEXT {
        return Some("a field is set that no member sets");
    }
    match message.kind {
        Kind::Append => entries(message),
        Kind::RequestVote | Kind::RequestPreVote => origin(message),
        Kind::Snapshot => archive(message),
        Kind::AppendResponse if facts.leading && term == facts.term && index > facts.last => {
            Some("it acknowledges an entry that does not exist")
        }
        Kind::TimeoutNow if term != facts.term || facts.leader != Some(message.from) => {
            Some("only the leader says when to stand for election")
        }
        // Passing it on would be no help: whoever asks finds the leader by itself, and asks again.
        Kind::ReadIndex if !facts.leading => Some("it is for a leader"),
        Kind::ReadIndex if facts.rounds >= MAX_ROUNDS => Some("there are too many rounds"),
        Kind::ReadIndex | Kind::ReadIndexResponse => context(&message.entries),
        Kind::Propose | Kind::ProposeRefused => proposals(&message.entries),
        Kind::LeaseAsk | Kind::LeaseAnswer if message.asks().len().max(message.answers().len()) > MAX_ASKS => {
            Some("it asks or answers too much")
        }
        _ => None,
    }
}

/// Index 0 is in front of the first entry and has term 0; no entry has.
fn origin(message: &Message) -> Option<&'static str> {
    ((message.index == LogIndex(0)) != (message.log_term == Term(0))).then_some("no entry has term 0")
}

/// Entries follow the one they are appended to, and each other.
fn entries(message: &Message) -> Option<&'static str> {
    let (mut last, mut last_term) = (message.index, message.log_term);
    for entry in &message.entries {
        if entry.index != last.next() {
            return Some("its entries leave a gap");
        }
        if entry.term < last_term || entry.term == Term(0) || entry.term > message.term {
            return Some("the terms of its entries are not in order");
        }
        if entry.data.len() > MAX_ENTRY_BYTES {
            return Some("an entry is too large for the log");
        }
        (last, last_term) = (entry.index, entry.term);
    }
    origin(message)
}

fn archive(message: &Message) -> Option<&'static str> {
    let fits =
        |index: LogIndex, term: Term| (1..NUMBER_END).contains(&index.0) && term > Term(0) && term <= message.term;
    let fits = message.archive.as_ref().is_some_and(|archive| fits(archive.index, archive.term));
    (!fits).then_some("it names no archive of this cluster's log")
}

fn context(entries: &[LogEntry]) -> Option<&'static str> {
    let fits = |data: &[u8]| (1..=MAX_CONTEXT).contains(&data.len());
    (!matches!(entries, [one] if fits(&one.data))).then_some("it does not say which round it is of")
}

/// The membership is changed by the leader alone, and empty entries are its own.
fn proposals(entries: &[LogEntry]) -> Option<&'static str> {
    let fits = |entry: &LogEntry| {
        entry.kind == EntryKind::Normal && !entry.data.is_empty() && entry.data.len() <= MAX_ENTRY_BYTES
    };
    (entries.is_empty() || !entries.iter().all(fits)).then_some("what it proposes is no command")
}
