//! A follower behind a cut log gets the state as an archive, and dies at every single call to its disk on the way: while
//! chunks are staged, while the log begins anew, while the state is put in. Whatever is left, it comes back, catches up,
//! and ends with the bytes that the leader has. Writes go on all the time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{self as entry, command::Kind},
    etcdserverpb as pb,
};
use conclave_server::{
    engine::{Engine, Family, MemoryEngine, Read},
    members::Member as Record,
    node::{
        self, Driver, DriverConfig, Effects, Identity, Input, Install, InstallFailed, Message, MessageKind, Persist,
        Proposal, Session, Staging, StateFacts, TICK_MS, Ticket, Verdict,
        log::{LogEntry, LogOptions, LogStore, OpenError},
    },
    snapshot::{Archive, ArchiveMeta, Sender, ToReceiver, ToSender, Verdict as Heard},
    state::{Point, State},
    types::{ClusterId, LogIndex, MemberId, Revision, Term},
};
use conclave_tests::sim::disk::{Fault, SimDisk, SimFolder};
use prost::Message as _;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CLUSTER: ClusterId = ClusterId(0xc0);
const VICTIM: usize = 2;
/// Small, so that a few entries fill several.
const SEGMENT_BYTES: u64 = 128 << 10;

/// The process died in a disk call.
struct Died;

enum Item {
    Entries(Vec<LogEntry>),
    Install(ArchiveMeta),
    Discard(ArchiveMeta),
}

struct Running {
    driver: Driver<SimFolder>,
    log: LogStore<SimFolder>,
    state: State,
    staging: Staging<SimFolder>,
    inputs: Vec<Input>,
    to_log: VecDeque<Persist>,
    to_apply: VecDeque<Item>,
    install: Option<Install>,
    session: Option<Session>,
    answers: VecDeque<ToSender>,
}

struct Machine {
    id: MemberId,
    disk: SimDisk,
    engine: MemoryEngine,
    boots: u64,
    initialised: bool,
    running: Option<Running>,
}

/// What a death leaves of what was not synced.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Killed,
    AllLost,
    SomeLost,
}

/// What happened in a run.
#[derive(Default)]
struct Seen {
    archives: u32,
    resumed: u32,
    redone: u32,
    installed: u32,
    ignored: u32,
}

struct World {
    machines: Vec<Machine>,
    network: Vec<Message>,
    now_ms: u64,
    /// From the leader to the victim: what it sends, and in which term.
    transfer: Option<(Sender, Term, MemberId)>,
    offered: Option<Sender>,
    written: u64,
    phase: u64,
    outcome: Outcome,
    seen: Seen,
    rng: ChaCha8Rng,
}

fn facts(state: &State) -> StateFacts {
    StateFacts { applied: state.applied(), unfinished: state.unfinished(), conf_state: state.conf_state().to_vec() }
}

