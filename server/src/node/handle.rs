//! The only async door to a member.
//!
//! *Why a local read is linearizable.* While this member is the sole voter and leads, [`Handle::linearizable`] takes the
//! published view without asking anyone. Let a write be acknowledged before the read began. If this member acknowledged
//! it, apply published a view that holds it before the answer left, and views only advance. If another member did, that
//! member led, in a term for which a majority of some configuration voted; a configuration with more voters than this
//! one was committed by this member alone and applied here at the latest when it granted its vote, and the raft thread
//! closes this door before a vote leaves. If it was acknowledged before this member started, it is in the log below the
//! first entry of the present term, and the door opens only once that entry is applied. Otherwise reads share a
//! ReadIndex round, and wait for its index to be applied.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use conclave_proto::conclave::raft::v1::command;
use prost::Message as _;

use super::{
    Answer, Stats, Status,
    drive::TICK_MS,
    encode, lease_desk,
    mailbox::{Carrier, Mailbox, Outcome, Ticket},
    message::LeaseTime,
    queue::Queue,
    raft_thread::Event,
    shared::Shared,
};
use crate::{
    engine::{Engine, Size},
    error::Error,
    members,
    mvcc::{Published, ReadView},
    types::{LeaseId, MemberId},
    watch::Inbox,
};

/// What a request id, terms and clock add to a command at most, with room to spare.
const HEADER_BYTES: usize = 128;

/// Time limits and sizes of what clients propose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_request_bytes: usize,
    pub(super) proposal_timeout_ms: u64,
    pub(super) election_ms: u64,
}

/// One per api runtime: it owns that runtime's mailbox of answers. Clones share it.
#[derive(Clone)]
pub struct Handle {
    mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
    events: Arc<Queue<Event>>,
    engine: Engine,
    limits: Limits,
}

impl Handle {
    /// A handle for the runtime that calls, and the task that it needs there.
    pub(super) fn open(
        shared: &Arc<Shared>,
        events: &Arc<Queue<Event>>,
        engine: &Engine,
        limits: Limits,
    ) -> Option<(Self, Carrier)> {
        let mailbox = shared.open_mailbox()?;
        let clock = Arc::clone(shared);
        let now_ms = Arc::new(move || clock.now_ms());
        let carrier = Carrier::new(Arc::clone(&mailbox), Arc::clone(events), now_ms);
        let handle =
            Self { mailbox, shared: Arc::clone(shared), events: Arc::clone(events), engine: engine.clone(), limits };
        Some((handle, carrier))
    }

    fn deadline_ms(&self) -> u64 {
        self.shared.coarse_ms() + self.limits.proposal_timeout_ms
    }

    /// Proposes and waits for the outcome. `idempotency`: empty, or the client's key.
    ///
    /// # Errors
    /// An outcome of the command; or `RequestTooLarge`, `RequestTooManyRequests`, `ContextDeadlineExceeded` and `Stopped`,
    /// after which nothing was proposed; or one of the time-outs, after which nobody knows.
    pub async fn propose(&self, command: command::Kind, idempotency: Bytes) -> Result<Answer, Error> {
        let shared = &self.shared;
        if shared.is_stopping() {
            return Err(Error::Stopped);
        }
        if shared.apply_trails_by() > super::mailbox::MAX_IN_FLIGHT as u64 {
            return Err(Error::RequestTooManyRequests);
        }
        let mut entry = encode::entry(shared.identity, Ticket(0), shared.term(), idempotency, command);
        let size = entry.encoded_len();
        if size > self.limits.max_request_bytes + HEADER_BYTES {
            return Err(Error::RequestTooLarge);
        }
        let began_ms = shared.coarse_ms();
        let waiting = self.mailbox.propose(size, self.deadline_ms(), |ticket| {
            let header = entry.header.as_mut().expect("encode::entry makes a header");
            header.request_id.as_mut().expect("encode::entry makes a request id").sequence = ticket.0;
            Bytes::from(entry.encode_to_vec())
        })?;
        match waiting.await {
            Outcome::Answer(Err(Error::Timeout)) => {
                Stats::add(&shared.stats.proposals_failed, 1);
                Err(shared.why_late(began_ms, self.limits.election_ms))
            }
            Outcome::Answer(answer) => answer,
            Outcome::Read(_) | Outcome::Lease(_) => unreachable!("a slot of a proposal gets an answer"),
        }
    }

