//! What this member's clients propose, and what other members send it to propose.
//!
//! A proposal is in one place at a time: *parked* here while nobody is known who could take it, handed to raft, or on its
//! way to the leader in a message that is sent once (`forward` has the argument why it is appended at most once). From
//! raft and from the way nothing comes back but the applied entry, or the leader's word that it did not take it. Then, and
//! while leadership is being handed over here, the proposal is parked and made again: its client need not know of the
//! change of leader.
//!
//! *Bounds.* As many are parked as may be in flight, and as long as a client waits.

use std::collections::VecDeque;

use bytes::Bytes;
use conclave_proto::conclave::raft::v1 as entry;
use prost::Message as _;

use super::{
    drive::Proposal,
    forward::{Fate, Intake, Seen},
    log::{EntryKind, LogEntry},
    mailbox::{MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, Ticket},
    message::{Aside, Forward, Message, MessageKind},
};
use crate::{
    error::Error,
    types::{LogIndex, MemberId, Term},
};

/// A message with proposals is about as large as one with entries at most, unless one proposal is larger.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// After a leader refused, it is asked again only so much later, unless another one leads: a hand-over that fails is
/// given up after an election timeout. Raft's heartbeat interval.
const HOLD_MS: u64 = 100;

#[derive(Debug)]
struct Parked {
    proposal: Proposal,
    since_ms: u64,
}

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Proposals {
    member: MemberId,
    boot: u64,
    life: u64,
    timeout_ms: u64,
    parked: VecDeque<Parked>,
    parked_bytes: usize,
    /// The leader of this term refused; it is left in peace until then.
    held: Option<(Term, u64)>,
    /// Number of the last message with proposals of this life.
    number: u64,
    /// Messages that came back.
    came_back: Seen,
    intake: Intake,
}

/// Who can take proposals now.
#[derive(Clone, Copy, Debug)]
pub(super) enum Road {
    /// Nobody is known.
    None,
    /// This member, as leader.
    Here,
    /// The leader of the term.
    To(MemberId, Term),
}

type Rejected = Vec<(Ticket, Error)>;

impl Proposals {
    pub(super) fn new(member: MemberId, boot: u64, life: u64, timeout_ms: u64) -> Self {
        Self {
            member,
            boot,
            life,
            timeout_ms,
            parked: VecDeque::new(),
            parked_bytes: 0,
            held: None,
            number: 0,
            came_back: Seen::default(),
            intake: Intake::default(),
        }
    }

    /// This member leads in the term.
    pub(super) fn lead(&mut self, term: Term) {
        self.intake.lead(term);
    }

    /// What can be made now: those that waited, and these behind them. What cannot is parked.
    pub(super) fn ready(
        &mut self,
        now_ms: u64,
        road: Road,
        term: Term,
        fresh: Vec<Proposal>,
        rejected: &mut Rejected,
    ) -> Vec<Proposal> {
        if self.held.is_some_and(|(held, until_ms)| held != term || now_ms >= until_ms) {
            self.held = None;
        }
        self.give_up(now_ms, rejected);
        if matches!(road, Road::None) || self.held.is_some() {
            self.park(now_ms, fresh, rejected);
            return Vec::new();
        }
        if self.parked.is_empty() {
            return fresh;
        }
        self.parked_bytes = 0;
        self.parked.drain(..).map(|parked| parked.proposal).chain(fresh).collect()
    }

    /// Proposals that nobody was there to take for as long as a client waits are not made at all.
    fn give_up(&mut self, now_ms: u64, rejected: &mut Rejected) {
        while let Some(parked) = self.parked.front()
            && now_ms >= parked.since_ms + self.timeout_ms
        {
            self.parked_bytes -= parked.proposal.data.len();
            rejected.push((parked.proposal.ticket, Error::ContextDeadlineExceeded));
            self.parked.pop_front();
        }
    }