impl Machine {
    fn start(&mut self, all: &[MemberId], seen: &mut Seen) -> Result<(), Died> {
        self.boots += 1;
        let engine = Engine::from(self.engine.clone());
        let mut state = State::open(engine);
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, log_id: 7, must_exist: self.initialised };
        let (log, recovered) = match LogStore::open(self.disk.folder("log"), options) {
            Ok(opened) => opened,
            Err(OpenError::Failed(_)) => return Err(Died),
            Err(other) => panic!("the log is refused: {other}"),
        };
        let mut staging = Staging::open(self.disk.folder("archive"), CLUSTER).map_err(|_| Died)?;
        let due = node::install_due(&recovered, &facts(&state), state.installing(), staging.staged());
        if due.expect("whatever a crash leaves fits together") {
            seen.redone += 1;
            let archive = staging.staged().unwrap().clone();
            match Install::new(&mut staging, &archive).finish(&mut staging, &mut state) {
                Ok(()) => {}
                Err(InstallFailed::Failed(_)) => return Err(Died),
                Err(damaged) => panic!("{damaged}"),
            }
        }
        staging.discard_applied(state.applied().0).map_err(|_| Died)?;
        if node::may_bootstrap(self.initialised, &recovered, &facts(&state)).expect("nothing was lost") {
            let record = |id: &MemberId| Record {
                id: *id,
                name: String::new(),
                peer_urls: vec![format!("http://member{id}:2380")],
                client_urls: Vec::new(),
                learner: false,
            };
            let records: Vec<_> = all.iter().map(record).collect();
            state.bootstrap(&records, node::first_conf_state(all));
        }
        self.initialised = true;
        let reader = log.reader();
        let start = node::fit(&recovered, |index| reader.term(index), facts(&state)).expect("log and state fit");
        let config = DriverConfig {
            member: self.id,
            boot: self.boots,
            heartbeat_ms: 100,
            election_ms: 1_000,
            proposal_timeout_ms: 7_000,
            seed: self.id.0 * 100 + self.boots,
        };
        let driver = Driver::new(config, &start, log.reader()).expect("raft starts from what was on disk");
        self.running = Some(Running {
            driver,
            log,
            state,
            staging,
            inputs: Vec::new(),
            to_log: VecDeque::new(),
            to_apply: VecDeque::new(),
            install: None,
            session: None,
            answers: VecDeque::new(),
        });
        Ok(())
    }
}

impl Running {
    fn raft(&mut self, now_ms: u64) -> Effects {
        let inputs = std::mem::take(&mut self.inputs);
        let mut effects = self.driver.drive(now_ms, inputs);
        if let Some(Verdict::Ignored(archive)) = effects.archive.take() {
            self.to_apply.push_back(Item::Discard(archive));
        }
        if let Some(archive) = effects.install.take() {
            self.to_apply.push_back(Item::Install(archive));
        }
        self.to_log.extend(effects.persist.take());
        if !effects.committed.is_empty() {
            self.to_apply.push_back(Item::Entries(std::mem::take(&mut effects.committed)));
        }
        effects
    }

    fn log(&mut self, send: &mut Vec<Message>) -> Result<(), Died> {
        let mut batches = self.to_log.drain(..);
        let Some(mut all) = batches.next() else { return Ok(()) };
        for later in batches {
            all.batch.merge(later.batch);
            all.held.merge(later.held);
        }
        let persisted = self.log.persist(&all.batch).map_err(|_| Died)?;
        send.extend(all.held.release(&persisted));
        self.inputs.push(Input::Persisted(persisted));
        self.log.prepare().map_err(|_| Died)
    }

    fn apply(&mut self, seen: &mut Seen) -> Result<(), Died> {
        if let Some(install) = &mut self.install {
            match install.step(&mut self.staging, &mut self.state) {
                Ok(true) => self.install = None,
                Ok(false) => return Ok(()),
                Err(InstallFailed::Failed(_)) => return Err(Died),
                Err(damaged) => panic!("{damaged}"),
            }
            seen.installed += 1;
            self.inputs.push(Input::Applied(self.state.applied().0));
            return Ok(());
        }
        match self.to_apply.pop_front() {
            None => {}
            Some(Item::Entries(entries)) => {
                let entries = entries.into_iter().map(node::decode).collect();
                self.state.apply(entries).expect("the entries may be applied");
                self.inputs.push(Input::Applied(self.state.applied().0));
            }
            Some(Item::Install(archive)) => self.install = Some(Install::new(&mut self.staging, &archive)),
            Some(Item::Discard(archive)) => {
                seen.ignored += 1;
                self.staging.discard(&archive).map_err(|_| Died)?;
            }
        }
        Ok(())
    }
}

