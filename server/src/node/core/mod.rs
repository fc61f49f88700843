//! Raft, behind our own types. This file is the only one that names raft-rs's `RawNode`, and no type of that crate
//! leaves this folder.
//!
//! The order of calls that raft-rs demands (take a `Ready`, make its entries readable, `advance_append_async`, report
//! its number once it is durable) is kept in [`Core::take`] and [`Core::persisted`], so nobody else can get it wrong.
//!
//! *Randomness.* raft-rs draws election timeouts from the thread's generator. Whenever a call may have made it draw, the
//! value is replaced by one from our own seeded generator: a seed decides a whole simulated run.

//!
//! *Whatever comes in, raft-rs goes on.* It asserts much about what its peers say; `admit` keeps from it what would break
//! an assertion.

mod admit;
mod convert;
mod storage;

use bytes::Bytes;
use raft::{RawNode, ReadOnlyOption, SnapshotStatus, StateRole, eraftpb};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(super) use self::admit::MAX_ASKS;
use self::storage::Storage;
use super::{
    log::{HardState, LogEntry, LogIo, LogReader},
    message::{Message, MessageKind},
};
use crate::{
    snapshot::ArchiveMeta,
    types::{LogIndex, MemberId, Term},
};

/// Largest append message, in bytes of entries. raft-rs's default would send one entry per message.
const MAX_MESSAGE_BYTES: u64 = 1 << 20;
/// Append messages on their way to one follower; with the size above at most 64 MiB of them.
const MAX_INFLIGHT_MESSAGES: usize = 64;
/// What a leader holds without a commit before it refuses proposals: above what all members together may have in
/// flight (see `waiters`), so that it is a last fence and not a queue limit.
const MAX_UNCOMMITTED_BYTES: u64 = 512 << 20;
/// Committed entries handed out at once; the rest comes with the next step, so that one step stays short.
const MAX_COMMITTED_BYTES: u64 = 8 << 20;

/// How this member takes part, in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct CoreConfig {
    pub(super) member: MemberId,
    pub(super) heartbeat_ticks: usize,
    pub(super) election_ticks: usize,
    pub(super) seed: u64,
}

/// What the disk held when the member started, already clamped to what fits together (see `recovery`).
#[derive(Clone, Debug)]
pub struct RaftStart {
    pub hard_state: HardState,
    pub applied: LogIndex,
    /// Counts the starts of this member: the epoch of its raft log.
    pub life: u64,
    /// As [`first_conf_state`] made it, or a later change of it.
    pub conf_state: Vec<u8>,
}

/// Where raft stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub term: Term,
    pub leader: Option<MemberId>,
    /// This member is the leader.
    pub leading: bool,
    /// This member has a vote.
    pub voter: bool,
    /// This member is the only voter of the applied configuration.
    pub sole: bool,
    pub commit: LogIndex,
    /// An entry of this term is known to be committed: only now does the leader's commit index mean anything to a reader,
    /// and before it answers none.
    pub term_committed: bool,
}

/// One step's output. Entries are readable by raft already; nothing of it is durable.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) number: u64,
    pub(super) entries: Vec<LogEntry>,
    pub(super) hard_state: Option<HardState>,
    /// Term, vote or entries changed; if not, the hard state is a mere commit index.
    pub(super) must_sync: bool,
    pub(super) send: Vec<Message>,
    /// Made by a follower or candidate: may promise what is not durable before this step is.
    pub(super) held: Vec<Message>,
    pub(super) committed: Vec<LogEntry>,
    pub(super) reads: Vec<(Bytes, LogIndex)>,
    /// Raft took this archive; the entries begin behind it.
    pub(super) archive: Option<ArchiveMeta>,
}

pub(super) struct Core<Io: LogIo> {
    raw: RawNode<Storage<Io>>,
    rng: ChaCha8Rng,
    drawn_for: (u64, StateRole),
}

/// Raft's membership as stored bytes, when a cluster begins.
#[must_use]
pub fn first_conf_state(voters: &[MemberId]) -> Vec<u8> {
    convert::first_conf_state(voters)
}

