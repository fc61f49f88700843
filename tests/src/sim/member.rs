//! The parts of a member that runs, and the glue that the server's threads are. Each function is one turn of one thread,
//! in the order of the thread that it stands for.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use conclave_proto::conclave::raft::v1::command::Kind;
use conclave_server::{
    engine::Engine,
    members::Member as MemberRecord,
    node::{
        self, ConfirmedReads, Driver, DriverConfig, Effects, Identity, Input, Install, Keeper, LeaseDesk, LeaseTime,
        Message, MessageKind, Persist, Staging, Standing, StateFacts, Ticket, Verdict,
        log::{HardState, LogEntry, LogOptions, LogReader, LogStore, OpenError, Recovered},
    },
    snapshot::ArchiveMeta,
    state::{Applied, Events, State},
    types::{ClusterId, LogIndex, MemberId, Revision, Term},
    watch::{self, Hub, HubOptions, Inbox},
};

use super::{
    archives::Open,
    disk::SimFolder,
    machine::Machine,
    seen::{Slot, Started, digest},
};

pub(super) const ELECTION_MS: u64 = 1_000;
/// What a client waits: etcd's request timeout.
pub(super) const TIMEOUT_MS: u64 = 5_000 + 2 * ELECTION_MS;
/// Entries kept in the log below what is flushed.
const KEEP_ENTRIES: u64 = 20;
/// Tickets of clients are multiples of this: the low byte is a runtime's number, and the lease desk has its own.
pub(super) const TICKETS: u64 = 256;
pub(super) const FOLDER: &str = "log";
pub(super) const ARCHIVES: &str = "archive";
/// Segments so small that a short run fills several and cuts some.
pub(super) const LOG: LogOptions = LogOptions { segment_bytes: 32 << 10, log_id: 7, must_exist: false };

enum ApplyItem {
    /// The staged archive takes the place of the state. What was committed in front of it came before.
    Install(ArchiveMeta),
    /// The staged archive is of no use.
    Discard(ArchiveMeta),
    Entries(Vec<LogEntry>),
    Promoted(Term),
    Demoted,
}

/// A member between a start and a crash.
pub(super) struct Member {
    pub(super) identity: Identity,
    driver: Driver<SimFolder>,
    log: LogStore<SimFolder>,
    pub(super) reader: LogReader<SimFolder>,
    pub(super) state: State,
    engine: Engine,
    hub: Hub,
    pub(super) inbox: Inbox,
    pub(super) keeper: Keeper,
    desk: LeaseDesk,
    pub(super) staging: Staging<SimFolder>,
    installing: Option<Install>,
    /// The staged archive that raft was told of last.
    offered: Option<ArchiveMeta>,
    /// Archives that are held open for followers.
    pub(super) open: BTreeMap<MemberId, Open>,
    inputs: Vec<Input>,
    to_log: VecDeque<Persist>,
    to_apply: VecDeque<ApplyItem>,
    pub(super) standing: Standing,
    local_reads_from: Option<LogIndex>,
    read_waits: Vec<ConfirmedReads>,
    /// What the driver was told of.
    told_applied: LogIndex,
    more: bool,
    /// Ticks that are due.
    pub(super) ticks: u64,
    next_look_ms: u64,
    dropped: Revision,
    cut: LogIndex,
}

/// What a start found.
pub(super) struct StartedMember {
    pub(super) member: Member,
    pub(super) torn: bool,
    pub(super) unfinished: bool,
    /// A crash had cut an installation short.
    pub(super) reinstalled: bool,
    pub(super) seen: Started,
}

/// The process died in the middle of a disk call.
#[derive(Debug)]
pub(super) struct Died;