    /// These can be made later: nobody has taken them.
    pub(super) fn park(&mut self, now_ms: u64, proposals: Vec<Proposal>, rejected: &mut Rejected) {
        for proposal in proposals {
            if self.parked.len() < MAX_IN_FLIGHT && self.parked_bytes < MAX_IN_FLIGHT_BYTES {
                self.parked_bytes += proposal.data.len();
                self.parked.push_back(Parked { proposal, since_ms: now_ms });
            } else {
                rejected.push((proposal.ticket, Error::RequestTooManyRequests));
            }
        }
    }

    /// The messages that take proposals to the leader of the term: each is sent once.
    pub(super) fn forward(&mut self, to: MemberId, term: Term, proposals: Vec<Proposal>, send: &mut Vec<Message>) {
        let mut bytes = 0;
        let mut entries = Vec::new();
        for Proposal { data, .. } in proposals {
            if bytes + data.len() > MAX_MESSAGE_BYTES && !entries.is_empty() {
                bytes = 0;
                send.push(self.message(to, term, std::mem::take(&mut entries)));
            }
            bytes += data.len();
            entries.push(unplaced(data));
        }
        if !entries.is_empty() {
            send.push(self.message(to, term, entries));
        }
    }

    fn message(&mut self, to: MemberId, term: Term, entries: Vec<LogEntry>) -> Message {
        self.number += 1;
        let forward = Forward { life: self.life, number: self.number };
        let message = Message::new(MessageKind::Propose, self.member, to, term);
        Message { entries, ..message }.with(Aside::Forward(forward))
    }

    /// Judges a message with proposals of another member. `leads_in`: the term in which this member leads.
    pub(super) fn judge(&mut self, message: &Message, leads_in: Option<Term>) -> Fate {
        // What cannot be decoded would stop every member that applies it, so it is not taken from anybody.
        let readable = |entry: &LogEntry| {
            entry::Entry::decode(entry.data.clone())
                .is_ok_and(|entry| entry.header.is_some() && entry.command.is_some())
        };
        if !message.entries.iter().all(readable) {
            return Fate::Drop;
        }
        let Some(forward) = message.forward() else { return Fate::Drop };
        self.intake.judge(message.from, message.term, forward, leads_in == Some(message.term))
    }

    /// A leader did not take these proposals of ours. Those for which somebody may wait are made again, once; unless it
    /// had too much to do (`reject`).
    pub(super) fn refused(&mut self, now_ms: u64, message: Message, term: Term, rejected: &mut Rejected) {
        let Some(Forward { life, number }) = message.forward() else { return };
        if life != self.life || number > self.number || !self.came_back.mark(number) {
            return;
        }
        let ours = |entry: LogEntry| {
            let id = entry::Entry::decode(entry.data.clone()).ok()?.header?.request_id?;
            let ours = id.member == self.member.0 && id.boot == self.boot;
            ours.then_some(Proposal { ticket: Ticket(id.sequence), data: entry.data })
        };
        let proposals: Vec<_> = message.entries.into_iter().filter_map(ours).collect();
        if message.reject {
            rejected.extend(proposals.into_iter().map(|one| (one.ticket, Error::RequestTooManyRequests)));
            return;
        }
        if message.term == term {
            self.held = Some((term, now_ms + HOLD_MS));
        }
        self.park(now_ms, proposals, rejected);
    }
}

/// The answer to a message of which nothing was taken. `overloaded`: there was too much to do for it.
pub(super) fn refusal(message: Message, overloaded: bool) -> Message {
    Message {
        entries: message.entries,
        aside: message.aside,
        reject: overloaded,
        ..Message::new(MessageKind::ProposeRefused, message.to, message.from, message.term)
    }
}

/// A proposal has no place in the log yet.
fn unplaced(data: Bytes) -> LogEntry {
    LogEntry { index: LogIndex(0), term: Term(0), kind: EntryKind::Normal, data }
}
