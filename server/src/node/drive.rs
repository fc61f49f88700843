//! One step of the member: what came in goes to raft, what raft wants done comes out. No thread, no clock, no disk.
//!
//! The raft thread and the simulator are the only callers, and all calls to [`super::core`] are in this file. What a
//! step wants done must be done in this order, and by construction cannot be done in another:
//!
//! 1. [`Effects::standing`] is published. It closes the door of local reads before a vote that could make another
//!    leader leaves.
//! 2. [`Effects::asked`] goes to the lease desk. It moves deadlines before the round that confirms the leader leaves.
//! 3. [`Effects::send`] may leave at once: a leader's entries before its own sync (Raft thesis 10.2.1), and what promises
//!    nothing.
//! 4. [`Effects::persist`] goes to the log thread, in order. Its held messages come out only for the [`Persisted`] that
//!    the log store makes after its sync.
//! 5. [`Effects::install`] goes to the apply thread, and then [`Effects::committed`], in order. Raft hands out only what
//!    this member has persisted, and an archive is installed only once the log that begins behind it is.

use bytes::Bytes;

use super::{
    Ticket,
    asks::{Asks, fresh_ms},
    catch_up::{Accepted, Followers, Verdict},
    core::{Core, CoreConfig, RaftStart, Standing, Taken},
    forward::Fate,
    lease_desk::{Asked, Told},
    links::Links,
    log::{HardState, LogBatch, LogEntry, LogIo, LogReader, Persisted},
    message::{Aside, LeaseAnswer, LeaseAsk, LeaseTime, Message, MessageKind},
    proposals::{Proposals, Road, refusal},
    reads::Reads,
};
use crate::{
    error::Error,
    mutants::{self, Mutant},
    snapshot::ArchiveMeta,
    types::{LogIndex, MemberId},
};

/// How often [`Input::Tick`] comes.
pub const TICK_MS: u64 = 10;

/// A follower takes no more entries while this many are committed but not applied, as etcd's leader refuses proposals
/// at the same distance; what it did not take, its leader sends again.
const MAX_UNAPPLIED: u64 = 5_000;
/// The same for the bytes of entries held in memory: a quarter of what a leader may have uncommitted.
const MAX_UNAPPLIED_BYTES: usize = 128 << 20;

/// Questions of other members that wait for a round; above it they are dropped, and asked again later. Twice what the
/// lease desk takes.
const MAX_READS: usize = 1 << 17;

/// What a driver is made of.
#[derive(Clone, Copy, Debug)]
pub struct DriverConfig {
    pub member: MemberId,
    /// Drawn anew at each start.
    pub boot: u64,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    /// How long a client waits for a proposal; one that found no leader for so long is not made at all.
    pub proposal_timeout_ms: u64,
    /// Decides the election timeouts.
    pub seed: u64,
}

/// An encoded entry that somebody may wait for.
#[derive(Clone, Debug)]
pub struct Proposal {
    pub ticket: Ticket,
    pub data: Bytes,
}

/// All that can make raft move. A new cause is a new variant.
#[derive(Debug)]
pub enum Input {
    /// [`TICK_MS`] went by.
    Tick,
    Message(Message),
    Propose(Vec<Proposal>),
    /// Only if this member leads now: expiries and the like, which are true only in the term that made them.
    ProposeAsLeader(Vec<Bytes>),
    /// These wait for a linearizable read.
    Read(Vec<Ticket>),
    /// What handlers want to know of leases.
    AskLeases(Vec<LeaseAsk>),
    /// What the lease desk has to tell.
    Told(Vec<Told>),
    Persisted(Persisted),
    Applied(LogIndex),
    /// If this member leads.
    TransferLeader(MemberId),
    /// If this member leads: to the voter that would lead best.
    Abdicate,
    /// What was sent to the member lately may be lost.
    Unreachable(MemberId),
    /// A member's hello said where its log ends.
    PeerOffers {
        member: MemberId,
        last: LogIndex,
    },
    /// The archive that this snapshot message came with is staged here.
    ArchiveStaged(Message),
    /// An archive is held open for a follower that needed one.
    ArchiveOffered {
        to: MemberId,
        archive: ArchiveMeta,
    },
    /// The follower has the archive, or will not get it; it is not held open any more.
    ArchiveSent {
        to: MemberId,
        ok: bool,
    },
}

/// Messages that may leave only once the batch they came with is durable.
#[derive(Debug, Default)]
pub struct Held {
    number: u64,
    messages: Vec<Message>,
}

