//! The leader's desk for questions about leases, its own handlers' and other members'.
//!
//! A renewal is answered in three steps, in this order (design.md, section 6):
//! 1. [`LeaseDesk::take`] moves the deadline, if this member's keeper keeps the time of the term;
//! 2. a ReadIndex round *that begins after it* proves that this member led at some time after that, and everything up to
//!    the round's index is applied;
//! 3. [`LeaseDesk::confirmed`] looks whether the keeper still keeps the time of the same term, and whether the lease is
//!    still there, and only then there is an answer.
//!
//! *Why.* A later leader was elected after step 1, so it gave the lease its full time, and more, from later on than the
//! renewal did. And who asks after a revocation was acknowledged is told of it, because the revocation is below the
//! round's index. What finds no answer is dropped: who asked asks again (`asks`).
//!
//! The round's reads carry tickets of a runtime that no mailbox has, so that they come back here.
//!
//! *Bounds.* [`MAX_PENDING`]; above it questions are dropped.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    keeper::Keeper,
    mailbox::Ticket,
    message::{LeaseAnswer, LeaseAsk, LeaseTime},
};
use crate::types::{LeaseId, MemberId, Term};

/// Questions under way, of all members: four times what the handlers of one runtime can ask.
const MAX_PENDING: usize = 1 << 16;

/// A question that has come to the leader of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub by: MemberId,
    pub ask: LeaseAsk,
}

/// An answer for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub to: MemberId,
    pub answer: LeaseAnswer,
}

#[derive(Debug)]
struct Pending {
    asked: Asked,
    term: Term,
}

/// See the top of this file.
#[derive(Debug, Default)]
pub struct LeaseDesk {
    pending: Mutex<BTreeMap<Ticket, Pending>>,
}

impl LeaseDesk {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Ticket, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves deadlines. Questions that came before this member's keeper keeps the time of the term are dropped.
    pub fn take(&self, keeper: &Keeper, term: Term, now_ms: u64, asked: Vec<(Ticket, Asked)>) {
        let mut pending = self.lock();
        for (ticket, asked) in asked {
            let taken = keeper.with(term, |expiry| {
                if asked.ask.renew {
                    expiry.renew(asked.ask.id, now_ms);
                }
            });
            if taken.is_ok() && pending.len() < MAX_PENDING {
                pending.insert(ticket, Pending { asked, term });
            }
        }
    }

    /// These rounds are done, and what they cover is applied.
    pub fn confirmed(&self, keeper: &Keeper, now_ms: u64, tickets: impl IntoIterator<Item = Ticket>) -> Vec<Told> {
        let mut pending = self.lock();
        let mut told = Vec::new();
        for ticket in tickets {
            let Some(Pending { asked, term }) = pending.remove(&ticket) else { continue };
            let LeaseAsk { ticket, id, renew } = asked.ask;
            let Ok(lease) = keeper.with(term, |expiry| look(expiry, id, renew, now_ms)) else { continue };
            told.push(Told { to: asked.by, answer: LeaseAnswer { ticket, lease } });
        }
        told
    }

    /// Their rounds came to nothing.
    pub fn forget(&self, tickets: impl IntoIterator<Item = Ticket>) {
        let mut pending = self.lock();
        for ticket in tickets {
            pending.remove(&ticket);
        }
    }
}

/// A lease that ran out is there no more for who renews it, and has no time left for who asks.
pub(super) fn look(expiry: &crate::lease::Expiry, id: LeaseId, renew: bool, now_ms: u64) -> Option<LeaseTime> {
    let (remaining_ms, granted_ms) = expiry.remaining(id, now_ms)?;
    (!renew || remaining_ms > 0).then_some(LeaseTime { remaining_ms, granted_ms })
}