/// What a turn of the raft thread did, in its order.
#[derive(Default)]
pub(super) struct RaftTurn {
    /// Where raft stands, if that changed.
    pub(super) standing: Option<Standing>,
    /// Followers that need an archive, and messages that go with one.
    pub(super) wanted: Vec<MemberId>,
    pub(super) snapshots: Vec<Message>,
    pub(super) sent: Vec<Message>,
    /// The log begins anew behind this.
    pub(super) log_begins: Option<(LogIndex, Term)>,
    pub(super) logged: Vec<Slot>,
    /// Reads that may be answered now.
    pub(super) ready: Vec<Ticket>,
    pub(super) confirmed: u64,
    pub(super) rejected: Vec<(Ticket, conclave_server::error::Error)>,
    /// What is known of leases that were asked about.
    pub(super) told: Vec<(Ticket, Option<LeaseTime>)>,
}

/// What a turn of the apply thread did.
#[derive(Default)]
pub(super) struct ApplyTurn {
    pub(super) applied: Vec<(LogEntry, Applied)>,
    pub(super) ready: Vec<Ticket>,
    /// The state is another member's now.
    pub(super) installed: bool,
}

impl Member {
    /// The start of `node::start`, on the simulated machine.
    ///
    /// # Panics
    /// If the member refuses to start: nothing that a crash may leave is a reason to.
    pub(super) fn start(
        machine: &mut Machine,
        first: &[MemberRecord],
        cluster: ClusterId,
        seed: u64,
    ) -> Result<StartedMember, Died> {
        let (id, boot) = (machine.id, machine.boots);
        let engine = Engine::from(machine.engine.clone());
        let mut state = State::open(engine.clone());
        let options = LogOptions { must_exist: machine.initialised, ..LOG };
        let (log, recovered) = match LogStore::open(machine.disk.folder(FOLDER), options) {
            Ok(opened) => opened,
            Err(OpenError::Failed(_)) => return Err(Died),
            Err(OpenError::Rotten(_)) if machine.before_rot.is_some() => {
                machine.refuses = true;
                return Err(Died);
            }
            Err(other) => panic!("m{id}: the log is refused: {other}"),
        };
        let (staging, reinstalled) = put_in_what_is_due(machine, cluster, &recovered, &mut state)?;
        if node::may_bootstrap(machine.initialised, &recovered, &facts(&state)).expect("nothing was lost") {
            let voters: Vec<_> = first.iter().map(|member| member.id).collect();
            state.bootstrap(first, node::first_conf_state(&voters));
        }
        machine.initialised = true;
        let reader = log.reader();
        let start = node::fit(&recovered, |index| reader.term(index), facts(&state)).expect("log and state fit");
        let driver = Driver::new(driver_config(id, boot, seed), &start, log.reader())
            .expect("raft starts from what was on disk");
        let identity = Identity { cluster, member: id, boot };
        let hub_options = HubOptions { catch_up_bytes: 2_000, ring_bytes: 3_000, ..HubOptions::new(cluster, id) };
        let hub = Hub::new(hub_options, &state.read_view());
        let seen = seen(machine, &recovered, &reader, start.applied);
        let unfinished = state.unfinished().is_some();
        let member = Self {
            identity,
            driver,
            log,
            reader,
            state,
            engine,
            hub,
            inbox: Inbox::new(256, 4_000),
            keeper: Keeper::new(ELECTION_MS),
            desk: LeaseDesk::default(),
            staging,
            installing: None,
            offered: None,
            open: BTreeMap::new(),
            inputs: Vec::new(),
            to_log: VecDeque::new(),
            to_apply: VecDeque::new(),
            standing: Standing::default(),
            local_reads_from: None,
            read_waits: Vec::new(),
            told_applied: start.applied,
            // The raft thread drives once before it waits.
            more: true,
            ticks: 0,
            next_look_ms: 0,
            dropped: Revision::NEVER,
            cut: LogIndex(0),
        };
        Ok(StartedMember { member, torn: recovered.torn.is_some(), unfinished, reinstalled, seen })
    }

    pub(super) fn input(&mut self, input: Input) {
        self.inputs.push(input);
    }

    pub(super) fn raft_waits(&self) -> bool {
        self.more || self.ticks > 0 || !self.inputs.is_empty()
    }

    pub(super) fn log_waits(&self) -> usize {
        self.to_log.len()
    }

