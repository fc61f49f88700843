//! Time, chance and misfortune: who runs next, and where the power goes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use conclave_proto::conclave::raft::v1::{self as entry, command::Kind};
use conclave_server::{
    engine::MemoryEngine,
    error::Error,
    members::{self, Member as MemberRecord},
    mvcc::{self, KeyRange, ReadView},
    node::{self, Input, Proposal, TICK_MS, Ticket, log::LogEntry},
    state::{Applied, LeaseEffect, Reply},
    types::{LeaseId, LogIndex, Revision},
};
use prost::Message as _;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    commands,
    disk::{Fault, SimDisk},
    member::{Died, Lasting, Member},
    oracle::{Oracle, collect},
    watcher::Watcher,
};

/// Requests that clients have under way at once.
const MAX_WAITING: usize = 12;
/// Turns in which a healed member must have answered and told everything: far more than it needs.
const HEAL_TURNS: usize = 20_000;

/// What a campaign met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub turns: u64,
    pub virtual_ms: u64,
    pub crashes: u64,
    /// Crashes in the middle of a disk call.
    pub crashes_in_calls: u64,
    /// Failed disk calls, after which the member stopped.
    pub disk_errors: u64,
    /// Crashes that lost unsynced sectors.
    pub unsynced_lost: u64,
    /// Starts that cut a torn tail.
    pub torn_tails: u64,
    /// Crashes that took the store back.
    pub flush_rollbacks: u64,
    /// Segments given back.
    pub log_cuts: u64,
    pub compactions: u64,
    /// Entries of history that were dropped.
    pub history_dropped: u64,
    pub acknowledged: u64,
    /// Requests whose outcome the client never learned, because the member died.
    pub unknown: u64,
    /// Of them, those that were made again under the same idempotency key.
    pub repeated: u64,
    pub reads: u64,
    pub past_reads: u64,
    /// Past reads through a view that history was dropped under.
    pub past_reads_refused: u64,
    pub events: u64,
    pub watchers_compacted: u64,
    pub leases_expired: u64,
}

impl Counts {
    pub fn add(&mut self, mut other: Self) {
        for (own, other) in self.fields_mut().into_iter().zip(other.fields_mut()) {
            *own.1 += *other.1;
        }
    }

    /// What should have happened in a campaign and did not.
    #[must_use]
    pub fn missing(mut self) -> Vec<&'static str> {
        self.fields_mut().into_iter().filter(|(_, count)| **count == 0).map(|(name, _)| name).collect()
    }

    fn fields_mut(&mut self) -> [(&'static str, &mut u64); 20] {
        [
            ("turns", &mut self.turns),
            ("virtual milliseconds", &mut self.virtual_ms),
            ("crashes", &mut self.crashes),
            ("crashes in the middle of a disk call", &mut self.crashes_in_calls),
            ("disk errors", &mut self.disk_errors),
            ("crashes with unsynced loss", &mut self.unsynced_lost),
            ("torn tails", &mut self.torn_tails),
            ("flush rollbacks", &mut self.flush_rollbacks),
            ("log cuts", &mut self.log_cuts),
            ("compactions", &mut self.compactions),
            ("entries of history dropped", &mut self.history_dropped),
            ("acknowledged writes", &mut self.acknowledged),
            ("requests of unknown outcome", &mut self.unknown),
            ("repeated requests", &mut self.repeated),
            ("linearizable reads", &mut self.reads),
            ("reads of the past", &mut self.past_reads),
            ("reads refused after a compaction", &mut self.past_reads_refused),
            ("watch events", &mut self.events),
            ("watchers told of a compaction", &mut self.watchers_compacted),
            ("leases expired", &mut self.leases_expired),
        ]
    }

    /// One line each.
    #[must_use]
    pub fn report(mut self) -> String {
        self.fields_mut().into_iter().map(|(name, count)| format!("{count:>10} {name}\n")).collect()
    }
}

struct Waiting {
    command: Kind,
    idempotency: Bytes,
}