impl Held {
    /// Lets the messages go.
    ///
    /// # Panics
    /// If the proof is for an earlier batch: a promise would leave before what keeps it is on disk.
    #[must_use]
    pub fn release(self, persisted: &Persisted) -> Vec<Message> {
        assert!(self.messages.is_empty() || persisted.ready() >= self.number, "held messages wait for their own sync");
        self.messages
    }

    /// Takes up what was held by a later batch that shares this one's sync.
    pub fn merge(&mut self, later: Self) {
        self.number = later.number;
        self.messages.extend(later.messages);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

/// For the log thread.
#[derive(Debug)]
pub struct Persist {
    pub batch: LogBatch,
    pub held: Held,
}

/// Reads that may be answered once `index` is applied.
#[derive(Debug)]
pub struct ConfirmedReads {
    pub index: LogIndex,
    pub tickets: Vec<Ticket>,
}

/// What a step wants done; the order is that of the fields.
#[derive(Debug, Default)]
pub struct Effects {
    pub standing: Standing,
    /// Of the sole voter that leads: reads need no round once this index is applied.
    pub local_reads_from: Option<LogIndex>,
    /// For the lease desk of this member, which leads. Each is among the reads that `reads` lets go later.
    pub asked: Vec<(Ticket, Asked)>,
    pub send: Vec<Message>,
    pub persist: Option<Persist>,
    /// What became of the archive that was reported as staged.
    pub archive: Option<Verdict>,
    /// The staged archive takes the place of the state, before anything of `committed` is applied.
    pub install: Option<ArchiveMeta>,
    pub committed: Vec<LogEntry>,
    /// Followers that need an archive, and for which none is held open. Comes again while that is so.
    pub wants_archive: Vec<MemberId>,
    pub reads: Option<ConfirmedReads>,
    /// Reads that got no index for as long as a client waits; nobody waits for them any more.
    pub lapsed: Vec<Ticket>,
    pub rejected: Vec<(Ticket, Error)>,
    /// What handlers wanted to know of leases.
    pub told: Vec<(Ticket, Option<LeaseTime>)>,
    /// Messages that no correct member sends, with the reason; they were not looked at.
    pub refused: Vec<(MemberId, &'static str)>,
    /// Since when this member has heard of its leader without a break; as leader, of a quorum. None: it does not.
    pub connected_since_ms: Option<u64>,
    /// There is more to do: call again at once, even without input.
    pub more: bool,
}

/// A member's raft.
pub struct Driver<Io: LogIo> {
    core: Core<Io>,
    reads: Reads,
    proposals: Proposals,
    asks: Asks,
    links: Links,
    member: MemberId,
    standing: Standing,
    /// Something changed after the reads of a step were looked at.
    changed_late: bool,
    connected_since_ms: Option<u64>,
    /// The last ticket of the lease desk.
    desk_ticket: u64,
    /// First index of the term in which this member leads.
    term_begins: LogIndex,
    applied: LogIndex,
    /// A commit index that is not worth a sync of its own; goes with the next batch.
    lazy_hard_state: Option<HardState>,
    accepted: Accepted,
    followers: Followers,
    /// The last step that went to the log thread, and the last one there was.
    submitted: u64,
    durable: u64,
    taken: u64,
}

/// What a step's inputs bring to propose.
#[derive(Default)]
struct Brought {
    ours: Vec<Proposal>,
    theirs: Vec<Message>,
}

impl<Io: LogIo> Driver<Io> {
    /// A sole voter stands for election at once: there is nobody to wait for.
    ///
    /// # Errors
    /// Says why raft cannot start from what was on disk.
    pub fn new(config: DriverConfig, start: &RaftStart, reader: LogReader<Io>) -> Result<Self, String> {
        let ticks = |ms: u64| usize::try_from(ms.div_ceil(TICK_MS)).map_err(|_| format!("{ms} ms is too long"));
        let core_config = CoreConfig {
            member: config.member,
            heartbeat_ticks: ticks(config.heartbeat_ms)?,
            election_ticks: ticks(config.election_ms)?,
            seed: config.seed,
        };
        let mut core = Core::new(core_config, start, reader)?;
        if core.standing().sole {
            core.campaign();
        }
        let DriverConfig { member, boot, proposal_timeout_ms: timeout_ms, election_ms, .. } = config;
        Ok(Self {
            core,
            reads: Reads::new(member, boot, timeout_ms),
            proposals: Proposals::new(member, boot, start.life, timeout_ms),
            asks: Asks::new(timeout_ms, fresh_ms(election_ms)),
            links: Links::new(election_ms),
            member,
            standing: Standing::default(),
            changed_late: false,
            connected_since_ms: None,
            desk_ticket: 0,
            term_begins: LogIndex(0),
            applied: start.applied,
            lazy_hard_state: None,
            accepted: Accepted::default(),
            followers: Followers::default(),
            submitted: 0,
            durable: 0,
            taken: 0,
        })
    }

    /// See the top of this file. `now_ms` never goes back.
    pub fn drive(&mut self, now_ms: u64, inputs: impl IntoIterator<Item = Input>) -> Effects {
        let mut effects = Effects::default();
        let mut brought = Brought::default();
        for input in inputs {
            match input {
                Input::Propose(batch) if brought.ours.is_empty() => brought.ours = batch,
                Input::Propose(batch) => brought.ours.extend(batch),
                Input::Message(message) => self.message(now_ms, message, &mut brought, &mut effects),
                Input::ArchiveStaged(message) => effects.archive = self.staged(message),
                other => self.step(now_ms, other, &mut effects),
            }
        }
        self.propose(now_ms, brought, &mut effects);
        self.ask(now_ms, &mut effects);
        let changed = self.look(&mut effects) | std::mem::take(&mut self.changed_late);
        if let Some(context) = self.reads.begin(now_ms, changed, &mut effects.lapsed) {
            self.core.read_index(context);
        }
        if let Some(taken) = self.core.take() {
            self.sort(taken, &mut effects);
        }
        // Taking may have changed what is committed; look again so that what is published is the newest.
        self.changed_late = self.look(&mut effects);
        effects.install = self.accepted.take_install();
        effects.wants_archive = self.core.take_wanted_archives();
        effects.connected_since_ms = self.connected_since_ms;
        effects.more = self.core.has_more() || self.changed_late;
        effects
    }

    fn step(&mut self, now_ms: u64, input: Input, effects: &mut Effects) {
        match input {
            Input::Tick => {
                self.connected_since_ms = self.connected_since(now_ms);
                // Until the log begins behind the archive, raft must neither stand for election nor be told to: it would
                // look for entries that are gone. It is the time of one sync. And standing for election with unsynced
                // entries is fatal in raft-rs when nobody else must vote.
                let unsynced = !self.standing.leading && self.standing.sole && self.durable < self.submitted;
                if !self.accepted.is_pending() && !unsynced {
                    self.core.tick();
                }
            }
            Input::ProposeAsLeader(commands) => {
                if self.core.standing().leading && !commands.is_empty() {
                    // A refusal needs no answer: whoever made them makes them again.
                    let _ = self.core.propose(commands.into_iter());
                }
            }
            Input::Read(tickets) => self.reads.add(now_ms, tickets),
            Input::AskLeases(asks) => self.asks.add(now_ms, asks),
            Input::Told(told) => self.tell(now_ms, told, effects),
            Input::Persisted(persisted) => self.persisted(&persisted),
            Input::Applied(index) => {
                assert!(index >= self.applied, "applied does not go back");
                self.applied = index;
                if index >= self.accepted.up_to() {
                    self.core.applied(index);
                }
            }
            Input::TransferLeader(to) => self.core.transfer_leader(to),
            Input::Abdicate => {
                let lives = |member| self.links.since_ms(member, now_ms).is_some();
                if let Some(to) = self.core.best_successor(lives) {
                    self.core.transfer_leader(to);
                }
            }
            Input::Unreachable(member) => self.core.unreachable(member),
            Input::PeerOffers { member, last } => self.core.peer_offers(member, last),
            Input::ArchiveOffered { to, archive } => self.core.offer_archive(to, Some(archive)),
            Input::ArchiveSent { to, ok } => {
                self.core.offer_archive(to, None);
                self.core.archive_sent(to, ok);
            }
            Input::Propose(_) | Input::Message(_) | Input::ArchiveStaged(_) => {
                unreachable!("drive looks at them itself")
            }
        }
    }

    /// What other members say. What is raft's goes to raft.
    fn message(&mut self, now_ms: u64, message: Message, brought: &mut Brought, effects: &mut Effects) {
        if let Err(why) = self.core.admit(&message) {
            effects.refused.push((message.from, why));
            return;
        }
        if self.core.knows(message.from) {
            self.links.heard(message.from, now_ms);
            self.followers.heard(message.from, now_ms);
        }
        match message.kind {
            MessageKind::Append if self.is_behind() => {}
            MessageKind::Propose => brought.theirs.push(message),
            MessageKind::ProposeRefused => {
                let term = self.core.standing().term;
                self.proposals.refused(now_ms, message, term, &mut effects.rejected);
            }
            MessageKind::LeaseAsk => {
                let standing = self.core.standing();
                // Otherwise whoever asks learns of the new leader and asks that.
                if standing.leading && standing.term == message.term && self.reads.len() < MAX_READS {
                    self.give_to_desk(now_ms, message.from, message.asks(), effects);
                }
            }
            MessageKind::LeaseAnswer => self.asks.answered(now_ms, message.answers(), &mut effects.told),
            // Raft hears of an archive only once it is staged; and of nothing until the log begins behind one that was
            // accepted: messages come again.
            MessageKind::Snapshot => {}
            _ if self.accepted.is_pending() => {}
            _ => self.core.step(message),
        }
    }

    /// Questions for the desk of this member, which leads: they are answered when the next round is done.
    fn give_to_desk(&mut self, now_ms: u64, by: MemberId, asks: &[LeaseAsk], effects: &mut Effects) {
        let mut tickets = Vec::with_capacity(asks.len());
        for &ask in asks {
            self.desk_ticket += 1;
            let ticket = Ticket::of_desk(self.desk_ticket);
            tickets.push(ticket);
            effects.asked.push((ticket, Asked { by, ask }));
        }
        self.reads.add(now_ms, tickets);
    }

    /// Asks the leader what handlers want to know of leases.
    fn ask(&mut self, now_ms: u64, effects: &mut Effects) {
        let standing = self.core.standing();
        // Before the term's first commit no round is answered, and the keeper does not keep the time yet.
        let leader = standing.leader.filter(|_| standing.term_committed).map(|leader| (leader, standing.term));
        while let Some((to, asks)) = self.asks.due(now_ms, leader) {
            if to == self.member {
                self.give_to_desk(now_ms, to, &asks, effects);
            } else {
                let message = Message::new(MessageKind::LeaseAsk, self.member, to, standing.term);
                effects.send.push(message.with(Aside::Asks(asks)));
            }
        }
    }

    /// Answers of the lease desk go to who asked: one message a member, or this member's handlers.
    fn tell(&mut self, now_ms: u64, mut told: Vec<Told>, effects: &mut Effects) {
        told.sort_by_key(|one| one.to);
        let term = self.core.standing().term;
        for group in told.chunk_by(|one, next| one.to == next.to) {
            for part in group.chunks(super::core::MAX_ASKS) {
                let answers: Vec<LeaseAnswer> = part.iter().map(|one| one.answer).collect();
                let to = part[0].to;
                if to == self.member {
                    self.asks.answered(now_ms, &answers, &mut effects.told);
                } else {
                    let message = Message::new(MessageKind::LeaseAnswer, self.member, to, term);
                    effects.send.push(message.with(Aside::Answers(answers)));
                }
            }
        }
    }

    fn connected_since(&self, now_ms: u64) -> Option<u64> {
        let standing = self.core.standing();
        if standing.leading {
            let voters = self.core.peers().filter(|(_, votes)| *votes).map(|(member, _)| member);
            return self.links.quorum_since_ms(voters, now_ms);
        }
        self.links.since_ms(standing.leader?, now_ms)
    }

    fn is_behind(&self) -> bool {
        !self.standing.leading
            && (self.standing.commit.0 - self.applied.0.min(self.standing.commit.0) > MAX_UNAPPLIED
                || self.core.memory_bytes() > MAX_UNAPPLIED_BYTES)
    }

    fn persisted(&mut self, persisted: &Persisted) {
        assert!(
            persisted.ready() > self.durable && persisted.ready() <= self.submitted,
            "steps become durable in order"
        );
        self.durable = persisted.ready();
        // Steps that had nothing to write are durable when all before them are.
        let number = if self.durable == self.submitted { self.taken } else { self.durable };
        self.core.persisted(number);
        if let Some(index) = self.accepted.persisted(self.durable) {
            // For raft: what is in front of the log's beginning is applied. It may lead a term whose entries wait for
            // the archive to be put in, but it never looks for what is gone.
            self.core.applied(index);
        }
    }

    /// Raft takes the archive, or has no use for it any more: its commit is as far, or it knows the entry.
    fn staged(&mut self, message: Message) -> Option<Verdict> {
        let archive = message.archive.clone()?;
        let first = !self.accepted.is_under_way(self.applied) && !self.core.has_taken_archive();
        if first && message.kind == MessageKind::Snapshot && self.core.admit(&message).is_ok() {
            self.core.step(message);
        }
        let taken = first && self.core.has_taken_archive();
        Some(if taken { Verdict::Accepted(archive) } else { Verdict::Ignored(archive) })
    }

    /// The oldest entry that a follower needs which was heard of lately; None if this member does not lead or all have
    /// everything that was asked about.
    #[must_use]
    pub fn needed_from(&self, now_ms: u64) -> Option<LogIndex> {
        self.followers.needed_from(self.core.matched(), now_ms)
    }

    /// All proposals of a step become one batch of entries here, or go to the leader.
    fn propose(&mut self, now_ms: u64, brought: Brought, effects: &mut Effects) {
        let Standing { term, leader, leading, .. } = self.core.standing();
        if leading {
            self.proposals.lead(term);
        }
        let transferring = self.core.transferring();
        let mut theirs = Vec::new();
        for message in brought.theirs {
            match self.proposals.judge(&message, leading.then_some(term)) {
                Fate::Take if !transferring => theirs.push(message),
                Fate::Take | Fate::Refuse => effects.send.push(refusal(message, false)),
                Fate::Drop => {}
            }
        }
        let road = match leader {
            Some(_) if leading && !transferring => Road::Here,
            Some(leader) if !leading => Road::To(leader, term),
            _ => Road::None,
        };
        let ours = self.proposals.ready(now_ms, road, term, brought.ours, &mut effects.rejected);
        match road {
            Road::Here => self.append(theirs, ours, effects),
            Road::To(leader, term) => self.proposals.forward(leader, term, ours, &mut effects.send),
            Road::None => assert!(ours.is_empty(), "without a road all proposals are parked"),
        }
    }

    fn append(&mut self, theirs: Vec<Message>, ours: Vec<Proposal>, effects: &mut Effects) {
        if theirs.is_empty() && ours.is_empty() {
            return;
        }
        let tickets: Vec<_> = ours.iter().map(|proposal| proposal.ticket).collect();
        let forwarded = theirs.iter().flat_map(|message| &message.entries).map(|entry| entry.data.clone());
        if !self.core.propose(forwarded.chain(ours.into_iter().map(|proposal| proposal.data))) {
            // Too much is uncommitted: nothing was taken, so it is safe to say so.
            effects.rejected.extend(tickets.into_iter().map(|ticket| (ticket, Error::RequestTooManyRequests)));
            effects.send.extend(theirs.into_iter().map(|message| refusal(message, true)));
        }
    }

    /// Publishes where raft stands. True: reads that were dropped before would now be taken.
    fn look(&mut self, effects: &mut Effects) -> bool {
        let now = self.core.standing();
        let before = std::mem::replace(&mut self.standing, now);
        if now.leading && (!before.leading || before.term != now.term) {
            // A new leader's first entry is the last of its log the moment it is elected, and the proposals of this
            // very step can only come behind it. Any index of the own term is late enough for readers.
            self.term_begins = self.core.last_index();
        }
        effects.standing = now;
        effects.local_reads_from =
            (now.leading && (now.sole || mutants::is(Mutant::ReadWithoutQuorum))).then_some(self.term_begins);
        now.leader != before.leader || now.term != before.term || now.term_committed != before.term_committed
    }

    fn sort(&mut self, taken: Taken, effects: &mut Effects) {
        self.taken = taken.number;
        effects.committed = taken.committed;
        effects.send.extend(taken.send);
        for (context, index) in taken.reads {
            if let Some((index, tickets)) = self.reads.confirmed(&context, index) {
                effects.reads = Some(ConfirmedReads { index, tickets });
            }
        }
        if let Some(archive) = &taken.archive {
            self.accepted.begin(taken.number, archive.clone());
        }
        let mut held = taken.held;
        if mutants::is(Mutant::VoteBeforePersist) {
            effects.send.extend(held.extract_if(.., |message| message.kind == MessageKind::RequestVoteResponse));
        }
        if !taken.must_sync {
            // Term, vote and log are as they were, so what promises none of them waits for no disk: a follower on a
            // slow disk still answers heartbeats.
            let (wait, leave): (Vec<_>, Vec<_>) = held.into_iter().partition(Message::promises);
            effects.send.extend(leave);
            held = wait;
            if self.durable == self.submitted {
                effects.send.append(&mut held);
            }
        }
        self.lazy_hard_state = taken.hard_state.or(self.lazy_hard_state.take());
        if taken.must_sync || !held.is_empty() {
            self.submitted = taken.number;
            effects.persist = Some(Persist {
                batch: LogBatch {
                    ready: taken.number,
                    reset: taken.archive.map(|archive| (archive.index, archive.term)),
                    entries: taken.entries,
                    hard_state: self.lazy_hard_state.take(),
                },
                held: Held { number: taken.number, messages: held },
            });
        } else if self.durable == self.submitted {
            self.core.persisted(taken.number);
        }
    }

    /// Where raft stood after the last step.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }
}