    pub(super) fn apply_waits(&self) -> usize {
        self.to_apply.len() + usize::from(self.installing.is_some())
    }

    pub(super) fn installs(&self) -> bool {
        self.installing.is_some()
    }

    /// Items behind an installation, if there is one.
    pub(super) fn items_wait(&self) -> usize {
        self.to_apply.len()
    }

    pub(super) fn wants_mark(&self) -> bool {
        self.log.wants_mark()
    }

    /// The clock of the raft thread: ticks that are due, and now and then what the member proposes itself.
    fn periodic(
        &mut self,
        now_ms: u64,
        inputs: &mut Vec<Input>,
        encode: impl Fn(Identity, Term, Kind) -> bytes::Bytes,
    ) {
        let ticks = std::mem::take(&mut self.ticks);
        inputs.extend((0..ticks).map(|_| Input::Tick));
        if ticks == 0 || now_ms < self.next_look_ms {
            return;
        }
        // `keeper::LOOK_MS`.
        self.next_look_ms = now_ms + 100;
        if self.standing.leading {
            let term = self.standing.term;
            let expired: Vec<_> = self.keeper.expired(term, now_ms);
            if !expired.is_empty() {
                let commands = expired.into_iter().map(|kind| encode(self.identity, term, kind)).collect();
                inputs.push(Input::ProposeAsLeader(commands));
            }
        }
    }

    /// The raft thread: all inputs that wait, one drive, effects in the order that `drive` demands.
    pub(super) fn raft_turn(&mut self, now_ms: u64) -> RaftTurn {
        let mut inputs = std::mem::take(&mut self.inputs);
        self.periodic(now_ms, &mut inputs, encode_own);
        let applied = self.state.applied().0;
        if applied > self.told_applied {
            self.told_applied = applied;
            inputs.push(Input::Applied(applied));
        }
        let effects = self.driver.drive(now_ms, inputs);
        self.carry_out(effects, now_ms)
    }

    /// An archive is staged here that came with this message.
    pub(super) fn offer_staged(&mut self, message: Message) {
        self.offered.clone_from(&message.archive);
        self.inputs.push(Input::ArchiveStaged(message));
    }

    fn carry_out(&mut self, mut effects: Effects, now_ms: u64) -> RaftTurn {
        let mut turn = RaftTurn::default();
        self.to_apply.extend(effects.install.take().map(ApplyItem::Install));
        if effects.archive.take().is_some_and(|verdict| !matches!(verdict, Verdict::Accepted(_))) {
            self.to_apply.extend(self.offered.take().map(ApplyItem::Discard));
        }
        turn.wanted = std::mem::take(&mut effects.wants_archive);
        turn.snapshots = effects.send.extract_if(.., |message| message.kind == MessageKind::Snapshot).collect();
        self.more = effects.more;
        let before = std::mem::replace(&mut self.standing, effects.standing);
        turn.standing = (before != effects.standing).then_some(effects.standing);
        self.local_reads_from = effects.local_reads_from;
        if effects.standing.leading != before.leading {
            let leads = effects.standing.leading;
            self.to_apply.push_back(if leads {
                ApplyItem::Promoted(effects.standing.term)
            } else {
                ApplyItem::Demoted
            });
        }
        self.desk.take(&self.keeper, effects.standing.term, now_ms, effects.asked);
        turn.sent = effects.send;
        if let Some(persist) = effects.persist {
            turn.log_begins = persist.batch.reset;
            turn.logged = persist.batch.entries.iter().map(slot).collect();
            self.to_log.push_back(persist);
        }
        if !effects.committed.is_empty() {
            self.to_apply.push_back(ApplyItem::Entries(effects.committed));
        }
        if let Some(reads) = effects.reads {
            turn.confirmed = reads.tickets.len() as u64;
            if self.state.applied().0 < reads.index {
                self.read_waits.push(reads);
            } else {
                turn.ready = self.deliver(reads.tickets, now_ms);
            }
        }
        self.desk.forget(effects.lapsed);
        turn.told = effects.told;
        turn.rejected = effects.rejected;
        turn
    }