struct SlowReader {
    view: std::sync::Arc<ReadView>,
    revision: Revision,
}

/// One member on one machine, with its clients, from one seed.
pub struct World {
    rng: ChaCha8Rng,
    now_ms: u64,
    disk: SimDisk,
    engine: MemoryEngine,
    first: Vec<MemberRecord>,
    initialised: bool,
    member: Option<Member>,
    oracle: Oracle,
    watchers: Vec<Watcher>,
    waiting: BTreeMap<u64, Waiting>,
    /// Requests of unknown outcome that the client will make again.
    again: Vec<Waiting>,
    idempotent: BTreeSet<u64>,
    slow: Option<SlowReader>,
    sequence: u64,
    boots: u64,
    /// The newest revision that a client was told of.
    known: Revision,
    /// No lease may be expired before this time.
    alive_until: BTreeMap<LeaseId, u64>,
    counts: Counts,
    hash: u32,
    trace: bool,
}

impl World {
    /// `trace`: print each event.
    #[must_use]
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let peer_urls = vec!["http://member:2380".to_owned()];
        let id = members::member_id(&peer_urls, "simulated");
        let first = MemberRecord { id, name: String::new(), peer_urls, client_urls: Vec::new(), learner: false };
        let oracle = Oracle::new(std::slice::from_ref(&first), node::first_conf_state(&[id]));
        let watchers = (0..4).map(|_| {
            let (from, mut to) = (commands::key(&mut rng), commands::range_end(&mut rng));
            if to <= from {
                // To the end: an empty range is refused.
                to = Bytes::from_static(b"\0");
            }
            Watcher::new(KeyRange::parse(&from, &to), rng.random())
        });
        let watchers = watchers.collect();
        let engine = MemoryEngine::new(rng.random());
        Self {
            rng,
            now_ms: 0,
            disk: SimDisk::new(),
            engine,
            first: vec![first],
            initialised: false,
            member: None,
            oracle,
            watchers,
            waiting: BTreeMap::new(),
            again: Vec::new(),
            idempotent: BTreeSet::new(),
            slow: None,
            sequence: 0,
            boots: 0,
            known: Revision::FIRST,
            alive_until: BTreeMap::new(),
            counts: Counts::default(),
            hash: 0,
            trace,
        }
    }

    /// Runs `turns` with crashes, then heals and demands that everything comes right. Returns what happened, and a hash
    /// over the trace: equal for equal seeds.
    ///
    /// # Panics
    /// If something that must be so is not.
    pub fn run(mut self, turns: u64) -> (Counts, u32) {
        for _ in 0..turns {
            self.turn();
        }
        self.heal();
        let disk = self.disk.counts();
        let engine = self.engine.counts();
        self.counts.turns = turns;
        self.counts.virtual_ms = self.now_ms;
        self.counts.unsynced_lost = disk.lossy;
        self.counts.disk_errors = disk.errors;
        self.counts.flush_rollbacks = engine.rollbacks;
        self.counts.history_dropped = engine.dropped;
        self.counts.events = self.watchers.iter().map(|watcher| watcher.events).sum();
        self.counts.watchers_compacted = self.watchers.iter().map(|watcher| watcher.compacted).sum();
        (self.counts, self.hash)
    }

    fn log(&mut self, line: std::fmt::Arguments<'_>) {
        let line = format!("{:>8} ms  {line}", self.now_ms);
        if self.trace {
            println!("{line}");
        }
        self.hash = crc32c::crc32c_append(self.hash, line.as_bytes());
    }

    fn turn(&mut self) {
        if self.member.is_none() {
            self.start();
            return;
        }
        match self.rng.random_range(0..1000) {
            0..3 => self.crash("power loss"),
            3..6 => self.plan(Fault::Crash),
            6 => self.plan(Fault::Error),
            7..60 => self.tick(),
            60..260 => self.propose(),
            260..300 => self.read(),
            300..320 => self.read_past(),
            320..330 => self.renew(),
            _ => self.thread_turn(),
        }
    }

    fn plan(&mut self, fault: Fault) {
        let call = self.disk.calls() + self.rng.random_range(1..40);
        self.disk.plan(call, fault);
    }

    fn start(&mut self) {
        self.boots += 1;
        let boot = self.boots;
        let mut lasting =
            Lasting { disk: &self.disk, engine: &self.engine, first: &self.first, initialised: &mut self.initialised };
        let started = match Member::start(&mut lasting, boot) {
            Ok(started) => started,
            Err(Died) => return self.died(),
        };
        self.counts.torn_tails += u64::from(started.torn);
        let (last, applied) = (started.last, self.oracle.applied());
        assert!(last >= applied, "the log ends at {last}, but {applied} was applied before the crash");
        self.log(format_args!("start {boot}: log to {last}, torn {}, unfinished {}", started.torn, started.unfinished));
        self.member = Some(started.member);
        if started.unfinished {
            self.finish_entry();
        }
    }

    /// As the server does before it lets anybody in: an entry of which pieces are in the store is applied whole.
    fn finish_entry(&mut self) {
        for _ in 0..HEAL_TURNS {
            self.thread_turn();
            // It may die again in the middle, and start again.
            let Some(member) = &self.member else { return };
            if member.state.unfinished().is_none() {
                return;
            }
        }
        panic!("an unfinished entry was not applied in {HEAL_TURNS} turns");
    }

    fn died(&mut self) {
        self.counts.crashes_in_calls += 1;
        self.crash("died in a disk call");
    }

    fn crash(&mut self, why: &str) {
        self.counts.crashes += 1;
        let waiting = self.waiting.len();
        self.log(format_args!("{why}, {waiting} requests under way"));
        self.member = None;
        self.slow = None;
        self.watchers.iter_mut().for_each(Watcher::cut_off);
        if self.rng.random_bool(0.7) {
            let rng = &mut self.rng;
            self.disk.power_off(&mut |below| rng.random_range(0..below));
        } else {
            self.disk.kill();
        }
        self.engine = self.engine.crash(&mut self.rng);
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            self.counts.unknown += 1;
            if !waiting.idempotency.is_empty() {
                self.again.push(waiting);
            }
        }
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS * self.rng.random_range(1..12);
        let now_ms = self.now_ms;
        let member = self.member.as_mut().expect("only called while it runs");
        member.input(Input::Tick);
        let expired = member.expired(now_ms);
        if !expired.is_empty() {
            let (identity, term) = (member.identity, member.standing.term);
            let encode = |kind| encode(identity, Ticket(0), term, Bytes::new(), kind);
            member.input(Input::ProposeAsLeader(expired.into_iter().map(encode).collect()));
        }
    }

    fn propose(&mut self) {
        if self.waiting.len() >= MAX_WAITING {
            return;
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let waiting = match self.again.pop() {
            Some(again) => {
                self.counts.repeated += 1;
                again
            }
            None => {
                let command = commands::random(&mut self.rng, sequence, self.known);
                let idempotency = if matches!(command, Kind::Put(_)) && self.rng.random_bool(0.3) {
                    self.idempotent.insert(sequence);
                    Bytes::from(format!("request {sequence}"))
                } else {
                    Bytes::new()
                };
                Waiting { command, idempotency }
            }
        };
        let member = self.member.as_mut().expect("only called while it runs");
        let (identity, term) = (member.identity, member.standing.term);
        let data = encode(identity, Ticket(sequence), term, waiting.idempotency.clone(), waiting.command.clone());
        member.input(Input::Propose(vec![Proposal { ticket: Ticket(sequence), data }]));
        self.waiting.insert(sequence, waiting);
    }

    fn renew(&mut self) {
        let id = commands::lease(&mut self.rng);
        let now_ms = self.now_ms;
        let member = self.member.as_ref().expect("only called while it runs");
        if member.may_read()
            && let Ok(Some(ttl_ms)) = member.keeper.with(member.standing.term, |expiry| expiry.renew(id, now_ms))
        {
            self.alive_until.insert(id, now_ms + u64::try_from(ttl_ms).expect("a positive TTL"));
        }
    }

    /// One turn of a thread that has something to do, or of the watchers' clients.
    fn thread_turn(&mut self) {
        let member = self.member.as_mut().expect("only called while it runs");
        let done = match self.rng.random_range(0..12) {
            0..3 if member.raft_waits() => {
                let effects = member.raft_turn(self.now_ms);
                for (ticket, error) in effects.rejected {
                    assert_eq!(error, Error::Timeout, "nothing else refuses so few requests");
                    self.waiting.remove(&ticket.0);
                }
                Ok(())
            }
            3..6 if member.log_waits() > 0 => {
                let count = self.rng.random_range(1..=member.log_waits());
                member.log_turn(count)
            }
            6..9 if member.apply_waits() > 0 => {
                self.apply();
                Ok(())
            }
            9 => {
                member.watch_turn(self.now_ms);
                self.watch();
                Ok(())
            }
            10 if self.rng.random_bool(0.2) => member.mark_turn(),
            11 if self.rng.random_bool(0.1) => {
                let flush = self.rng.random();
                member.reclaim_turn(flush).map(|cut| self.counts.log_cuts += u64::from(cut))
            }
            _ => Ok(()),
        };
        if let Err(Died) = done {
            self.died();
        }
    }

    fn apply(&mut self) {
        let member = self.member.as_mut().expect("only called while it runs");
        let count = self.rng.random_range(1..=member.apply_waits());
        let mut outcomes: Vec<(LogEntry, Applied)> = Vec::new();
        let boot = member.identity.boot;
        member.apply_turn(count, self.now_ms, &mut |entry, applied| outcomes.push((entry.clone(), applied)));
        for (log_entry, applied) in outcomes {
            let again = log_entry.index <= self.oracle.applied();
            self.oracle.applied_by_member(&log_entry, &applied);
            let outcome = match &applied.reply {
                Ok(_) => "done".to_owned(),
                Err(error) => error.to_string(),
            };
            self.log(format_args!("apply {}: revision {}, {outcome}", log_entry.index, applied.revision));
            if !again {
                self.leases(&log_entry, &applied);
            }
            let Some(request) = applied.request.filter(|request| request.boot == boot && request.sequence != 0) else {
                continue;
            };
            assert!(
                self.waiting.remove(&request.sequence).is_some(),
                "request {} was answered twice",
                request.sequence
            );
            self.counts.acknowledged += u64::from(applied.reply.is_ok());
            self.counts.compactions += u64::from(matches!(applied.reply, Ok(Reply::Compact(_))));
            self.known = self.known.max(applied.revision);
        }
    }

    fn leases(&mut self, log_entry: &LogEntry, applied: &Applied) {
        let expired =
            entry::Entry::decode(log_entry.data.clone()).ok().and_then(|entry| entry.command).is_some_and(|command| {
                matches!(command.kind, Some(Kind::LeaseRevoke(entry::LeaseRevoke { expired: true, .. })))
            });
        for effect in &applied.effects.leases {
            match *effect {
                LeaseEffect::Granted { id, ttl_ms } => {
                    let until = self.now_ms + u64::try_from(ttl_ms).expect("a positive TTL");
                    self.alive_until.insert(id, until);
                }
                LeaseEffect::Revoked { id } => {
                    let until = self.alive_until.remove(&id).unwrap_or(0);
                    assert!(
                        !expired || until <= self.now_ms,
                        "lease {id} was expired at {}, alive until {until}",
                        self.now_ms
                    );
                    self.counts.leases_expired += u64::from(expired);
                }
            }
        }
    }

    fn watch(&mut self) {
        let member = self.member.as_ref().expect("only called while it runs");
        let which = self.rng.random_range(0..self.watchers.len());
        let watcher = &mut self.watchers[which];
        if watcher.is_open() {
            watcher.take(&member.inbox, &self.oracle);
        } else {
            watcher.open(&member.inbox);
        }
    }

    /// What `Handle::linearizable` and a range would answer now.
    fn read(&mut self) {
        let member = self.member.as_ref().expect("only called while it runs");
        if !member.may_read() {
            return;
        }
        let range = KeyRange::parse(&commands::key(&mut self.rng), &commands::range_end(&mut self.rng));
        let view = member.state.published().load_full();
        let revision = view.position.revision;
        assert!(revision >= self.known, "a read at {revision}, but a client was told of {}", self.known);
        let found = collect(&view.view, view.position, range.clone(), Revision(0)).expect("the current revision");
        assert_eq!(found, self.oracle.read(range, revision), "a read at {revision}");
        self.counts.reads += 1;
        self.known = revision;
    }

    /// A reader that takes its view now and reads later, when history may have been dropped under it.
    fn read_past(&mut self) {
        let member = self.member.as_ref().expect("only called while it runs");
        let Some(slow) = self.slow.take() else {
            let view = member.state.published().load_full();
            let first = view.position.compacted.max(Revision::FIRST).0;
            let revision = Revision(self.rng.random_range(first..=view.position.revision.0));
            self.slow = Some(SlowReader { view, revision });
            return;
        };
        let range = KeyRange::parse(&commands::key(&mut self.rng), &commands::range_end(&mut self.rng));
        let published = member.state.published();
        let found = mvcc::read_past(&published, &slow.view, slow.revision, |view| {
            collect(&view.view, view.position, range.clone(), slow.revision)
        });
        match found {
            Ok(found) => {
                assert_eq!(found, self.oracle.read(range, slow.revision), "a read of the past at {}", slow.revision);
                self.counts.past_reads += 1;
            }
            Err(Error::Compacted) => {
                assert!(slow.revision < published.load().position.compacted, "refused without a compaction");
                self.counts.past_reads_refused += 1;
            }
            Err(other) => panic!("a read of the past ended in {other}"),
        }
    }

    /// No more misfortune: everything must be answered, told and equal.
    fn heal(&mut self) {
        self.log(format_args!("heal"));
        self.disk.forget_plan();
        for _ in 0..HEAL_TURNS {
            if self.member.is_none() {
                self.start();
            } else if self.rng.random_bool(0.05) {
                self.tick();
            } else if !self.again.is_empty() && self.rng.random_bool(0.1) {
                self.propose();
            } else {
                self.thread_turn();
            }
            if self.is_quiet() {
                let member = self.member.as_ref().expect("a quiet member runs");
                self.oracle.must_equal(&member.state);
                for sequence in &self.idempotent {
                    let times = self.oracle.times_written(format!("{sequence}.").as_bytes());
                    assert!(times <= 1, "request {sequence} took effect {times} times in spite of its idempotency key");
                }
                return;
            }
        }
        let member = self.member.as_ref();
        panic!(
            "no calm after {HEAL_TURNS} turns: {} requests wait, {} to repeat, leases {:?}, leading {:?}",
            self.waiting.len(),
            self.again.len(),
            member.map(Member::leases),
            member.map(|member| member.standing)
        );
    }

    fn is_quiet(&self) -> bool {
        let Some(member) = &self.member else { return false };
        self.waiting.is_empty()
            && self.again.is_empty()
            && member.may_read()
            && member.leases() == 0
            && member.log_waits() == 0
            && member.apply_waits() == 0
            && member.state.applied().0 >= self.oracle.applied()
            && member.state.applied().0 > LogIndex(0)
            && self.watchers.iter().all(|watcher| watcher.is_at_head(&self.oracle))
    }
}

/// An entry as the server makes it, but for the wall clock, which no simulation may look at.
fn encode(
    identity: node::Identity,
    ticket: Ticket,
    term: conclave_server::types::Term,
    idempotency: Bytes,
    kind: Kind,
) -> Bytes {
    let mut entry = node::entry(identity, ticket, term, idempotency, kind);
    if let Some(header) = &mut entry.header {
        header.wall_clock_ms = 0;
    }
    Bytes::from(entry.encode_to_vec())
}
