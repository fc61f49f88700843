//! The raft thread: takes everything that waits, drives raft once, carries out what it wants, looks again.
//!
//! It blocks on nothing but its one queue, with the next tick as the deadline. Disk, apply and peers have threads of
//! their own, so a heartbeat waits for none of them. The queue holds at most one batch of proposals and one of reads for
//! each turn of a runtime (their number is bounded by the mailboxes' slots), one report for each sync, and as many
//! messages as [`MAX_MESSAGES`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    apply_thread::ApplyItem,
    archives::Outgoing,
    drive::{Driver, Effects, Input, Persist, Proposal, TICK_MS},
    encode,
    keeper::LOOK_MS,
    lease_desk::Told,
    log::{LogIo, Persisted},
    mailbox::{Outcome, Ticket},
    message::{LeaseAsk, Message, MessageKind},
    publish::Publisher,
    queue::{Queue, Taken},
    shared::{Shared, Sorted},
    stats::Stats,
    transport::Transport,
};
use crate::{
    snapshot::ArchiveMeta,
    types::{LogIndex, MemberId},
};

/// Messages from peers that wait for raft; more are dropped, and raft sends again. At 1 MiB a message the peers' own
/// windows stop far below this.
pub(super) const MAX_MESSAGES: usize = 4_096;

/// After a pause (a stopped process, a starved machine) not all missed ticks are made up for: messages that waited
/// must be seen before an election timeout that nobody lived through runs out. Some of them are in sockets still when
/// the clock goes on, so it goes on by no more than a quarter of an election timeout, and by so much at most.
const MAX_TICKS: u64 = 5;

/// A leader that sends heartbeats this many intervals apart is too busy to keep its followers (etcd counts and says so).
const LATE_HEARTBEATS: u64 = 2;

/// Messages that no correct member sends are logged at most so often.
const REFUSED_LOG_MS: u64 = 1_000;

/// How often waiters are looked through for those whose time is over; a client waits 7 s, so half a second is little.
const SWEEP_MS: u64 = 500;

/// All that can wake the raft thread.
#[derive(Debug)]
pub(super) enum Event {
    Propose(Vec<Proposal>),
    Read(Vec<Ticket>),
    Persisted(Persisted),
    Message(Message),
    AskLeases(Vec<LeaseAsk>),
    Told(Vec<Told>),
    TransferLeader(MemberId),
    Abdicate,
    Unreachable(MemberId),
    ArchiveStaged(Message),
    ArchiveOffered { to: MemberId, archive: ArchiveMeta },
    ArchiveSent { to: MemberId, ok: bool },
    PeerOffers { member: MemberId, last: LogIndex },
}

pub(super) struct RaftThread<Io: LogIo> {
    pub(super) driver: Driver<Io>,
    pub(super) shared: Arc<Shared>,
    pub(super) events: Arc<Queue<Event>>,
    pub(super) log: Arc<Queue<Persist>>,
    pub(super) apply: Arc<Queue<ApplyItem>>,
    pub(super) transport: Transport,
    /// Carries archives to followers.
    pub(super) carrier: Arc<Queue<Outgoing>>,
    pub(super) publisher: Publisher,
    pub(super) sorted: Sorted,
    pub(super) clock: Clock,
}

/// When the periodic work is due.
#[derive(Debug)]
pub(super) struct Clock {
    next_tick: Instant,
    next_look_ms: u64,
    next_sweep_ms: u64,
    next_refused_log_ms: u64,
    heartbeat_ms: u64,
    /// When this leader last sent heartbeats.
    beat_ms: Option<u64>,
    max_ticks: u64,
    applied: LogIndex,
    was_leading: bool,
    leader: Option<MemberId>,
}

