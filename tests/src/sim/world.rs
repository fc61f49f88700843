//! A cluster on its machines, with its clients, from one seed: what is due next happens, and everything that happens is
//! shown to the judge.

use std::collections::{BTreeMap, VecDeque};

use conclave_server::{
    engine::MemoryEngine,
    members::{self, Member as MemberRecord},
    node::{self, Message},
    types::{ClusterId, LogIndex, MemberId},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    archives::Transfer,
    clients::{Client, Pending, SlowReader},
    commands::Leases,
    counts::Counts,
    invariants::Judge,
    machine::Machine,
    nemesis::Trouble,
    network::Network,
    options::Options,
    oracle::Oracle,
    schedule::{Schedule, Task, Thread},
    seen::Seen,
    watcher::Watcher,
};

/// Lines that a run which fails prints, if it was not traced.
const LAST_LINES: usize = 60;
const WATCHERS: usize = 4;

/// See the top of this file.
pub struct World {
    pub(super) seed: u64,
    pub(super) options: Options,
    pub(super) rng: ChaCha8Rng,
    pub(super) schedule: Schedule,
    pub(super) network: Network,
    pub(super) first: Vec<MemberRecord>,
    pub(super) cluster: ClusterId,
    pub(super) machines: Vec<Machine>,
    pub(super) oracle: Oracle,
    pub(super) judge: Judge,
    pub(super) clients: Vec<Client>,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) watchers: Vec<Watcher>,
    pub(super) leases: Leases,
    pub(super) slow: Option<SlowReader>,
    pub(super) troubles: BTreeMap<u64, Trouble>,
    pub(super) transfers: BTreeMap<u64, Transfer>,
    /// Numbers operations, attempts and troubles.
    pub(super) sequence: u64,
    pub(super) leader: Option<MemberId>,
    pub(super) last_leader: Option<MemberId>,
    pub(super) healing: bool,
    pub(super) counts: Counts,
    hash: u32,
    trace: bool,
    last_lines: VecDeque<String>,
    recorded: Option<Vec<Seen>>,
}

impl World {
    /// `members`: as many as that, or as many as the seed says. `trace`: print each event.
    #[must_use]
    pub fn new(seed: u64, members: Option<usize>, trace: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let options = Options::draw(&mut rng, members);
        let ids: Vec<_> = (1..=options.members as u64).map(MemberId).collect();
        let record = |id: &MemberId| MemberRecord {
            id: *id,
            name: String::new(),
            peer_urls: vec![format!("http://m{id}:2380")],
            client_urls: Vec::new(),
            learner: false,
        };
        let first: Vec<_> = ids.iter().map(record).collect();
        let machines = ids.iter().map(|id| {
            let rate = if options.drift { rng.random_range(800..=1_200) } else { 1_000 };
            Machine::new(*id, members::cluster_id(&ids), MemoryEngine::new(rng.random()), rate)
        });
        let machines = machines.collect();
        let watchers = (0..WATCHERS).map(|_| Watcher::random(&mut rng)).collect();
        let clients = (0..options.clients).map(|_| Client::new(rng.random_range(0..options.members))).collect();
        let mut world = Self {
            seed,
            options,
            oracle: Oracle::new(&first, node::first_conf_state(&ids)),
            cluster: members::cluster_id(&ids),
            rng,
            schedule: Schedule::default(),
            network: Network::default(),
            first,
            machines,
            judge: Judge::new(),
            clients,
            pending: BTreeMap::new(),
            watchers,
            leases: Leases::new(options.reused_leases),
            slow: None,
            troubles: BTreeMap::new(),
            transfers: BTreeMap::new(),
            sequence: 0,
            leader: None,
            last_leader: None,
            healing: false,
            counts: Counts::default(),
            hash: 0,
            trace,
            last_lines: VecDeque::new(),
            recorded: None,
        };
        world.note(format_args!("seed {seed}: {options:?}"));
        world
    }

    /// What this seed does, in one line.
    #[must_use]
    pub fn options(&self) -> Options {
        self.options
    }

    /// Runs for so long with misfortunes, then heals and demands that everything comes right. Returns what happened, and
    /// a hash over the trace: equal for equal seeds.
    ///
    /// # Panics
    /// If something that must be so is not.
    pub fn run(mut self, run_ms: u64) -> (Counts, u32) {
        self.go(run_ms);
        (self.counts, self.hash)
    }

