//! The parts of a member that runs, and the glue that the server's threads are. Each function is one turn of one thread.

use std::{collections::VecDeque, sync::Arc};

use conclave_server::{
    engine::{Engine, MemoryEngine},
    lease,
    members::Member as MemberRecord,
    node::{
        self, Driver, DriverConfig, Effects, Held, Identity, Input, Keeper, Persist, Standing, StateFacts,
        log::{LogBatch, LogEntry, LogOptions, LogReader, LogStore, OpenError, Persisted},
    },
    state::{Applied, State},
    types::{LogIndex, Revision},
    watch::{self, Hub, HubOptions, Inbox},
};

use super::disk::{SimDisk, SimFolder};

pub(super) const ELECTION_MS: u64 = 1_000;
/// Small, so that a short run fills several and cuts some.
const SEGMENT_BYTES: u64 = 32 << 10;
/// Entries kept in the log below what is flushed.
const KEEP_ENTRIES: u64 = 20;
const FOLDER: &str = "log";

enum ApplyItem {
    Entries(Vec<LogEntry>),
    Promoted(conclave_server::types::Term),
}

/// A member between a start and a crash.
pub(super) struct Member {
    pub(super) identity: Identity,
    driver: Driver<SimFolder>,
    log: LogStore<SimFolder>,
    reader: LogReader<SimFolder>,
    pub(super) state: State,
    engine: Engine,
    hub: Hub,
    pub(super) inbox: Inbox,
    pub(super) keeper: Keeper,
    inputs: Vec<Input>,
    to_log: VecDeque<Persist>,
    to_apply: VecDeque<ApplyItem>,
    pub(super) standing: Standing,
    local_reads_from: Option<LogIndex>,
    dropped: Revision,
    cut: LogIndex,
}

/// What a start found.
pub(super) struct Started {
    pub(super) member: Member,
    pub(super) torn: bool,
    pub(super) last: LogIndex,
    pub(super) unfinished: bool,
}

/// The process died in the middle of a disk call.
pub(super) struct Died;

/// What is the same in every life.
pub(super) struct Lasting<'a> {
    pub(super) disk: &'a SimDisk,
    pub(super) engine: &'a MemoryEngine,
    pub(super) first: &'a [MemberRecord],
    /// The first start was finished once; the server keeps this in its identity file.
    pub(super) initialised: &'a mut bool,
}