impl World {
    fn new(outcome: Outcome) -> Self {
        let machine = |id| Machine {
            id: MemberId(id),
            disk: SimDisk::new(),
            engine: MemoryEngine::new(id),
            boots: 0,
            initialised: false,
            running: None,
        };
        Self {
            machines: (1..=3).map(machine).collect(),
            network: Vec::new(),
            now_ms: 0,
            transfer: None,
            offered: None,
            written: 0,
            phase: 0,
            outcome,
            seen: Seen::default(),
            rng: ChaCha8Rng::seed_from_u64(0),
        }
    }

    fn start(&mut self, place: usize) {
        let all: Vec<_> = self.machines.iter().map(|machine| machine.id).collect();
        if self.machines[place].start(&all, &mut self.seen).is_err() {
            self.crash(place);
        }
    }

    /// The process dies, or the power goes: then what was not synced is lost in part. What the engine did not flush may
    /// be gone both times.
    fn crash(&mut self, place: usize) {
        let Self { machines, rng, .. } = self;
        let machine = &mut machines[place];
        machine.running = None;
        machine.engine = machine.engine.crash(rng);
        match self.outcome {
            // What it wrote is there, and not durable.
            Outcome::Killed => machine.disk.kill(),
            Outcome::AllLost => machine.disk.power_off(&mut |_| 0),
            Outcome::SomeLost => machine.disk.power_off(&mut |below| rng.random_range(0..below)),
        }
        if let Some((sender, term, _)) = &mut self.transfer {
            sender.begin(*term);
        }
    }

    fn leader(&self) -> Option<usize> {
        let leads = |machine: &Machine| machine.running.as_ref().is_some_and(|r| r.driver.standing().leading);
        self.machines.iter().position(leads)
    }

    fn put(&mut self, bytes: usize) {
        let Some(place) = self.leader() else { return };
        self.written += 1;
        let key = format!("key{:03}", self.written % 37);
        let kind = if self.written.is_multiple_of(41) {
            let revision = self.machines[place].running.as_ref().unwrap().state.read_view().position.revision;
            Kind::Compact(entry::Compact { revision: revision.0 - 10 })
        } else {
            let value = vec![u8::try_from(self.written % 251).unwrap(); bytes];
            Kind::Put(pb::PutRequest { key: key.into(), value: value.into(), ..pb::PutRequest::default() })
        };
        let running = self.machines[place].running.as_mut().unwrap();
        let identity = Identity { cluster: CLUSTER, member: MemberId(place as u64 + 1), boot: 1 };
        let term = running.driver.standing().term;
        let data = node::entry(identity, Ticket(0), term, Bytes::new(), kind).encode_to_vec().into();
        running.inputs.push(Input::Propose(vec![Proposal { ticket: Ticket(0), data }]));
    }

    /// Everybody does a little; 10 ms go by.
    fn round(&mut self) {
        self.now_ms += TICK_MS;
        for message in std::mem::take(&mut self.network) {
            let place = usize::try_from(message.to.0 - 1).unwrap();
            if let Some(running) = &mut self.machines[place].running {
                running.inputs.push(Input::Message(message));
            }
        }
        for place in 0..self.machines.len() {
            if self.machines[place].running.is_none() {
                continue;
            }
            if self.turn(place).is_err() {
                self.crash(place);
            }
        }
        if self.exchange().is_err() {
            self.crash(VICTIM);
        }
    }

    fn turn(&mut self, place: usize) -> Result<(), Died> {
        let Self { machines, network, seen, .. } = self;
        let running = machines[place].running.as_mut().unwrap();
        running.inputs.push(Input::Tick);
        let mut effects = running.raft(self.now_ms);
        let mut send = std::mem::take(&mut effects.send);
        // A slow disk: what must wait for its log thread would be seen to overtake it.
        if (self.now_ms / TICK_MS + self.phase).is_multiple_of(4) {
            running.log(&mut send)?;
        }
        running.apply(seen)?;
        for to in effects.wants_archive {
            let view = running.state.read_view();
            if self.transfer.is_none() && self.offered.is_none() {
                let Point { index, term, revision, compacted, conf_state } = Point::of_view(&view.view).unwrap();
                let meta = ArchiveMeta { cluster: CLUSTER, index, term, revision, conf_state };
                self.offered = Some(Sender::new(Archive::new(view.view.clone(), meta.clone(), compacted)));
                running.inputs.push(Input::ArchiveOffered { to, archive: meta });
                seen.archives += 1;
            }
        }
        for message in send {
            if message.kind == MessageKind::Snapshot {
                let mut sender = self.offered.take().expect("raft sends what was offered");
                sender.begin(message.term);
                self.transfer = Some((sender, message.term, message.from));
            } else {
                network.push(message);
            }
        }
        Ok(())
    }

