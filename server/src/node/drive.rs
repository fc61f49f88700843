//! One step of the member: what came in goes to raft, what raft wants done comes out. No thread, no clock, no disk.
//!
//! The raft thread and the simulator are the only callers, and all calls to [`super::core`] are in this file. What a
//! step wants done must be done in this order, and by construction cannot be done in another:
//!
//! 1. [`Effects::standing`] is published. It closes the door of local reads before a vote that could make another
//!    leader leaves.
//! 2. [`Effects::send`] may leave at once: a leader's entries before its own sync (Raft thesis 10.2.1), and what promises
//!    nothing.
//! 3. [`Effects::persist`] goes to the log thread, in order. Its held messages come out only for the [`Persisted`] that
//!    the log store makes after its sync.
//! 4. [`Effects::install`] goes to the apply thread, and then [`Effects::committed`], in order. Raft hands out only what
//!    this member has persisted, and an archive is installed only once the log that begins behind it is.

use bytes::Bytes;

use super::{
    Ticket,
    catch_up::{Accepted, Followers, Verdict},
    core::{Core, CoreConfig, RaftStart, Standing, Taken},
    log::{HardState, LogBatch, LogEntry, LogIo, LogReader, Persisted},
    message::{Message, MessageKind},
    reads::Reads,
};
use crate::{
    error::Error,
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

/// Proposals that wait for a leader to be known. As many as may be in flight.
const MAX_PARKED: usize = 5_000;

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
    Persisted(Persisted),
    Applied(LogIndex),
    TransferLeader(MemberId),
    /// Something for this member was lost on its way.
    Unreachable(MemberId),
    /// A member said how far its log reaches, when it was connected to.
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
    pub rejected: Vec<(Ticket, Error)>,
    /// There is more to do: call again at once, even without input.
    pub more: bool,
}

#[derive(Debug)]
struct Parked {
    proposal: Proposal,
    since_ms: u64,
}