impl Clock {
    pub(super) fn new(applied: LogIndex, heartbeat_ms: u64, election_ms: u64) -> Self {
        Self {
            next_tick: Instant::now() + Duration::from_millis(TICK_MS),
            next_look_ms: 0,
            next_sweep_ms: 0,
            next_refused_log_ms: 0,
            heartbeat_ms,
            beat_ms: None,
            max_ticks: (election_ms / TICK_MS / 4).clamp(1, MAX_TICKS),
            applied,
            was_leading: false,
            leader: None,
        }
    }

    /// Ticks that are due.
    fn ticks(&mut self) -> u64 {
        let now = Instant::now();
        let tick = Duration::from_millis(TICK_MS);
        let mut ticks = 0;
        while self.next_tick <= now && ticks < self.max_ticks {
            self.next_tick += tick;
            ticks += 1;
        }
        if self.next_tick <= now {
            self.next_tick = now + tick;
        }
        ticks
    }
}

impl<Io: LogIo> RaftThread<Io> {
    /// Runs until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut events = Vec::new();
        let mut more = true;
        loop {
            let wait = if more { Duration::ZERO } else { self.clock.next_tick - Instant::now() };
            if self.events.take(&mut events, Some(wait)) == Taken::Closed {
                break;
            }
            let now_ms = self.shared.now_ms();
            let mut inputs = Vec::with_capacity(events.len() + 3);
            inputs.extend(events.drain(..).map(input));
            self.periodic(now_ms, &mut inputs);
            let applied = self.shared.applied();
            if applied > self.clock.applied {
                self.clock.applied = applied;
                inputs.push(Input::Applied(applied));
            }
            let mut effects = self.driver.drive(now_ms, inputs);
            more = effects.more;
            self.carry_out_archives(now_ms, &mut effects);
            self.carry_out(now_ms, effects);
        }
        self.log.close();
    }

    fn periodic(&mut self, now_ms: u64, inputs: &mut Vec<Input>) {
        let ticks = self.clock.ticks();
        if ticks == 0 {
            return;
        }
        inputs.extend((0..ticks).map(|_| Input::Tick));
        self.shared.set_coarse_ms(now_ms);
        if now_ms >= self.clock.next_look_ms {
            self.clock.next_look_ms = now_ms + LOOK_MS;
            self.own_proposals(now_ms, inputs);
            self.look_after_archives(now_ms, inputs);
        }
        if now_ms >= self.clock.next_sweep_ms {
            self.clock.next_sweep_ms = now_ms + SWEEP_MS;
            self.shared.sweep();
        }
    }

    /// What the member proposes itself: leases that ran out, and its own name and URLs.
    fn own_proposals(&mut self, now_ms: u64, inputs: &mut Vec<Input>) {
        let term = self.driver.standing().term;
        let encode = |command| encode::encode(self.shared.identity, Ticket(0), term, Default::default(), command);
        if self.driver.standing().leading {
            let expired: Vec<_> = self.shared.keeper.expired(term, now_ms).into_iter().map(encode).collect();
            if !expired.is_empty() {
                Stats::add(&self.shared.stats.leases_expired, expired.len() as u64);
                inputs.push(Input::ProposeAsLeader(expired));
            }
        }
        if self.driver.standing().leader.is_some()
            && let Some(command) = self.publisher.due(now_ms, &self.shared.published)
        {
            inputs.push(Input::Propose(vec![Proposal { ticket: Ticket(0), data: encode(command) }]));
        }
    }

    /// In the order that `drive` demands.
    fn carry_out(&mut self, now_ms: u64, effects: Effects) {
        self.follow_leadership(now_ms, &effects);
        if !effects.asked.is_empty() {
            self.shared.desk.take(&self.shared.keeper, effects.standing.term, now_ms, effects.asked);
        }
        self.mind_heartbeats(now_ms, &effects.send);
        self.transport.send(effects.send);
        if let Some(persist) = effects.persist {
            self.log.push(persist);
        }
        if !effects.committed.is_empty() {
            self.apply.push(ApplyItem::Entries(effects.committed));
        }
        if let Some(reads) = effects.reads {
            self.shared.confirm_reads(reads, &mut self.sorted);
        }
        if !effects.lapsed.is_empty() {
            Stats::add(&self.shared.stats.slow_reads, 1);
            self.shared.desk.forget(effects.lapsed);
        }
        if !effects.rejected.is_empty() {
            Stats::add(&self.shared.stats.proposals_failed, effects.rejected.len() as u64);
            let outcomes = effects.rejected.into_iter().map(|(ticket, error)| (ticket, Outcome::Answer(Err(error))));
            self.shared.deliver(outcomes, &mut self.sorted);
        }
        if !effects.told.is_empty() {
            let outcomes = effects.told.into_iter().map(|(ticket, lease)| (ticket, Outcome::Lease(Ok(lease))));
            self.shared.deliver(outcomes, &mut self.sorted);
        }
        if let Some((from, why)) = effects.refused.first() {
            Stats::add(&self.shared.stats.messages_refused, effects.refused.len() as u64);
            if now_ms >= self.clock.next_refused_log_ms {
                self.clock.next_refused_log_ms = now_ms + REFUSED_LOG_MS;
                tracing::warn!(target: "conclave", from = %format_args!("{:x}", from.0), why, "refused a message");
            }
        }
    }

    fn follow_leadership(&mut self, now_ms: u64, effects: &Effects) {
        let standing = effects.standing;
        self.shared.publish_standing(standing, effects.local_reads_from);
        self.shared.set_connected_since(effects.connected_since_ms);
        if standing.leader != self.clock.leader {
            self.clock.leader = standing.leader;
            self.shared.leader_changed(now_ms, standing.leader.is_some());
            if let Some(leader) = standing.leader {
                Stats::add(&self.shared.stats.leader_changes, 1);
                tracing::info!(target: "conclave", term = standing.term.0, leader = %format_args!("{:x}", leader.0), "leader");
            } else {
                tracing::warn!(target: "conclave", term = standing.term.0, "no leader");
            }
        }
        if standing.leading != self.clock.was_leading {
            self.clock.was_leading = standing.leading;
            // In front of the committed entries of the new term: they come with a later step.
            let item = if standing.leading { ApplyItem::Promoted(standing.term) } else { ApplyItem::Demoted };
            self.apply.push(item);
        }
    }

    fn mind_heartbeats(&mut self, now_ms: u64, send: &[Message]) {
        if !self.clock.was_leading {
            self.clock.beat_ms = None;
        } else if send.iter().any(|message| message.kind == MessageKind::Heartbeat) {
            let since_ms = now_ms - self.clock.beat_ms.replace(now_ms).unwrap_or(now_ms);
            if since_ms > LATE_HEARTBEATS * self.clock.heartbeat_ms {
                Stats::add(&self.shared.stats.late_heartbeats, 1);
                tracing::warn!(target: "conclave", since_ms, "this leader sent heartbeats late; it is overloaded");
            }
        }
    }
}

fn input(event: Event) -> Input {
    match event {
        Event::Propose(proposals) => Input::Propose(proposals),
        Event::Read(tickets) => Input::Read(tickets),
        Event::Persisted(persisted) => Input::Persisted(persisted),
        Event::Message(message) => Input::Message(message),
        Event::AskLeases(asks) => Input::AskLeases(asks),
        Event::Told(told) => Input::Told(told),
        Event::TransferLeader(to) => Input::TransferLeader(to),
        Event::Abdicate => Input::Abdicate,
        Event::Unreachable(member) => Input::Unreachable(member),
        Event::ArchiveStaged(message) => Input::ArchiveStaged(message),
        Event::ArchiveOffered { to, archive } => Input::ArchiveOffered { to, archive },
        Event::ArchiveSent { to, ok } => Input::ArchiveSent { to, ok },
        Event::PeerOffers { member, last } => Input::PeerOffers { member, last },
    }
}