    fn go(&mut self, run_ms: u64) {
        self.begin();
        let end_us = run_ms * 1_000;
        while self.schedule.now_us() < end_us {
            let task = self.schedule.next().expect("clients and clocks go on for ever");
            self.carry_out(task);
        }
        self.heal();
        self.sum_up();
    }

    /// As [`World::run`], and returns all that was seen.
    ///
    /// # Panics
    /// If something that must be so is not.
    #[must_use]
    pub fn record(mut self, run_ms: u64) -> Vec<Seen> {
        self.recorded = Some(Vec::new());
        self.go(run_ms);
        self.recorded.take().expect("it was just begun")
    }

    fn begin(&mut self) {
        for member in 0..self.machines.len() {
            let delay = self.rng.random_range(0..200_000);
            self.schedule.after(delay, Task::Start(member));
        }
        for client in 0..self.clients.len() {
            let delay = self.think_us();
            self.schedule.after(delay, Task::Client(client));
        }
        for watcher in 0..self.watchers.len() {
            self.schedule.after(1_000, Task::Watcher(watcher));
        }
        self.schedule.after(1_000, Task::PastRead);
        let delay = self.calm_us();
        self.schedule.after(delay, Task::Misfortune);
    }

    pub(super) fn carry_out(&mut self, task: Task) {
        self.counts.events += 1;
        match task {
            Task::Start(member) => self.start(member),
            Task::Tick { member, life } | Task::Turn { member, life, .. } if self.machines[member].life != life => {}
            Task::Tick { member, .. } | Task::Turn { member, .. } if self.is_paused(member) => {
                self.put_off(member, task)
            }
            Task::Tick { member, .. } => self.tick(member),
            Task::Turn { member, thread, .. } => self.turn(member, thread),
            Task::Deliver(message) => self.deliver(message),
            Task::Client(client) => self.client(client),
            Task::Complete(ticket) => self.complete(ticket),
            Task::TimeOut(ticket) => self.time_out(ticket),
            Task::Archive(transfer) => self.carry_archive(transfer),
            Task::Watcher(watcher) => self.watcher(watcher),
            Task::PastRead => self.past_read(),
            Task::Misfortune => self.misfortune(),
            Task::Relief(trouble) => self.relieve(trouble),
        }
    }

    /// A paused process does everything that it missed when it goes on.
    pub(super) fn put_off(&mut self, member: usize, task: Task) {
        let until = self.machines[member].paused_until_us;
        self.schedule.at(until, task);
    }

    pub(super) fn is_paused(&self, member: usize) -> bool {
        self.machines[member].paused_until_us > self.schedule.now_us()
    }

    /// The place of a member among the machines: ids begin at 1.
    pub(super) fn place(id: MemberId) -> usize {
        usize::try_from(id.0 - 1).expect("a small id")
    }

    pub(super) fn local_ms(&self, member: usize) -> u64 {
        self.machines[member].local_ms(self.schedule.now_us())
    }

    /// All clocks, as the judge wants them.
    pub(super) fn clocks(&self) -> Vec<(MemberId, u64)> {
        let now_us = self.schedule.now_us();
        self.machines.iter().map(|machine| (machine.id, machine.local_ms(now_us))).collect()
    }

    pub(super) fn number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(super) fn think_us(&mut self) -> u64 {
        self.rng.random_range(0..=self.options.think_ms * 2_000)
    }

    pub(super) fn calm_us(&mut self) -> u64 {
        self.rng.random_range(0..=self.options.calm_ms * 2_000)
    }

    /// Members that clients reach: they run, and serve.
    pub(super) fn serving(&self) -> Vec<usize> {
        let serves =
            |machine: &Machine| machine.member.as_ref().is_some_and(|member| member.state.unfinished().is_none());
        (0..self.machines.len()).filter(|place| serves(&self.machines[*place])).collect()
    }

    /// Makes each thread that has something to do run soon.
    pub(super) fn wake(&mut self, member: usize) {
        let Some(running) = &self.machines[member].member else { return };
        let due = [
            (Thread::Raft, running.raft_waits()),
            (Thread::Log, running.log_waits() > 0),
            (Thread::Apply, running.apply_waits() > 0),
            (Thread::Mark, running.log_waits() == 0 && running.wants_mark()),
        ];
        for (thread, _) in due.into_iter().filter(|(_, due)| *due) {
            self.wake_thread(member, thread);
        }
    }