impl Member {
    /// The start of `node::start`, on the simulated machine.
    ///
    /// # Panics
    /// If the member refuses to start: nothing that a crash may leave is a reason to.
    pub(super) fn start(lasting: &mut Lasting<'_>, boot: u64) -> Result<Started, Died> {
        let engine = Engine::from(lasting.engine.clone());
        let mut state = State::open(engine.clone());
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, log_id: 7, must_exist: *lasting.initialised };
        let (log, recovered) = match LogStore::open(lasting.disk.folder(FOLDER), options) {
            Ok(opened) => opened,
            Err(OpenError::Failed(_)) => return Err(Died),
            Err(other) => panic!("the log is refused: {other}"),
        };
        let facts = |state: &State| StateFacts {
            applied: state.applied(),
            unfinished: state.unfinished(),
            conf_state: state.conf_state().to_vec(),
        };
        let id = lasting.first[0].id;
        if node::may_bootstrap(*lasting.initialised, &recovered, &facts(&state)).expect("nothing was lost") {
            state.bootstrap(lasting.first, node::first_conf_state(&[id]));
        }
        *lasting.initialised = true;
        let reader = log.reader();
        let start = node::fit(&recovered, |index| reader.term(index), facts(&state)).expect("log and state fit");
        let config = DriverConfig {
            member: id,
            boot,
            heartbeat_ms: 100,
            election_ms: ELECTION_MS,
            proposal_timeout_ms: 7_000,
            seed: boot,
        };
        let driver = Driver::new(config, &start, log.reader()).expect("raft starts from what was on disk");
        let identity = Identity { cluster: conclave_server::members::cluster_id(&[id]), member: id, boot };
        let hub_options = HubOptions {
            catch_up_bytes: 2_000,
            ring_bytes: 3_000,
            ..HubOptions::new(identity.cluster, identity.member)
        };
        let hub = Hub::new(hub_options, &state.read_view());
        let (last, unfinished) = (recovered.last, state.unfinished().is_some());
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
            inputs: Vec::new(),
            to_log: VecDeque::new(),
            to_apply: VecDeque::new(),
            standing: Standing::default(),
            local_reads_from: None,
            dropped: Revision::NEVER,
            cut: LogIndex(0),
        };
        Ok(Started { member, torn: recovered.torn.is_some(), last, unfinished })
    }

    pub(super) fn input(&mut self, input: Input) {
        self.inputs.push(input);
    }

    /// The raft thread: all inputs that wait, one drive, effects in the order that `drive` demands.
    pub(super) fn raft_turn(&mut self, now_ms: u64) -> Effects {
        let inputs = std::mem::take(&mut self.inputs);
        let mut effects = self.driver.drive(now_ms, inputs);
        let was_leading = std::mem::replace(&mut self.standing, effects.standing).leading;
        self.local_reads_from = effects.local_reads_from;
        if effects.standing.leading && !was_leading {
            self.to_apply.push_back(ApplyItem::Promoted(effects.standing.term));
        }
        assert!(effects.send.is_empty(), "a sole voter has nobody to write to");
        self.to_log.extend(effects.persist.take());
        let committed = std::mem::take(&mut effects.committed);
        if !committed.is_empty() {
            self.to_apply.push_back(ApplyItem::Entries(committed));
        }
        effects
    }

    pub(super) fn raft_waits(&self) -> bool {
        !self.inputs.is_empty()
    }

    pub(super) fn log_waits(&self) -> usize {
        self.to_log.len()
    }

    pub(super) fn apply_waits(&self) -> usize {
        self.to_apply.len()
    }

    /// The log thread: merges the first `count` batches into one sync.
    pub(super) fn log_turn(&mut self, count: usize) -> Result<(), Died> {
        let mut batches = self.to_log.drain(..count);
        let mut all = batches.next().expect("something waits");
        for later in batches {
            all.batch.merge(later.batch);
            all.held.merge(later.held);
        }
        let Persist { batch, held } = all;
        let persisted = self.persist(&batch)?;
        release(held, &persisted);
        self.inputs.push(Input::Persisted(persisted));
        self.log.prepare().map_err(|_| Died)
    }

    fn persist(&mut self, batch: &LogBatch) -> Result<Persisted, Died> {
        self.log.persist(batch).map_err(|_| Died)
    }

    /// The log thread when nothing came for a while.
    pub(super) fn mark_turn(&mut self) -> Result<(), Died> {
        if self.log.wants_mark() { self.log.write_mark().map_err(|_| Died) } else { Ok(()) }
    }

    /// The apply thread: the first `count` items. Calls `told` with each entry and its outcome, after all was published.
    pub(super) fn apply_turn(&mut self, count: usize, now_ms: u64, told: &mut dyn FnMut(&LogEntry, Applied)) {
        for item in self.to_apply.drain(..count) {
            match item {
                ApplyItem::Promoted(term) => self.keeper.promote(term, &self.state.read_view(), now_ms),
                ApplyItem::Entries(entries) => {
                    let decoded = entries.iter().cloned().map(node::decode).collect();
                    let applied = self.state.apply(decoded).expect("the member understands its own entries");
                    for one in &applied {
                        match &one.effects.events {
                            conclave_server::state::Events::None => {}
                            conclave_server::state::Events::Changes(changes) => {
                                self.inbox.publish(one.revision, watch::Published::Changes(Arc::clone(changes)));
                            }
                            conclave_server::state::Events::TooMany => {
                                self.inbox.publish(one.revision, watch::Published::TooMany);
                            }
                        }
                    }
                    let leases = applied.iter().flat_map(|one| one.effects.leases.iter().copied());
                    self.keeper.follow(leases, now_ms);
                    self.inputs.push(Input::Applied(self.state.applied().0));
                    for (entry, one) in entries.iter().zip(applied) {
                        told(entry, one);
                    }
                }
            }
        }
    }

    /// The watch thread.
    pub(super) fn watch_turn(&mut self, now_ms: u64) -> bool {
        let published = self.state.published();
        self.hub.step(&self.inbox, &|| published.load_full(), now_ms)
    }

    /// The reclaim thread; whether the log was cut.
    pub(super) fn reclaim_turn(&mut self, flush: bool) -> Result<bool, Died> {
        if flush {
            self.engine.flush();
        }
        let cut = node::give_back(&self.engine, KEEP_ENTRIES, &mut self.dropped);
        if cut <= self.cut {
            return Ok(false);
        }
        self.cut = cut;
        let before = self.reader.first_index();
        self.log.cut_below(cut).map_err(|_| Died)?;
        Ok(self.reader.first_index() > before)
    }

    /// Leases that ran out, as the raft thread proposes them.
    pub(super) fn expired(&self, now_ms: u64) -> Vec<conclave_proto::conclave::raft::v1::command::Kind> {
        if self.standing.leading { self.keeper.expired(self.standing.term, now_ms) } else { Vec::new() }
    }

    /// Whether `Handle::linearizable` would answer from the published view now.
    pub(super) fn may_read(&self) -> bool {
        self.local_reads_from.is_some_and(|from| self.state.applied().0 >= from)
    }

    pub(super) fn leases(&self) -> usize {
        lease::all(&self.state.read_view().view).len()
    }
}

fn release(held: Held, persisted: &Persisted) {
    assert!(held.release(persisted).is_empty(), "a sole voter holds nothing back for others");
}
