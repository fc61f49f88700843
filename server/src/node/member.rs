//! Putting a member together from its parts, and taking it down in order.

use std::{
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    apply_thread::ApplyThread,
    archives::Outgoing,
    core::RaftStart,
    drive::{Driver, DriverConfig},
    handle::{Handle, Limits},
    keeper::Keeper,
    log::{LogIo, LogStore},
    log_thread::{CutBelow, LogThread},
    publish::Publisher,
    queue::Queue,
    raft_thread::{Clock, Event, RaftThread},
    reclaim::{KeepLog, Reclaim},
    shared::{Identity, Shared, Sorted},
    staging::Staging,
    thread::spawn,
    transport::Transport,
    watch_thread,
};
use crate::{
    engine::Engine,
    error::Error,
    state::State,
    types::LogIndex,
    watch::{HubOptions, Inbox},
};

/// Requests of watch streams that wait for the hub. Each stream has one or two; more than this many at once is a storm,
/// and its streams are refused rather than queued.
const MAX_WATCH_INPUTS: usize = 65_536;
/// Changes that wait for the hub, in bytes. When it falls behind by more it reads them from the store.
const MAX_PUBLISH_BYTES: usize = 32 << 20;
/// How long a clean stop waits for what is in flight: what a client would wait for its proposal.
const DRAIN: Duration = Duration::from_secs(7);
/// The same with other voters: what they do not answer soon they will not answer, and the others serve on.
const DRAIN_AMONG_OTHERS: Duration = Duration::from_secs(1);
/// How long a hand-over of leadership may take: raft gives up after an election timeout, and whoever stops this member
/// waits for it.
const HAND_OVER: Duration = Duration::from_secs(1);
/// How often a clean stop looks whether anything is still in flight; a sync takes about as long.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// What a running member is made of.
pub(super) struct Parts<Io: LogIo> {
    pub(super) identity: Identity,
    pub(super) start: RaftStart,
    pub(super) state: State,
    pub(super) engine: Engine,
    pub(super) log: LogStore<Io>,
    pub(super) staging: Arc<Mutex<Staging<Io>>>,
    pub(super) transport: Transport,
    pub(super) watch: HubOptions,
    pub(super) keep_log: KeepLog,
    pub(super) name: String,
    pub(super) client_urls: Vec<String>,
    pub(super) heartbeat_ms: u64,
    pub(super) election_ms: u64,
    pub(super) max_request_bytes: usize,
    /// Decides the election timeouts.
    pub(super) seed: u64,
}

/// A member that runs. Dropping it without [`Running::stop`] leaves its threads running until the process ends.
pub(super) struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) transport: Transport,
    events: Arc<Queue<Event>>,
    engine: Engine,
    limits: Limits,
    raft: JoinHandle<()>,
    log: JoinHandle<()>,
    apply: JoinHandle<State>,
    watch: JoinHandle<()>,
    reclaim: JoinHandle<()>,
    applies: Arc<Queue<super::apply_thread::ApplyItem>>,
    pub(super) carrier: Arc<Queue<Outgoing>>,
}