    /// The connection that carries the archive moves one frame each way. It is a new one whenever the victim started.
    fn exchange(&mut self) -> Result<(), Died> {
        let Some((sender, term, from)) = &mut self.transfer else { return Ok(()) };
        let Some(victim) = &mut self.machines[VICTIM].running else { return Ok(()) };
        let mut staged = None;
        let answer = match victim.session {
            None => {
                let ToReceiver::Begin { meta, term } = sender.begin(*term) else { panic!("it begins") };
                let applied = victim.state.applied().0;
                let (session, answer) = victim.staging.begin(&meta, term, applied).map_err(|_| Died)?;
                self.seen.resumed += u32::from(matches!(answer, ToSender::Have(chunks) if chunks > 0));
                victim.session = Some(session);
                Some(answer)
            }
            Some(session) => match sender.next_chunk() {
                Some(chunk) => Some(victim.staging.chunk(session, &chunk).map_err(|_| Died)?),
                None => None,
            },
        };
        victim.answers.extend(answer);
        let mut over = None;
        if let Some(answer) = victim.answers.pop_front() {
            if answer == ToSender::Staged {
                staged = Some(node::snapshot_message(*from, MemberId(3), *term, sender.meta()));
            }
            match sender.hear(answer) {
                Heard::GoesOn => {}
                Heard::Done => over = Some(true),
                Heard::Over => over = Some(false),
            }
        }
        victim.inputs.extend(staged.map(Input::ArchiveStaged));
        if let Some(ok) = over {
            victim.session = None;
            let leader = usize::try_from(from.0 - 1).unwrap();
            self.transfer = None;
            if let Some(running) = &mut self.machines[leader].running {
                running.inputs.push(Input::ArchiveSent { to: MemberId(3), ok });
            }
        }
        Ok(())
    }

    fn rounds_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for round in 0..3_000_u32 {
            if done(self) {
                return;
            }
            // Writes go on.
            if round.is_multiple_of(20) {
                self.put(300);
            }
            self.round();
            for place in 0..3 {
                if self.machines[place].running.is_none() && place == VICTIM && what != "cut" {
                    self.start(place);
                }
            }
        }
        panic!("{what}: not within 30 simulated seconds");
    }

    fn applied(&self, place: usize) -> LogIndex {
        self.machines[place].running.as_ref().map_or(LogIndex(0), |running| running.state.applied().0)
    }

    /// A victim that stopped early, and two others that cut the log behind it.
    fn prepared(outcome: Outcome) -> Self {
        let mut world = Self::new(outcome);
        (0..3).for_each(|place| world.start(place));
        world.rounds_until("a leader", |world| {
            world.leader().is_some() && (0..3).all(|place| world.applied(place) > LogIndex(3))
        });
        assert_ne!(world.leader(), Some(VICTIM), "choose other election seeds");
        world.machines[VICTIM].running = None;
        world.machines[VICTIM].disk.kill();
        for _ in 0..120 {
            world.put(50_000);
            for _ in 0..4 {
                world.round();
            }
        }
        for place in 0..VICTIM {
            let engine = Engine::from(world.machines[place].engine.clone());
            let running = world.machines[place].running.as_mut().unwrap();
            let mut dropped = Revision::NEVER;
            let cut = node::give_back(&engine, 5, &mut dropped);
            engine.flush();
            let cut = cut.max(node::give_back(&engine, 5, &mut dropped));
            running.log.cut_below(cut).ok().unwrap();
            assert!(running.log.reader().first_index() > LogIndex(60), "the log is cut");
        }
        world
    }

    fn caught_up(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let commit = self.machines[leader].running.as_ref().unwrap().driver.standing().commit;
        self.applied(VICTIM) == commit && self.applied(leader) == commit && self.network.is_empty()
            || self.applied(VICTIM) == self.applied(leader) && self.applied(leader) >= commit
    }

    fn dump(&self, place: usize) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
        let point = Point::of_view(&self.machines[place].running.as_ref().unwrap().state.read_view().view).unwrap();
        let view = Engine::from(self.machines[place].engine.clone()).view();
        let mut all = Vec::new();
        for family in Family::ALL {
            let mut cursor = view.scan(family, b"", None);
            while cursor.valid() {
                if !conclave_server::engine::droppable(family, cursor.key(), cursor.value(), point.compacted) {
                    all.push((family, cursor.key().to_vec(), cursor.value().to_vec()));
                }
                cursor.next();
            }
        }
        all
    }
}

