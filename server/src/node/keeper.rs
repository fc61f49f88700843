//! The leader's lease keeper: the pure clockwork of `lease` under a lock, fed by apply, looked at by the raft thread.
//!
//! It is promoted and fed by the apply thread only, in the order of the log: what it holds is the table as of the applied
//! index, so a lease is known before its grant is answered, and none is forgotten between the table that a new leader
//! reads and the first grant of its term. Expiry is proposed in the leader's own term and counts in no other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use conclave_proto::conclave::raft::v1::{LeaseRevoke, command};

use super::asks::fresh_ms;
use crate::{
    error::Error,
    lease::{self, Expiry},
    mvcc::ReadView,
    state::LeaseEffect,
    types::{LeaseId, LogIndex, Term},
};

/// How often leases that ran out are looked for. etcd looks every 500 ms; a lease lives at most this much too long.
pub(super) const LOOK_MS: u64 = 100;
/// etcd revokes at most 1,000 leases a second.
const MAX_REVOKES_A_LOOK: usize = 100;

#[derive(Debug, Default)]
struct Inner {
    expiry: Expiry,
    term: Option<Term>,
}

#[derive(Debug)]
/// See the top of this file.
pub struct Keeper {
    inner: Mutex<Inner>,
    /// What a new leader adds to each lease: clients could not renew while there was none.
    extend_ms: u64,
    /// What every lease gets beyond its TTL: an answer may be so old when its client hears it and begins to count.
    grace_ms: u64,
}

impl Keeper {
    /// `election_ms` is what a new leader adds to each lease.
    #[must_use]
    pub fn new(election_ms: u64) -> Self {
        Self { inner: Mutex::default(), extend_ms: election_ms, grace_ms: fresh_ms(election_ms) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This member leads, as of the view.
    pub fn promote(&self, term: Term, view: &ReadView, now_ms: u64) {
        let leases = lease::all(&view.view);
        let mut inner = self.lock();
        inner.expiry.promote(leases.into_iter(), now_ms, self.extend_ms, self.grace_ms);
        inner.term = Some(term);
    }

    /// This member does not lead.
    pub fn demote(&self) {
        let mut inner = self.lock();
        inner.expiry.demote();
        inner.term = None;
    }

    /// From apply, in order.
    pub fn follow(&self, effects: impl Iterator<Item = LeaseEffect>, now_ms: u64) {
        let mut inner = self.lock();
        for effect in effects {
            match effect {
                LeaseEffect::Granted { id, grant } => inner.expiry.granted(id, grant, now_ms),
                LeaseEffect::Revoked { id } => inner.expiry.revoked(id),
            }
        }
    }

    /// Runs on the clockwork of the leader in `term`; anybody else has none.
    ///
    /// # Errors
    /// `NotLeader`.
    pub fn with<R>(&self, term: Term, look: impl FnOnce(&mut Expiry) -> R) -> Result<R, Error> {
        let mut inner = self.lock();
        if inner.term != Some(term) {
            return Err(Error::NotLeader);
        }
        Ok(look(&mut inner.expiry))
    }

    /// Commands that revoke what ran out, bounded; the rest comes with the next look.
    pub fn expired(&self, term: Term, now_ms: u64) -> Vec<command::Kind> {
        let expired = self.with(term, |expiry| expiry.take_expired(now_ms, MAX_REVOKES_A_LOOK));
        let revoke = |(LeaseId(id), LogIndex(granted_index))| {
            command::Kind::LeaseRevoke(LeaseRevoke { id, expired: true, granted_index })
        };
        expired.unwrap_or_default().into_iter().map(revoke).collect()
    }
}