impl<Io: LogIo> Core<Io> {
    pub(super) fn new(config: CoreConfig, start: &RaftStart, reader: LogReader<Io>) -> Result<Self, String> {
        let conf_state = convert::conf_state(&start.conf_state)?;
        let state = raft::RaftState::new(convert::hard_state_in(&start.hard_state), conf_state);
        let raft_config = raft::Config {
            id: config.member.0,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: start.applied.0,
            max_size_per_msg: MAX_MESSAGE_BYTES,
            max_inflight_msgs: MAX_INFLIGHT_MESSAGES,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            // raft-rs 0.7.0 must not merge appends: entries that go back behind a rejection are put into an empty append
            // that waits for the same follower and names a later index. The follower then acknowledges entries that
            // nobody has, and the leader counts them (simulator, seed 100; invariant R3 looks at each append).
            batch_append: false,
            max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
            max_committed_size_per_ready: MAX_COMMITTED_BYTES,
            ..raft::Config::default()
        };
        // raft-rs tells of its steps through slog. What an operator needs of it (leader, term, commit) is in the
        // standing and is logged where it changes, so its own lines are dropped.
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, Storage::new(reader, state), &logger)
            .map_err(|error| format!("raft does not start: {error}"))?;
        let mut core = Self {
            raw,
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            // No such pair exists, so that the first look draws.
            drawn_for: (u64::MAX, StateRole::Leader),
        };
        core.draw();
        Ok(core)
    }

    /// Every reset of raft's election timer changes term or role.
    fn draw(&mut self) {
        let now = (self.raw.raft.term, self.raw.raft.state);
        if now != self.drawn_for {
            self.drawn_for = now;
            let least = self.raw.raft.election_timeout();
            let ticks = self.rng.random_range(least..2 * least);
            self.raw.raft.set_randomized_election_timeout(ticks);
        }
    }

    pub(super) fn tick(&mut self) {
        self.raw.tick();
        self.draw();
    }

    /// Stands for election without waiting for the timeout.
    pub(super) fn campaign(&mut self) {
        // The only error there is says that raft dropped a proposal, and this is none.
        let _ = self.raw.campaign();
        self.draw();
    }

    /// Whether a message may be looked at at all.
    ///
    /// # Errors
    /// Says why not.
    pub(super) fn admit(&self, message: &Message) -> Result<(), &'static str> {
        let raft = &self.raw.raft;
        let facts = admit::Facts {
            me: MemberId(raft.id),
            term: Term(raft.term),
            leader: convert::member(raft.leader_id),
            leading: raft.state == StateRole::Leader,
            last: self.last_index(),
            known: self.knows(message.from),
            rounds: raft.pending_read_count(),
        };
        admit::refuse(facts, message).map_or(Ok(()), Err)
    }

    /// A message that [`Core::admit`] let in.
    pub(super) fn step(&mut self, mut message: Message) {
        // A leader says so when it counts on entries that this member has lost: a batch that no mark named before the
        // power failed. What it says of them cannot be acted upon, and raft-rs would end the process. That it lives is
        // true all the same; and when this member's next hello tells it what is there, it sends the rest again.
        if message.kind == MessageKind::Heartbeat && message.commit > self.last_index() {
            message.commit = LogIndex(0);
        }
        if message.kind == MessageKind::AppendResponse && message.reject && message.term.0 == self.raw.raft.term {
            self.entry_is_missing(message.from, message.index, message.reject_hint);
        }
        // Raft refuses messages from strangers, who are no members any more: there is nobody to tell.
        if let Some(message) = convert::message_in(message) {
            let _ = self.raw.step(message);
        }
        self.draw();
    }

    /// A member says where its log ends. If this leader counted on more, the rest was lost with the member's disk.
    pub(super) fn peer_offers(&mut self, member: MemberId, last: LogIndex) {
        self.entry_is_missing(member, last.next(), last);
    }

    /// A member does not hold the entry at `missing`, and proposes to go on behind `hint`. If it once acknowledged that
    /// entry, raft takes the word for an old one and waits for ever, so raft begins anew with that member. Where it *was*
    /// an old word that costs one exchange: `matched` may always be too low.
    fn entry_is_missing(&mut self, member: MemberId, missing: LogIndex, hint: LogIndex) {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Leader || member.0 == raft.id {
            return;
        }
        let Some(progress) = raft.mut_prs().get_mut(member.0) else { return };
        if progress.matched < missing.0 {
            return;
        }
        progress.matched = 0;
        if progress.state != raft::ProgressState::Snapshot {
            progress.become_probe();
            progress.next_idx = hint.0.min(missing.0 - 1) + 1;
            raft.send_append(member.0);
        }
    }

    /// What was sent to the member may be lost: raft goes on from what it is known to have.
    pub(super) fn unreachable(&mut self, member: MemberId) {
        self.raw.report_unreachable(member.0);
    }

    /// Whether raft took an archive that was not handed out yet.
    pub(super) fn has_taken_archive(&self) -> bool {
        self.raw.snap().is_some()
    }

    /// The archive that is held open for a follower, or none any more.
    pub(super) fn offer_archive(&mut self, to: MemberId, archive: Option<ArchiveMeta>) {
        self.raw.mut_store().offer(to, archive);
    }

    /// Followers that need an archive, asked for since the last call.
    pub(super) fn take_wanted_archives(&mut self) -> Vec<MemberId> {
        self.raw.mut_store().take_wanted()
    }

    /// Whether the follower got the archive that raft sent it to.
    pub(super) fn archive_sent(&mut self, to: MemberId, ok: bool) {
        let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(to.0, status);
    }

    /// What each other member is known to hold, as far as this leader knows.
    pub(super) fn matched(&self) -> impl Iterator<Item = (MemberId, LogIndex)> + '_ {
        let raft = &self.raw.raft;
        let leading = raft.state == StateRole::Leader;
        let others = raft.prs().iter().filter(move |(id, _)| leading && **id != raft.id);
        others.map(|(id, progress)| (MemberId(*id), LogIndex(progress.matched)))
    }

    /// All of them in one message, so that the log gets them as one batch. False: raft takes none now (no leader is
    /// known, leadership is being handed over, or too much is uncommitted).
    #[must_use]
    pub(super) fn propose(&mut self, commands: impl Iterator<Item = Bytes>) -> bool {
        let entries: Vec<_> = commands.map(|data| eraftpb::Entry { data, ..eraftpb::Entry::default() }).collect();
        let mut message = eraftpb::Message::default();
        message.set_msg_type(eraftpb::MessageType::MsgPropose);
        message.from = self.raw.raft.id;
        message.set_entries(entries.into());
        let taken = self.raw.raft.step(message).is_ok();
        self.draw();
        taken
    }

    pub(super) fn read_index(&mut self, context: Vec<u8>) {
        self.raw.read_index(context);
    }

    /// Begins to hand leadership over. Raft gives up after an election timeout.
    pub(super) fn transfer_leader(&mut self, to: MemberId) {
        // A follower would pass it on to its leader; only the leader's own shell decides this.
        if self.raw.raft.state == StateRole::Leader {
            self.raw.transfer_leader(to.0);
            self.draw();
        }
    }

    /// Leadership is being handed over: raft takes no proposals.
    pub(super) fn transferring(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    /// The voter among the others that has the most of the log, of those that `lives` names; of equals the one with the
    /// lowest id, because a seed decides a run.
    pub(super) fn best_successor(&self, lives: impl Fn(MemberId) -> bool) -> Option<MemberId> {
        let progress = self.raw.raft.prs();
        let voters = self.peers().filter(|(member, votes)| *votes && lives(*member)).map(|(member, _)| member);
        voters.max_by_key(|member| {
            let matched = progress.get(member.0).map_or(0, |progress| progress.matched);
            (matched, std::cmp::Reverse(*member))
        })
    }

    /// Whether the member is in the applied configuration.
    pub(super) fn knows(&self, member: MemberId) -> bool {
        self.raw.raft.prs().get(member.0).is_some()
    }

    /// The members of the applied configuration but this one, with a vote or without.
    pub(super) fn peers(&self) -> impl Iterator<Item = (MemberId, bool)> + '_ {
        let raft = &self.raw.raft;
        let voters = raft.prs().conf().voters();
        let others = raft.prs().iter().filter(|(id, _)| **id != raft.id);
        others.map(move |(id, _)| (MemberId(*id), voters.contains(*id)))
    }

    /// The step with this number, and all before it, are durable.
    pub(super) fn persisted(&mut self, number: u64) {
        self.raw.on_persist_ready(number);
    }

    pub(super) fn applied(&mut self, index: LogIndex) {
        self.raw.advance_apply_to(index.0);
        let persisted = self.raw.raft.raft_log.persisted;
        self.raw.mut_store().forget(persisted, index.0);
    }

    pub(super) fn standing(&self) -> Standing {
        let raft = &self.raw.raft;
        let leading = raft.state == StateRole::Leader;
        Standing {
            term: Term(raft.term),
            leader: convert::member(raft.leader_id),
            leading,
            voter: raft.promotable(),
            sole: raft.promotable() && raft.prs().is_singleton(),
            commit: LogIndex(raft.raft_log.committed),
            term_committed: convert::member(raft.leader_id).is_some() && raft.commit_to_current_term(),
        }
    }

    /// Last index that raft knows, durable or not.
    pub(super) fn last_index(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.last_index())
    }

    /// Bytes of entries that are held in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.raw.store().bytes()
    }

    pub(super) fn has_more(&self) -> bool {
        self.raw.has_ready()
    }

    /// What raft wants done now, if anything.
    pub(super) fn take(&mut self) -> Option<Taken> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let entries = ready.take_entries();
        let archive = (!ready.snapshot().is_empty()).then(|| convert::archive_out(ready.snapshot()));
        if let Some(archive) = &archive {
            self.raw.mut_store().begin_behind(archive.index, archive.term);
        }
        let taken = Taken {
            number: ready.number(),
            hard_state: ready.hs().map(convert::hard_state_out),
            must_sync: ready.must_sync(),
            entries: storage::share(&entries),
            send: ready.take_messages().into_iter().filter_map(convert::message_out).collect(),
            held: ready.take_persisted_messages().into_iter().filter_map(convert::message_out).collect(),
            committed: ready.take_committed_entries().into_iter().map(convert::entry_out).collect(),
            reads: ready
                .take_read_states()
                .into_iter()
                .map(|state| (Bytes::from(state.request_ctx), LogIndex(state.index)))
                .collect(),
            archive,
        };
        self.raw.mut_store().append(entries);
        self.raw.advance_append_async(ready);
        Some(taken)
    }
}