    /// A view that holds everything that was acknowledged before the call. See the top of this file.
    ///
    /// # Errors
    /// `Timeout` if no leader confirmed itself in time; `RequestTooManyRequests`, `Stopped`.
    pub async fn linearizable(&self) -> Result<Arc<ReadView>, Error> {
        if !self.shared.reads_are_local() {
            self.round().await?;
        }
        Ok(self.read_view())
    }

    /// One shared ReadIndex round.
    async fn round(&self) -> Result<(), Error> {
        if self.shared.is_stopping() {
            return Err(Error::Stopped);
        }
        match self.mailbox.read(self.deadline_ms())?.await {
            Outcome::Read(outcome) => outcome,
            Outcome::Answer(_) | Outcome::Lease(_) => unreachable!("a slot of a read gets no answer"),
        }
    }

    /// Where the newest view stands, for reads that end on another thread.
    #[must_use]
    pub fn published(&self) -> &Published {
        &self.shared.published
    }

    /// The newest view, without asking anyone.
    #[must_use]
    pub fn read_view(&self) -> Arc<ReadView> {
        self.shared.published.load_full()
    }

    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Proposals that were made and not answered.
    #[must_use]
    pub fn proposals_pending(&self) -> usize {
        self.shared.in_flight.proposals()
    }

    /// Bytes of the store.
    #[must_use]
    pub fn size(&self) -> Size {
        self.engine.size()
    }

    #[must_use]
    pub fn watch_inbox(&self) -> &Inbox {
        &self.shared.inbox
    }

    /// Hands leadership to the voter, and comes back when it leads.
    ///
    /// # Errors
    /// `NotLeader`; `BadLeaderTransferee` if it is no voter of the cluster; `TimeoutLeaderTransfer` if it does not lead
    /// when raft has given up.
    pub async fn move_leader(&self, to: MemberId) -> Result<(), Error> {
        let status = self.status();
        if status.leader != Some(status.member) {
            return Err(Error::NotLeader);
        }
        if members::get(&self.read_view().view, to).is_none_or(|member| member.learner) {
            return Err(Error::BadLeaderTransferee);
        }
        if to == status.member {
            return Ok(());
        }
        self.events.push(Event::TransferLeader(to));
        // Raft gives up after an election timeout; as much again is for the news of the new leader to come.
        let until_ms = self.shared.now_ms() + 2 * self.limits.election_ms;
        while self.status().leader != Some(to) {
            if self.shared.now_ms() >= until_ms {
                return Err(Error::TimeoutLeaderTransfer);
            }
            tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
        }
        Ok(())
    }

    /// Renews; the TTL in ms, none: no such lease.
    ///
    /// # Errors
    /// `NoLeader` or `Timeout` if no leader confirmed itself in time; `RequestTooManyRequests`, `Stopped`.
    pub async fn lease_renew(&self, id: LeaseId) -> Result<Option<i64>, Error> {
        Ok(self.lease(id, true).await?.map(|lease| lease.granted_ms))
    }

    /// None: no such lease.
    ///
    /// # Errors
    /// As for [`Handle::lease_renew`].
    pub async fn lease_remaining(&self, id: LeaseId) -> Result<Option<LeaseTime>, Error> {
        self.lease(id, false).await
    }

    /// By remaining time, if this member leads; who does not lead does not know it.
    #[must_use]
    pub fn leases_by_time(&self) -> Option<Vec<LeaseId>> {
        self.shared.keeper.with(self.shared.term(), |expiry| expiry.list()).ok()
    }

    async fn lease(&self, id: LeaseId, renew: bool) -> Result<Option<LeaseTime>, Error> {
        let shared = &self.shared;
        if shared.is_stopping() {
            return Err(Error::Stopped);
        }
        // The sole voter needs nobody to confirm that it leads.
        if shared.reads_are_local() {
            let now_ms = shared.now_ms();
            let found = shared.keeper.with(shared.term(), |expiry| {
                if renew {
                    expiry.renew(id, now_ms);
                }
                lease_desk::look(expiry, id, renew, now_ms)
            });
            if found.is_ok() {
                return found;
            }
        }
        match self.mailbox.ask(id, renew, self.deadline_ms())?.await {
            Outcome::Lease(Err(Error::Timeout)) if !shared.has_leader() => Err(Error::NoLeader),
            Outcome::Lease(outcome) => outcome,
            Outcome::Answer(_) | Outcome::Read(_) => unreachable!("a slot of a question gets what is known of a lease"),
        }
    }
}