/// Starts the threads.
pub(super) fn run<Io: LogIo>(parts: Parts<Io>) -> Result<Running, String> {
    // etcd's request timeout: 5 s for the disk, and two elections.
    let proposal_timeout_ms = 5_000 + 2 * parts.election_ms;
    let limits =
        Limits { max_request_bytes: parts.max_request_bytes, proposal_timeout_ms, election_ms: parts.election_ms };
    let config = DriverConfig {
        member: parts.identity.member,
        boot: parts.identity.boot,
        heartbeat_ms: parts.heartbeat_ms,
        election_ms: parts.election_ms,
        proposal_timeout_ms,
        seed: parts.seed,
    };
    let reader = parts.log.reader();
    let driver = Driver::new(config, &parts.start, reader.clone())?;

    let inbox = Arc::new(Inbox::new(MAX_WATCH_INPUTS, MAX_PUBLISH_BYTES));
    let keeper = Keeper::new(parts.election_ms);
    let transport = parts.transport;
    let stats = Arc::clone(transport.stats());
    let events = Arc::clone(transport.events());
    let published = parts.state.published();
    let shared = Arc::new(Shared::new(parts.identity, published, inbox, keeper, stats, Arc::clone(&events)));
    let applies = Arc::new(Queue::new());
    let batches = Arc::new(Queue::new());
    let cut_below = Arc::new(CutBelow::default());
    let carrier = Arc::new(Queue::new());
    transport.set_running();

    let raft = RaftThread {
        driver,
        shared: Arc::clone(&shared),
        events: Arc::clone(&events),
        log: Arc::clone(&batches),
        apply: Arc::clone(&applies),
        transport: transport.clone(),
        carrier: Arc::clone(&carrier),
        publisher: Publisher::new(parts.identity.member, parts.name, parts.client_urls),
        sorted: Sorted::default(),
        clock: Clock::new(parts.start.applied, parts.heartbeat_ms, parts.election_ms),
    };
    let log = LogThread {
        store: parts.log,
        batches,
        raft: Arc::clone(&events),
        transport: transport.clone(),
        stats: Arc::clone(&shared.stats),
        cut_below: Arc::clone(&cut_below),
    };
    let apply = ApplyThread::new(parts.state, parts.staging, Arc::clone(&shared), Arc::clone(&applies));
    let reclaim = Reclaim::new(Arc::clone(&shared), parts.engine.clone(), reader, cut_below, parts.keep_log);
    let watched = Arc::clone(&shared);
    let options = parts.watch;

    let failed = |error: std::io::Error| format!("a thread cannot be started: {error}");
    Ok(Running {
        apply: spawn("apply", move || apply.run()).map_err(failed)?,
        watch: spawn("watch", move || watch_thread::run(&watched, options)).map_err(failed)?,
        reclaim: spawn("reclaim", move || reclaim.run()).map_err(failed)?,
        log: spawn("log", move || log.run()).map_err(failed)?,
        raft: spawn("raft", move || raft.run()).map_err(failed)?,
        shared,
        transport,
        events,
        engine: parts.engine,
        limits,
        applies,
        carrier,
    })
}

impl Running {
    /// A handle for the runtime that calls, and the task that must run on it.
    pub(super) fn handle(&self) -> Option<(Handle, super::mailbox::Carrier)> {
        Handle::open(&self.shared, &self.events, &self.engine, self.limits)
    }

    /// Comes back once the entry is applied. Only for one that is committed and in the log.
    pub(super) fn wait_applied(&self, index: LogIndex) {
        while self.shared.applied() < index {
            std::thread::park_timeout(DRAIN_LOOK);
        }
    }

    /// If this member leads others, lets another one lead, and comes back when one does, or when the attempt failed. Until
    /// then, and after it, clients are served: what they propose meanwhile goes to the new leader.
    pub(super) fn hand_over(&self) {
        let shared = &self.shared;
        if !shared.leading() || shared.is_sole() {
            return;
        }
        let (began, term) = (Instant::now(), shared.term());
        self.events.push(Event::Abdicate);
        // The new leader is known when its first message came.
        while began.elapsed() < HAND_OVER && !(shared.term() > term && shared.has_leader()) {
            std::thread::park_timeout(DRAIN_LOOK);
        }
        let took_ms = began.elapsed().as_millis();
        let handed_over = shared.term() > term && !shared.leading();
        tracing::info!(target: "conclave", handed_over, took_ms, "handed leadership over before stopping");
    }

    /// Refuses what is new, answers what is in flight, and makes everything durable.
    pub(super) fn stop(self) {
        self.shared.set_stopping();
        let until = Instant::now() + if self.shared.is_sole() { DRAIN } else { DRAIN_AMONG_OTHERS };
        while self.shared.in_flight.proposals() > 0 && Instant::now() < until {
            std::thread::park_timeout(DRAIN_LOOK);
        }
        // From the front of the pipeline to its end: each thread finishes what it was given.
        self.events.close();
        join(self.raft);
        join(self.log);
        self.carrier.close();
        self.applies.close();
        let state = join(self.apply);
        self.shared.inbox.stop();
        join(self.watch);
        self.shared.reclaim.stop();
        join(self.reclaim);
        self.shared.fail_all(Error::Stopped);
        // A next start finds nothing to apply again.
        self.engine.flush();
        drop(state);
    }
}

fn join<R>(thread: JoinHandle<R>) -> R {
    thread.join().expect("a thread that panics stops the process")
}