/// A member's raft.
pub struct Driver<Io: LogIo> {
    core: Core<Io>,
    reads: Reads,
    timeout_ms: u64,
    standing: Standing,
    /// First index of the term in which this member leads.
    term_begins: LogIndex,
    parked: Vec<Parked>,
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
        Ok(Self {
            core,
            reads: Reads::new(config.member, config.boot),
            timeout_ms: config.proposal_timeout_ms,
            standing: Standing::default(),
            term_begins: LogIndex(0),
            parked: Vec::new(),
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
        let mut proposals = Vec::new();
        for input in inputs {
            match input {
                Input::Propose(batch) if proposals.is_empty() => proposals = batch,
                Input::Propose(batch) => proposals.extend(batch),
                Input::ArchiveStaged(message) => effects.archive = Some(self.staged(message)),
                other => self.step(now_ms, other),
            }
        }
        self.propose(now_ms, proposals, &mut effects);
        let changed = self.look(&mut effects);
        if let Some(context) = self.reads.begin(now_ms, changed) {
            self.core.read_index(context);
        }
        if let Some(taken) = self.core.take() {
            self.sort(taken, &mut effects);
        }
        // Taking may have changed nothing but what is committed; look again so that what is published is the newest.
        self.look(&mut effects);
        effects.install = self.accepted.take_install();
        effects.wants_archive = self.core.take_wanted_archives();
        effects.more = self.core.has_more();
        effects
    }

    fn step(&mut self, now_ms: u64, input: Input) {
        if let Input::Message(message) = &input {
            self.followers.heard(message.from, now_ms);
        }
        match input {
            // Until the log begins behind the archive, raft must neither stand for election nor be told to: it would
            // look for entries that are gone. It is the time of one sync, and messages come again.
            Input::Tick | Input::Message(_) if self.accepted.is_pending() => {}
            // Raft hears of an archive only once it is staged.
            Input::Message(message) if message.kind == MessageKind::Snapshot => {}
            // Standing for election with unsynced entries is fatal in raft-rs when nobody else must vote.
            Input::Tick if !self.standing.leading && self.standing.sole && self.durable < self.submitted => {}
            Input::Tick => self.core.tick(),
            Input::Message(message) if message.kind == MessageKind::Append && self.is_behind() => {}
            Input::Message(message) => self.core.step(message),
            Input::ProposeAsLeader(commands) => {
                if self.core.standing().leading && !commands.is_empty() {
                    // A refusal needs no answer: whoever made them makes them again.
                    let _ = self.core.propose(commands.into_iter());
                }
            }
            Input::Read(tickets) => self.reads.add(tickets),
            Input::Persisted(persisted) => self.persisted(&persisted),
            Input::Applied(index) => {
                assert!(index >= self.applied, "applied does not go back");
                self.applied = index;
                if index >= self.accepted.up_to() {
                    self.core.applied(index);
                }
            }
            Input::TransferLeader(to) => self.core.transfer_leader(to),
            Input::Unreachable(member) => self.core.unreachable(member),
            Input::PeerOffers { member, last } => self.core.peer_offers(member, last),
            Input::ArchiveOffered { to, archive } => self.core.offer_archive(to, Some(archive)),
            Input::ArchiveSent { to, ok } => {
                self.core.offer_archive(to, None);
                self.core.archive_sent(to, ok);
            }
            Input::Propose(_) | Input::ArchiveStaged(_) => unreachable!("drive takes them out"),
        }
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
    fn staged(&mut self, message: Message) -> Verdict {
        let archive = message.archive.clone();
        let first = !self.accepted.is_under_way(self.applied) && !self.core.has_taken_archive();
        if first && message.kind == MessageKind::Snapshot {
            self.core.step(message);
        }
        match archive {
            Some(archive) if first && self.core.has_taken_archive() => Verdict::Accepted(archive),
            _ => Verdict::Ignored,
        }
    }

    /// The oldest entry that a follower needs which was heard of lately; None if this member does not lead or all have
    /// everything that was asked about.
    #[must_use]
    pub fn needed_from(&self, now_ms: u64) -> Option<LogIndex> {
        self.followers.needed_from(self.core.matched(), now_ms)
    }

    /// All proposals of a step become one batch of entries. Without a known leader they wait for one.
    fn propose(&mut self, now_ms: u64, proposals: Vec<Proposal>, effects: &mut Effects) {
        if self.core.standing().leader.is_none() {
            self.park(now_ms, proposals, effects);
            return;
        }
        let mut batch = proposals;
        if !self.parked.is_empty() {
            let parked = std::mem::take(&mut self.parked).into_iter().map(|parked| parked.proposal);
            batch = parked.chain(batch).collect();
        }
        if batch.is_empty() {
            return;
        }
        let tickets: Vec<_> = batch.iter().map(|proposal| proposal.ticket).collect();
        if !self.core.propose(batch.into_iter().map(|proposal| proposal.data)) {
            // Leadership is being handed over, or too much is uncommitted: nothing was taken, so it is safe to say so.
            effects.rejected.extend(tickets.into_iter().map(|ticket| (ticket, Error::RequestTooManyRequests)));
        }
    }

    fn park(&mut self, now_ms: u64, proposals: Vec<Proposal>, effects: &mut Effects) {
        let timeout_ms = self.timeout_ms;
        self.parked.retain(|parked| {
            let waits = now_ms < parked.since_ms + timeout_ms;
            if !waits {
                effects.rejected.push((parked.proposal.ticket, Error::Timeout));
            }
            waits
        });
        for proposal in proposals {
            if self.parked.len() < MAX_PARKED {
                self.parked.push(Parked { proposal, since_ms: now_ms });
            } else {
                effects.rejected.push((proposal.ticket, Error::RequestTooManyRequests));
            }
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
        effects.local_reads_from = (now.leading && now.sole).then_some(self.term_begins);
        now.leader != before.leader || now.term != before.term || now.term_committed != before.term_committed
    }

    fn sort(&mut self, taken: Taken, effects: &mut Effects) {
        self.taken = taken.number;
        effects.committed = taken.committed;
        effects.send = taken.send;
        for (context, index) in taken.reads {
            if let Some((index, tickets)) = self.reads.confirmed(&context, index) {
                effects.reads = Some(ConfirmedReads { index, tickets });
            }
        }
        if let Some(archive) = &taken.archive {
            self.accepted.begin(taken.number, archive.clone());
        }
        let mut held = taken.held;
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