    /// Where reads wait that may be answered: those of the lease desk have answers for others.
    fn deliver(&mut self, ready: Vec<Ticket>, now_ms: u64) -> Vec<Ticket> {
        let (desk, clients): (Vec<_>, Vec<_>) = ready.into_iter().partition(|ticket| ticket.0 % TICKETS != 0);
        let told = self.desk.confirmed(&self.keeper, now_ms, desk);
        if !told.is_empty() {
            self.inputs.push(Input::Told(told));
        }
        clients
    }

    /// The log thread: merges the first `count` batches into one sync. Returns what was held back for it.
    pub(super) fn log_turn(&mut self, count: usize) -> Result<Vec<Message>, Died> {
        let mut batches = self.to_log.drain(..count);
        let mut all = batches.next().expect("something waits");
        for later in batches {
            all.batch.merge(later.batch);
            all.held.merge(later.held);
        }
        let persisted = self.log.persist(&all.batch).map_err(|_| Died)?;
        let sent = all.held.release(&persisted);
        self.inputs.push(Input::Persisted(persisted));
        self.log.prepare().map_err(|_| Died)?;
        Ok(sent)
    }

    /// The log thread when nothing came for a while.
    pub(super) fn mark_turn(&mut self) -> Result<(), Died> {
        if self.log.wants_mark() { self.log.write_mark().map_err(|_| Died) } else { Ok(()) }
    }

    /// The apply thread: the first `count` items, entries that follow each other in one batch; or a step of an
    /// installation, behind which everything waits.
    pub(super) fn apply_turn(&mut self, count: usize, now_ms: u64) -> Result<ApplyTurn, Died> {
        let mut turn = ApplyTurn::default();
        if let Some(mut install) = self.installing.take() {
            if install.step(&mut self.staging, &mut self.state).map_err(|_| Died)? {
                turn.installed = true;
                self.inbox.publish(self.state.read_view().position.revision, watch::Published::TooMany);
                self.let_reads_go(now_ms, &mut turn);
            } else {
                self.installing = Some(install);
            }
            return Ok(turn);
        }
        let mut batch = Vec::new();
        for _ in 0..count {
            match self.to_apply.pop_front().expect("as many wait") {
                ApplyItem::Install(archive) => {
                    self.apply(std::mem::take(&mut batch), now_ms, &mut turn);
                    self.installing = Some(Install::new(&mut self.staging, &archive));
                    break;
                }
                ApplyItem::Discard(archive) => self.staging.discard(&archive).map_err(|_| Died)?,
                ApplyItem::Entries(entries) => batch.extend(entries),
                ApplyItem::Promoted(term) => {
                    self.apply(std::mem::take(&mut batch), now_ms, &mut turn);
                    self.keeper.promote(term, &self.state.read_view(), now_ms);
                }
                ApplyItem::Demoted => {
                    self.apply(std::mem::take(&mut batch), now_ms, &mut turn);
                    self.keeper.demote();
                }
            }
        }
        self.apply(batch, now_ms, &mut turn);
        Ok(turn)
    }

    fn apply(&mut self, entries: Vec<LogEntry>, now_ms: u64, turn: &mut ApplyTurn) {
        if entries.is_empty() {
            return;
        }
        let decoded = entries.iter().cloned().map(node::decode).collect();
        let applied = self.state.apply(decoded).expect("the member understands its own entries");
        assert_eq!(applied.len(), entries.len(), "raft hands out each entry once");
        for one in &applied {
            match &one.effects.events {
                Events::None => {}
                Events::Changes(changes) => {
                    self.inbox.publish(one.revision, watch::Published::Changes(Arc::clone(changes)));
                }
                Events::TooMany => self.inbox.publish(one.revision, watch::Published::TooMany),
            }
        }
        self.keeper.follow(applied.iter().flat_map(|one| one.effects.leases.iter().copied()), now_ms);
        self.let_reads_go(now_ms, turn);
        turn.applied.extend(entries.into_iter().zip(applied));
    }