    pub(super) fn wake_thread(&mut self, member: usize, thread: Thread) {
        let machine = &mut self.machines[member];
        if machine.member.is_none() || std::mem::replace(&mut machine.scheduled[thread as usize], true) {
            return;
        }
        let life = machine.life;
        let delay = self.delay_us(member, thread);
        self.schedule.after(delay, Task::Turn { member, life, thread });
    }

    /// How long a thread takes until it has done its turn.
    fn delay_us(&mut self, member: usize, thread: Thread) -> u64 {
        let Options { turn_us, sync_us, stalls, .. } = self.options;
        let slow = self.machines[member].slow_until_us > self.schedule.now_us();
        let rng = &mut self.rng;
        let usual = match thread {
            Thread::Raft | Thread::Apply | Thread::Watch => turn_us,
            Thread::Log if slow => return rng.random_range(50_000..600_000),
            Thread::Log => sync_us,
            // `log_thread::IDLE`.
            Thread::Mark => return 100_000,
            Thread::Reclaim => return rng.random_range(100_000..1_000_000),
        };
        if stalls && rng.random_ratio(1, 100) {
            return rng.random_range(usual..=usual * 100);
        }
        rng.random_range(usual / 2..=usual * 2)
    }

    /// Shows the judge what happened.
    ///
    /// # Panics
    /// If an invariant is broken.
    #[track_caller]
    pub(super) fn see(&mut self, seen: &Seen) {
        if let Some(recorded) = &mut self.recorded {
            recorded.push(seen.clone());
        }
        if let Err(why) = self.judge.see(seen) {
            self.note(format_args!("{why}"));
            panic!("seed {}: {why}", self.seed);
        }
    }

    /// One line of the trace.
    pub(super) fn note(&mut self, line: std::fmt::Arguments<'_>) {
        let now_us = self.schedule.now_us();
        let line = format!("{:>6}.{:06} {line}", now_us / 1_000_000, now_us % 1_000_000);
        self.hash = crc32c::crc32c_append(self.hash, line.as_bytes());
        if self.trace {
            println!("{line}");
            return;
        }
        if self.last_lines.len() == LAST_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line);
    }

    /// A message in the trace: told in full only where somebody reads it.
    pub(super) fn arrives(&mut self, message: &Message) {
        for part in [message.from.0, message.to.0, message.term.0, message.index.0, message.entries.len() as u64] {
            self.hash = crc32c::crc32c_append(self.hash, &part.to_le_bytes());
        }
        if self.trace {
            let Message { kind, from, to, term, index, log_term, commit, .. } = message;
            let (now_us, entries) = (self.schedule.now_us(), message.entries.len());
            let reject =
                if message.reject { format!(", rejects, hint {}", message.reject_hint) } else { String::new() };
            println!(
                "{:>6}.{:06}     m{from}→m{to} {kind:?} term {term}, {index}@{log_term}, {entries} entries, commit {commit}{reject}",
                now_us / 1_000_000,
                now_us % 1_000_000
            );
        }
    }

    fn sum_up(&mut self) {
        self.counts.runs = 1;
        self.counts.virtual_ms = self.schedule.now_us() / 1_000;
        self.counts.decided = self.judge.truth().applied().0;
        for machine in &self.machines {
            let (disk, engine) = (machine.disk.counts(), machine.engine.counts());
            self.counts.unsynced_lost += disk.lossy;
            self.counts.disk_errors += disk.errors;
            self.counts.flush_rollbacks += engine.rollbacks;
            self.counts.history_dropped += engine.dropped;
        }
    }

    /// What everybody has applied: above it, the log must be kept for those who have not.
    pub(super) fn held_by_all(&self) -> LogIndex {
        self.machines.iter().map(|machine| machine.applied_to).min().unwrap_or_default()
    }
}

impl Drop for World {
    /// A run that fails tells how it came to that.
    fn drop(&mut self) {
        if std::thread::panicking() && !self.trace {
            println!("{:?}", self.options);
            self.last_lines.iter().for_each(|line| println!("{line}"));
        }
    }
}
