//! ReadIndex rounds (Raft thesis 6.4): reads that wait share one proof that the leader still leads.
//!
//! At most one round is under way. A read that arrives meanwhile waits for the next one: the proof of a round that
//! began before the read says nothing about what was acknowledged in between. Raft drops a request silently when no
//! leader is known or the leader has not committed in its term, so a round that got no answer is begun again, under a
//! fresh context: an answer to the old one may be older than a read that joined since.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Ticket;
use crate::types::{LogIndex, MemberId};

/// etcd's interval (`readIndexRetryTime`): long enough not to add to an overload, short against the 7 s a client waits.
const RETRY_MS: u64 = 500;

/// Reads that came at one time.
#[derive(Debug)]
struct Group {
    since_ms: u64,
    tickets: Vec<Ticket>,
}

#[derive(Debug)]
struct Round {
    sequence: u64,
    groups: VecDeque<Group>,
    began_ms: u64,
}

/// The reads of this member that wait for a read index. Bounded by the slots of the mailboxes: who waited for as long as
/// a client does has been told, its slot is free, and it is forgotten here too.
#[derive(Debug)]
pub(super) struct Reads {
    member: MemberId,
    boot: u64,
    timeout_ms: u64,
    last_sequence: u64,
    /// Oldest first.
    waiting: VecDeque<Group>,
    round: Option<Round>,
    len: usize,
}

impl Reads {
    pub(super) fn new(member: MemberId, boot: u64, timeout_ms: u64) -> Self {
        Self { member, boot, timeout_ms, last_sequence: 0, waiting: VecDeque::new(), round: None, len: 0 }
    }

    pub(super) fn add(&mut self, now_ms: u64, tickets: Vec<Ticket>) {
        if tickets.is_empty() {
            return;
        }
        self.len += tickets.len();
        match self.waiting.back_mut() {
            Some(group) if group.since_ms == now_ms => group.tickets.extend(tickets),
            _ => self.waiting.push_back(Group { since_ms: now_ms, tickets }),
        }
    }

    /// Reads that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The context to ask raft with, if a round should begin now. `again`: something changed that may have dropped the
    /// round under way (another leader, or its first commit), so it is not worth waiting for.
    pub(super) fn begin(&mut self, now_ms: u64, again: bool, lapsed: &mut Vec<Ticket>) -> Option<Vec<u8>> {
        if let Some(round) = &mut self.round {
            if !again && now_ms < round.began_ms + RETRY_MS {
                return None;
            }
            round.groups.append(&mut self.waiting);
            std::mem::swap(&mut round.groups, &mut self.waiting);
            self.round = None;
        }
        while let Some(group) = self.waiting.front_mut()
            && now_ms >= group.since_ms + self.timeout_ms
        {
            self.len -= group.tickets.len();
            lapsed.append(&mut group.tickets);
            self.waiting.pop_front();
        }
        if self.waiting.is_empty() {
            return None;
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        self.round = Some(Round { sequence, groups: std::mem::take(&mut self.waiting), began_ms: now_ms });
        Some(self.context(sequence))
    }

    /// The reads that a state with this context lets go, once `index` is applied. None: an answer to an older round.
    pub(super) fn confirmed(&mut self, context: &Bytes, index: LogIndex) -> Option<(LogIndex, Vec<Ticket>)> {
        let round = self.round.take_if(|round| context[..] == encode(self.member, self.boot, round.sequence))?;
        let mut groups = round.groups.into_iter().map(|group| group.tickets);
        let mut tickets = groups.next().unwrap_or_default();
        groups.for_each(|more| tickets.extend(more));
        self.len -= tickets.len();
        Some((index, tickets))
    }

    fn context(&self, sequence: u64) -> Vec<u8> {
        encode(self.member, self.boot, sequence).to_vec()
    }
}

/// Unique over the life of the cluster: a leader keeps rounds of all members in one table.
fn encode(member: MemberId, boot: u64, sequence: u64) -> [u8; 24] {
    let mut out = [0; 24];
    out[..8].copy_from_slice(&member.0.to_be_bytes());
    out[8..16].copy_from_slice(&boot.to_be_bytes());
    out[16..].copy_from_slice(&sequence.to_be_bytes());
    out
}