    fn let_reads_go(&mut self, now_ms: u64, turn: &mut ApplyTurn) {
        let index = self.state.applied().0;
        let mut ready = Vec::new();
        self.read_waits.retain_mut(|reads| {
            let waits = reads.index > index;
            if !waits {
                ready.append(&mut reads.tickets);
            }
            waits
        });
        turn.ready.extend(self.deliver(ready, now_ms));
    }

    /// The watch thread; whether there is more to do.
    pub(super) fn watch_turn(&mut self, now_ms: u64) -> bool {
        let published = self.state.published();
        self.hub.step(&self.inbox, &|| published.load_full(), now_ms)
    }

    /// The reclaim thread; whether the log was cut. It is not cut above `keep`.
    pub(super) fn reclaim_turn(&mut self, flush: bool, keep: LogIndex) -> Result<bool, Died> {
        if flush {
            self.engine.flush();
        }
        // Archives read history that compaction lets go, and whoever gets one goes on behind it.
        if !self.open.is_empty() || self.state.installing().is_some() {
            return Ok(false);
        }
        let cut = node::give_back(&self.engine, KEEP_ENTRIES, &mut self.dropped).min(keep);
        if cut <= self.cut {
            return Ok(false);
        }
        self.cut = cut;
        let before = self.reader.first_index();
        self.log.cut_below(cut).map_err(|_| Died)?;
        Ok(self.reader.first_index() > before)
    }

    /// Whether `Handle::linearizable` would answer from the published view now, without a round.
    pub(super) fn reads_are_local(&self) -> bool {
        self.local_reads_from.is_some_and(|from| self.state.applied().0 >= from)
    }

    pub(super) fn leases(&self) -> usize {
        conclave_server::lease::all(&self.state.read_view().view).len()
    }
}

/// A crash between raft's taking an archive and its being the state: it is put in before anything else.
fn put_in_what_is_due(
    machine: &Machine,
    cluster: ClusterId,
    recovered: &Recovered,
    state: &mut State,
) -> Result<(Staging<SimFolder>, bool), Died> {
    let mut staging = Staging::open(machine.disk.folder(ARCHIVES), cluster).map_err(|_| Died)?;
    let due = node::install_due(recovered, &facts(state), state.installing(), staging.staged());
    let reinstalled = due.expect("an archive that raft took is there");
    if reinstalled {
        let meta = staging.staged().expect("it is due").clone();
        Install::new(&mut staging, &meta).finish(&mut staging, state).map_err(|_| Died)?;
    }
    staging.discard_applied(state.applied().0).map_err(|_| Died)?;
    Ok((staging, reinstalled))
}

fn driver_config(member: MemberId, boot: u64, seed: u64) -> DriverConfig {
    DriverConfig { member, boot, heartbeat_ms: 100, election_ms: ELECTION_MS, proposal_timeout_ms: TIMEOUT_MS, seed }
}

fn encode_own(identity: Identity, term: Term, kind: Kind) -> bytes::Bytes {
    super::turns::encode(identity, Ticket(0), term, bytes::Bytes::new(), kind)
}

fn facts(state: &State) -> StateFacts {
    StateFacts { applied: state.applied(), unfinished: state.unfinished(), conf_state: state.conf_state().to_vec() }
}

pub(super) fn slot(entry: &LogEntry) -> Slot {
    Slot { index: entry.index, term: entry.term, digest: digest(&entry.data) }
}

fn seen(machine: &Machine, recovered: &Recovered, reader: &LogReader<SimFolder>, applied: LogIndex) -> Started {
    let HardState { term, vote, .. } = recovered.hard_state;
    let log = if recovered.first <= recovered.last {
        let read = reader.read(recovered.first, recovered.last.next(), u64::MAX);
        read.expect("a log that was just opened").iter().map(slot).collect()
    } else {
        Vec::new()
    };
    Started { member: machine.id, term, vote, base: recovered.base, log, applied }
}
