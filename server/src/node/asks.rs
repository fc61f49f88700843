//! Questions about leases on their way to the leader, which alone keeps the time.
//!
//! Unlike a proposal a question may be asked twice: a renewal only moves a deadline later. So it is asked again when
//! another leader is known, and when no answer came in time. An answer counts only if it came soon after its question:
//! the deadline was moved some time in between, and the client counts from when it hears of it. `lease::Expiry` gives
//! renewed leases this time on top ([`fresh_ms`]), so that no lease runs out earlier than its client was told.
//!
//! *Bounds.* Each waits in a slot of a mailbox; it is forgotten when its handler is told that its time is over.

use std::collections::BTreeMap;

use super::{
    core::MAX_ASKS,
    mailbox::Ticket,
    message::{LeaseAnswer, LeaseAsk, LeaseTime},
};
use crate::types::{MemberId, Term};

/// How old an answer may be, and after which silence it is asked again: half an election timeout, which is long for a
/// network over which leaders can be elected, and what a new leader gives every lease on top is twice as much.
#[must_use]
pub fn fresh_ms(election_ms: u64) -> u64 {
    election_ms / 2
}

#[derive(Debug)]
struct Waiting {
    ask: LeaseAsk,
    since_ms: u64,
    /// When it was asked last, and whom.
    asked: Option<(u64, (MemberId, Term))>,
}

/// The questions of this member's handlers.
#[derive(Debug)]
pub(super) struct Asks {
    timeout_ms: u64,
    fresh_ms: u64,
    waiting: BTreeMap<Ticket, Waiting>,
    /// Nothing is to be asked again before.
    look_ms: u64,
    leader: Option<(MemberId, Term)>,
}

impl Asks {
    pub(super) fn new(timeout_ms: u64, fresh_ms: u64) -> Self {
        Self { timeout_ms, fresh_ms, waiting: BTreeMap::new(), look_ms: 0, leader: None }
    }

    pub(super) fn add(&mut self, now_ms: u64, asks: Vec<LeaseAsk>) {
        for ask in asks {
            self.waiting.insert(ask.ticket, Waiting { ask, since_ms: now_ms, asked: None });
            self.look_ms = 0;
        }
    }

    /// What is to be asked now, and whom.
    pub(super) fn due(&mut self, now_ms: u64, leader: Option<(MemberId, Term)>) -> Option<(MemberId, Vec<LeaseAsk>)> {
        if leader != self.leader {
            self.leader = leader;
            self.look_ms = 0;
        }
        if now_ms < self.look_ms || self.waiting.is_empty() {
            return None;
        }
        let timeout_ms = self.timeout_ms;
        self.waiting.retain(|_, waiting| now_ms < waiting.since_ms + timeout_ms);
        self.look_ms = now_ms + self.fresh_ms;
        let to = leader?;
        let mut due = Vec::new();
        for waiting in self.waiting.values_mut() {
            let again_ms = match waiting.asked {
                Some((asked_ms, asked)) if asked == to => asked_ms + self.fresh_ms,
                _ => now_ms,
            };
            if again_ms > now_ms {
                self.look_ms = self.look_ms.min(again_ms);
            } else if due.len() == MAX_ASKS {
                self.look_ms = now_ms;
                break;
            } else {
                waiting.asked = Some((now_ms, to));
                due.push(waiting.ask);
            }
        }
        (!due.is_empty()).then_some((to.0, due))
    }

    /// What the leader said, for the handlers that still wait.
    pub(super) fn answered(
        &mut self,
        now_ms: u64,
        answers: &[LeaseAnswer],
        out: &mut Vec<(Ticket, Option<LeaseTime>)>,
    ) {
        for &LeaseAnswer { ticket, lease } in answers {
            let Some(waiting) = self.waiting.get_mut(&ticket) else { continue };
            let is_fresh = waiting.asked.is_some_and(|(asked_ms, _)| now_ms <= asked_ms + self.fresh_ms);
            if is_fresh {
                self.waiting.remove(&ticket);
                out.push((ticket, lease));
            } else {
                waiting.asked = None;
                self.look_ms = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaseId;

    fn ask(ticket: u64) -> LeaseAsk {
        LeaseAsk { ticket: Ticket(ticket), id: LeaseId(7), renew: true }
    }

    fn answer(ticket: u64) -> LeaseAnswer {
        LeaseAnswer { ticket: Ticket(ticket), lease: Some(LeaseTime { remaining_ms: 5, granted_ms: 6 }) }
    }

    fn tickets(due: Option<(MemberId, Vec<LeaseAsk>)>) -> Vec<(u64, u64)> {
        let Some((to, asks)) = due else { return Vec::new() };
        asks.into_iter().map(|ask| (to.0, ask.ticket.0)).collect()
    }

    fn answered(asks: &mut Asks, now_ms: u64, ticket: u64) -> usize {
        let mut out = Vec::new();
        asks.answered(now_ms, &[answer(ticket)], &mut out);
        out.len()
    }

    const ONE: Option<(MemberId, Term)> = Some((MemberId(1), Term(1)));

    #[test]
    fn a_question_is_asked_again_of_a_new_leader_and_after_a_silence() {
        let mut asks = Asks::new(7_000, 500);
        asks.add(0, vec![ask(1)]);
        assert_eq!(tickets(asks.due(0, None)), [], "nobody to ask");
        assert_eq!(tickets(asks.due(1, ONE)), [(1, 1)]);
        asks.add(2, vec![ask(2)]);
        assert_eq!(tickets(asks.due(2, ONE)), [(1, 2)]);
        assert_eq!(tickets(asks.due(500, ONE)), []);
        assert_eq!(tickets(asks.due(501, ONE)), [(1, 1)]);
        assert_eq!(tickets(asks.due(502, ONE)), [(1, 2)]);
        let two = Some((MemberId(2), Term(2)));
        assert_eq!(tickets(asks.due(503, two)), [(2, 1), (2, 2)]);
        assert_eq!(answered(&mut asks, 510, 2), 1);
        assert_eq!(answered(&mut asks, 510, 2), 0, "a repeat of the answer");
        assert_eq!(tickets(asks.due(7_001, two)), [], "its handler was told that its time is over");
        assert!(asks.waiting.is_empty());
    }

    #[test]
    fn an_old_answer_does_not_count() {
        let mut asks = Asks::new(7_000, 500);
        asks.add(0, vec![ask(1)]);
        assert_eq!(tickets(asks.due(0, ONE)), [(1, 1)]);
        assert_eq!(answered(&mut asks, 501, 1), 0);
        assert_eq!(tickets(asks.due(501, ONE)), [(1, 1)], "asked again at once");
        assert_eq!(answered(&mut asks, 1_001, 1), 1);
    }

    #[test]
    fn a_message_holds_so_many_and_the_rest_follows() {
        let mut asks = Asks::new(7_000, 500);
        let count = MAX_ASKS as u64 + 3;
        asks.add(0, (1..=count).map(ask).collect());
        assert_eq!(tickets(asks.due(0, ONE)).len(), MAX_ASKS);
        assert_eq!(tickets(asks.due(0, ONE)).len(), 3);
        assert_eq!(tickets(asks.due(0, ONE)).len(), 0);
    }
}