/// One run with a death at this call; false if the victim had caught up before.
fn dies_at(call: u64, outcome: Outcome, total: &mut Seen) -> bool {
    let mut world = World::prepared(outcome);
    world.rng = ChaCha8Rng::seed_from_u64(call);
    world.phase = call / 2;
    let first = world.machines[VICTIM].disk.calls();
    world.machines[VICTIM].disk.plan(first + call, Fault::Crash);
    world.start(VICTIM);
    world.rounds_until("the first life", |world| world.machines[VICTIM].boots > 2 || world.caught_up());
    let died = world.machines[VICTIM].boots > 2;
    if died && call.is_multiple_of(3) {
        // What a start does again dies too.
        let now = world.machines[VICTIM].disk.calls();
        world.machines[VICTIM].disk.plan(now + 1 + call % 7, Fault::Crash);
    }
    world.rounds_until("catching up", World::caught_up);
    let leader = world.leader().unwrap();
    assert!(world.dump(leader) == world.dump(VICTIM), "call {call}, {outcome:?}: the states differ");
    assert!(world.seen.archives > 0, "call {call}: it took an archive to get there");
    let files = world.machines[VICTIM].disk.files("archive");
    assert!(!files.contains_key("staged"), "call {call}: what was put in is removed");
    total.archives += world.seen.archives;
    total.resumed += world.seen.resumed;
    total.redone += world.seen.redone;
    total.installed += world.seen.installed;
    total.ignored += world.seen.ignored;
    died
}

#[test]
fn a_death_at_any_disk_call_is_survived() {
    let (mut runs, mut total) = (0, Seen::default());
    for outcome in [Outcome::Killed, Outcome::AllLost, Outcome::SomeLost] {
        for call in 1.. {
            runs += 1;
            if !dies_at(call, outcome, &mut total) {
                break;
            }
        }
    }
    let Seen { archives, resumed, redone, installed, ignored } = total;
    println!(
        "{runs} runs: {archives} archives, {resumed} resumed at a chunk, {installed} installed, {redone} put in again at \
         a start, {ignored} of no use"
    );
    assert!(runs > 100 && resumed > 3 && redone > 5, "the interesting cases were met");
}

#[test]
fn without_a_crash_it_is_one_archive() {
    let mut world = World::prepared(Outcome::Killed);
    world.start(VICTIM);
    world.rounds_until("catching up", World::caught_up);
    assert_eq!((world.seen.archives, world.seen.installed, world.seen.redone), (1, 1, 0));
    let leader = world.leader().unwrap();
    assert!(world.dump(leader) == world.dump(VICTIM));
    let files = world.machines[VICTIM].disk.files("archive");
    assert!(files.is_empty(), "the staged file is gone: {:?}", files.keys());
}
