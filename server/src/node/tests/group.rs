//! Members driven by hand, in one thread, over a disk in memory: every step of raft, disk, network and apply happens when
//! a test says so.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use conclave_proto::{conclave::raft::v1 as entry, etcdserverpb::PutRequest};
use prost::Message as _;

use crate::{
    engine::Engine,
    mvcc::{Position, ReadView},
    node::{
        core,
        drive::{Driver, DriverConfig, Effects, Input, Persist, Proposal, TICK_MS},
        keeper::Keeper,
        lease_desk::LeaseDesk,
        log::{HardState, LogBatch, LogEntry, LogIo, LogOptions, LogStore},
        mailbox::Ticket,
        message::{LeaseTime, Message},
        recovery::{self, StateFacts},
    },
    types::{LogIndex, MemberId, Revision, Term},
};

type Files = BTreeMap<String, Arc<Mutex<Vec<u8>>>>;

/// Everything that was written survives a restart.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryIo(Arc<Mutex<Files>>);

impl LogIo for MemoryIo {
    type File = Arc<Mutex<Vec<u8>>>;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }
    fn create(&self, name: &str) -> io::Result<Self::File> {
        Ok(Arc::clone(self.0.lock().unwrap().entry(name.to_owned()).or_default()))
    }
    fn open(&self, name: &str) -> io::Result<Self::File> {
        self.0.lock().unwrap().get(name).cloned().ok_or(io::ErrorKind::NotFound.into())
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }
    fn unlink(&self, name: &str) -> io::Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self, file: &Self::File) -> io::Result<u64> {
        Ok(file.lock().unwrap().len() as u64)
    }
    fn read_at(&self, file: &Self::File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let file = file.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        let bytes = file.get(from..from + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
    fn write_at(&self, file: &Self::File, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut file = file.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        let len = file.len().max(from + buf.len());
        file.resize(len, 0);
        file[from..from + buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn sync_data(&self, _file: &Self::File) -> io::Result<()> {
        Ok(())
    }
}

/// One member's disk, and what runs on it.
pub(super) struct Member {
    pub(super) id: MemberId,
    io: MemoryIo,
    seed: u64,
    boots: u64,
    pub(super) running: Option<Running>,
    /// What the state machine applied, and how much of it a crash leaves.
    pub(super) applied: Vec<LogEntry>,
    pub(super) flushed: usize,
}

pub(super) struct Running {
    pub(super) driver: Driver<MemoryIo>,
    pub(super) store: LogStore<MemoryIo>,
    pub(super) to_persist: VecDeque<Persist>,
    pub(super) to_apply: VecDeque<LogEntry>,
    /// Highest index that was handed out as committed.
    committed: LogIndex,
    pub(super) keeper: Keeper,
    desk: LeaseDesk,
    /// For the apply thread: this member leads, in this term, or does not lead any more.
    promotion: Option<Option<Term>>,
    /// Rounds of the lease desk whose index is not applied yet.
    rounds: Vec<(LogIndex, Vec<Ticket>)>,
}

pub(super) struct Group {
    pub(super) members: Vec<Member>,
    voters: Vec<MemberId>,
    pub(super) network: Vec<Message>,
    /// Under way for longer than anything else.
    pub(super) kept: Vec<Message>,
    /// Links that lose everything: (from, to).
    pub(super) cut: BTreeSet<(u64, u64)>,
    pub(super) now_ms: u64,
    pub(super) confirmed: Vec<(MemberId, LogIndex, Vec<Ticket>)>,
    pub(super) rejected: Vec<(Ticket, crate::error::Error)>,
    /// Who was told what of a lease.
    pub(super) told: Vec<(MemberId, Ticket, Option<LeaseTime>)>,
    /// The table of leases that a new leader reads.
    pub(super) leases: Engine,
    next_ticket: u64,
}

const LOG: LogOptions = LogOptions { segment_bytes: 64 << 10, log_id: 7, must_exist: false };

impl Group {
    pub(super) fn new(members: u64, seed: u64) -> Self {
        let voters: Vec<_> = (1..=members).map(MemberId).collect();
        let member = |&id: &MemberId| Member {
            id,
            io: MemoryIo::default(),
            seed: seed.wrapping_mul(1_000).wrapping_add(id.0),
            boots: 0,
            running: None,
            applied: Vec::new(),
            flushed: 0,
        };
        let members = voters.iter().map(member).collect();
        let (network, confirmed, rejected) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            members,
            voters,
            network,
            kept: Vec::new(),
            cut: BTreeSet::new(),
            now_ms: 0,
            confirmed,
            rejected,
            told: Vec::new(),
            leases: Engine::memory(),
            next_ticket: 0,
        }
    }

    pub(super) fn member(&mut self, id: u64) -> &mut Member {
        &mut self.members[usize::try_from(id - 1).unwrap()]
    }

    pub(super) fn running(&mut self, id: u64) -> &mut Running {
        self.member(id).running.as_mut().expect("the member runs")
    }

    /// Starts a member from its disk, as the composition root does.
    pub(super) fn start(&mut self, id: u64) -> String {
        let conf_state = core::first_conf_state(&self.voters);
        let member = self.member(id);
        member.boots += 1;
        member.applied.truncate(member.flushed);
        let (store, recovered) = LogStore::open(member.io.clone(), LOG).unwrap();
        let applied = member.applied.last().map_or((LogIndex(0), Term(0)), |last| (last.index, last.term));
        let reader = store.reader();
        let start =
            recovery::fit(&recovered, |index| reader.term(index), StateFacts { applied, unfinished: None, conf_state })
                .unwrap();
        let config = DriverConfig {
            member: member.id,
            boot: member.boots,
            heartbeat_ms: 100,
            election_ms: 1_000,
            proposal_timeout_ms: 7_000,
            seed: member.seed + member.boots,
        };
        let HardState { term, commit, .. } = start.hard_state;
        let driver = Driver::new(config, &start, store.reader()).unwrap();
        let (to_persist, to_apply) = (VecDeque::new(), VecDeque::new());
        member.running = Some(Running {
            driver,
            store,
            to_persist,
            to_apply,
            committed: applied.0,
            keeper: Keeper::new(1_000),
            desk: LeaseDesk::default(),
            promotion: None,
            rounds: Vec::new(),
        });
        format!("n{id} starts at term={term} commit={commit} applied={} last={}\n", applied.0, recovered.last)
            + &self.drive(id, vec![])
    }

    /// What was not persisted is lost, and so is what was applied after the last flush.
    pub(super) fn stop(&mut self, id: u64) {
        self.member(id).running = None;
    }

    pub(super) fn propose(&mut self, id: u64, data: &[&str]) -> String {
        let mut proposals = Vec::new();
        for text in data {
            self.next_ticket += 1;
            let request_id = entry::RequestId { member: id, boot: self.member(id).boots, sequence: self.next_ticket };
            proposals.push(Proposal { ticket: Ticket(self.next_ticket), data: put(text, request_id) });
        }
        self.drive(id, vec![Input::Propose(proposals)])
    }

    /// Drives until raft has nothing more to say, and tells what it said.
    pub(super) fn drive(&mut self, id: u64, inputs: Vec<Input>) -> String {
        let mut out = String::new();
        let mut inputs = Some(inputs);
        loop {
            let now_ms = self.now_ms;
            let before = self.running(id).driver.standing();
            let effects = self.running(id).driver.drive(now_ms, inputs.take().unwrap_or_default());
            if effects.standing != before {
                writeln!(out, "n{id} {}", standing(&effects)).unwrap();
            }
            if effects.standing.leading != before.leading {
                self.running(id).promotion = Some(effects.standing.leading.then_some(effects.standing.term));
            }
            let more = effects.more;
            self.carry_out(id, effects, &mut out);
            if !more {
                return out;
            }
        }
    }

    fn carry_out(&mut self, id: u64, effects: Effects, out: &mut String) {
        let now_ms = self.now_ms;
        if !effects.asked.is_empty() {
            let Running { desk, keeper, .. } = self.running(id);
            desk.take(keeper, effects.standing.term, now_ms, effects.asked);
        }
        self.told.extend(effects.told.into_iter().map(|(ticket, lease)| (MemberId(id), ticket, lease)));
        for message in effects.send {
            writeln!(out, "{}", show(&message)).unwrap();
            self.network.push(message);
        }
        if let Some(persist) = effects.persist {
            let held = if persist.held.is_empty() { "" } else { " (holds messages)" };
            let entries = entries(&persist.batch.entries);
            let hard = persist.batch.hard_state.map(|hard| {
                format!(" term={} vote={} commit={}", hard.term, hard.vote.map_or(0, |vote| vote.0), hard.commit)
            });
            let (ready, hard) = (persist.batch.ready, hard.unwrap_or_default());
            writeln!(out, "n{id} persist {ready}:{hard}{entries}{held}").unwrap();
            self.running(id).to_persist.push_back(persist);
        }
        if !effects.committed.is_empty() {
            writeln!(out, "n{id} committed{}", entries(&effects.committed)).unwrap();
        }
        for entry in effects.committed {
            let running = self.running(id);
            assert_eq!(entry.index, running.committed.next(), "committed entries come in order, each once");
            assert!(
                entry.index <= running.store.reader().last_index(),
                "an entry is committed here only once it is durable here"
            );
            running.committed = entry.index;
            running.to_apply.push_back(entry);
        }
        if let Some(reads) = effects.reads {
            let (rounds, reads_of_handlers): (Vec<_>, Vec<_>) =
                reads.tickets.into_iter().partition(|ticket| ticket.is_of_desk());
            if !rounds.is_empty() {
                self.running(id).rounds.push((reads.index, rounds));
            }
            if !reads_of_handlers.is_empty() {
                let tickets: Vec<_> = reads_of_handlers.iter().map(|ticket| ticket.0).collect();
                writeln!(out, "n{id} reads {tickets:?} wait for {}", reads.index).unwrap();
                self.confirmed.push((MemberId(id), reads.index, reads_of_handlers));
            }
        }
        for (ticket, error) in effects.rejected {
            writeln!(out, "n{id} rejects {}: {error}", ticket.0).unwrap();
            self.rejected.push((ticket, error));
        }
        for (from, why) in effects.refused {
            writeln!(out, "n{id} does not listen to n{from}: {why}").unwrap();
        }
    }

    /// The log thread: merges the first `count` batches that wait, syncs, releases, reports.
    pub(super) fn persist(&mut self, id: u64, count: usize) -> String {
        let running = self.running(id);
        let Some(mut all) = running.to_persist.pop_front() else { return String::new() };
        for _ in 1..count {
            let Some(later) = running.to_persist.pop_front() else { break };
            all.batch.merge(later.batch);
            all.held.merge(later.held);
        }
        let persisted = running.store.persist(&all.batch).unwrap();
        let mut out = String::new();
        for message in all.held.release(&persisted) {
            writeln!(out, "{} (released)", show(&message)).unwrap();
            self.network.push(message);
        }
        out + &self.drive(id, vec![Input::Persisted(persisted)])
    }

    /// The apply thread: applies what waits, then lets the rounds of the lease desk go that waited for it.
    pub(super) fn apply(&mut self, id: u64, count: usize) -> String {
        let (now_ms, leases) = (self.now_ms, self.leases.view());
        let member = self.member(id);
        let running = member.running.as_mut().expect("the member runs");
        match running.promotion.take() {
            Some(Some(term)) => {
                let position = Position { revision: Revision(1), compacted: Revision::NEVER };
                let view = ReadView { applied: LogIndex(0), position, view: leases };
                running.keeper.promote(term, &view, now_ms);
            }
            Some(None) => running.keeper.demote(),
            None => {}
        }
        let count = count.min(running.to_apply.len());
        member.applied.extend(running.to_apply.drain(..count));
        let index = member.applied.last().map_or(LogIndex(0), |last| last.index);
        let done: Vec<_> =
            running.rounds.extract_if(.., |(needs, _)| *needs <= index).flat_map(|(_, round)| round).collect();
        let told = running.desk.confirmed(&running.keeper, now_ms, done);
        let mut inputs = Vec::new();
        if count > 0 {
            inputs.push(Input::Applied(index));
        }
        if !told.is_empty() {
            inputs.push(Input::Told(told));
        }
        if inputs.is_empty() { String::new() } else { self.drive(id, inputs) }
    }

    /// A member comes back without the end of its log, which it had acknowledged: no mark named it.
    pub(super) fn forget(&mut self, id: u64, last: u64) -> String {
        self.stop(id);
        let member = self.member(id);
        member.flushed = 0;
        let (store, recovered) = LogStore::open(member.io.clone(), LOG).unwrap();
        let entries = store.reader().read(LogIndex(1), LogIndex(last + 1), u64::MAX).unwrap();
        member.io = MemoryIo::default();
        let (mut store, _) = LogStore::open(member.io.clone(), LOG).unwrap();
        let hard_state =
            HardState { commit: LogIndex(last.min(recovered.hard_state.commit.0)), ..recovered.hard_state };
        let batch = LogBatch { ready: 1, entries, hard_state: Some(hard_state), ..LogBatch::default() };
        let _ = store.persist(&batch).unwrap();
        self.start(id)
    }

    /// Delivers the message at this place of the network.
    pub(super) fn deliver(&mut self, place: usize) -> String {
        let message = self.network.remove(place);
        let to = message.to.0;
        if self.member(to).running.is_none() || self.cut.contains(&(message.from.0, to)) {
            return String::new();
        }
        self.drive(to, vec![Input::Message(message)])
    }

    pub(super) fn tick(&mut self, id: u64, count: u64) -> String {
        (0..count).map(|_| self.drive(id, vec![Input::Tick])).collect()
    }

    /// Time goes by for everybody who runs. Where they stand then.
    pub(super) fn wait(&mut self, ms: u64) -> String {
        for _ in 0..ms / TICK_MS {
            self.now_ms += TICK_MS;
            for id in 1..=self.members.len() as u64 {
                if self.member(id).running.is_some() {
                    self.tick(id, 1);
                }
            }
            self.settle();
        }
        self.standings()
    }

    /// Where everybody stands.
    pub(super) fn standings(&mut self) -> String {
        let mut out = String::new();
        for member in &self.members {
            let Some(running) = &member.running else { continue };
            let standing = running.driver.standing();
            let leader = standing.leader.map_or_else(|| "nobody".to_owned(), |leader| format!("n{leader}"));
            writeln!(out, "n{}: term={} leader={leader} commit={}", member.id, standing.term, standing.commit).unwrap();
        }
        out
    }

    pub(super) fn reads_confirmed(&mut self) -> String {
        let show = |(member, index, tickets): (MemberId, LogIndex, Vec<Ticket>)| {
            let tickets: Vec<_> = tickets.iter().map(|ticket| ticket.0).collect();
            format!("n{member} reads {tickets:?} wait for {index}\n")
        };
        self.confirmed.drain(..).map(show).collect()
    }

    /// The keys that were put, as each member applied them.
    pub(super) fn keys(&mut self) -> String {
        let mut out = String::new();
        for member in &self.members {
            let keys: Vec<_> =
                member.applied.iter().map(|entry| text(&entry.data).0).filter(|key| !key.is_empty()).collect();
            writeln!(out, "n{}: {}", member.id, keys.join(" ")).unwrap();
        }
        out
    }

    /// Lets everything happen that can happen without time going by.
    pub(super) fn settle(&mut self) -> String {
        let mut out = String::new();
        loop {
            let before = out.len();
            let mut busy = false;
            for id in 1..=self.members.len() as u64 {
                if self.member(id).running.is_none() {
                    continue;
                }
                let running = self.running(id);
                busy |= !running.to_persist.is_empty() || !running.to_apply.is_empty() || !running.rounds.is_empty();
                out += &self.persist(id, usize::MAX);
                out += &self.apply(id, usize::MAX);
            }
            while !self.network.is_empty() {
                busy = true;
                out += &self.deliver(0);
            }
            if out.len() == before && !busy {
                return out;
            }
        }
    }
}

fn standing(effects: &Effects) -> String {
    let standing = effects.standing;
    let role = if standing.leading { "leads" } else { "follows" };
    let leader = standing.leader.map_or_else(|| "nobody".to_owned(), |leader| format!("n{leader}"));
    let local = effects.local_reads_from.map(|index| format!(" local reads from {index}")).unwrap_or_default();
    format!("{role}: term={} leader={leader} commit={}{local}", standing.term, standing.commit)
}

/// A put of the key, as a member proposes it.
pub(super) fn put(key: &str, request_id: entry::RequestId) -> Bytes {
    let header = entry::Header { required_level: 1, request_id: Some(request_id), ..entry::Header::default() };
    let put = PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..PutRequest::default() };
    let command = entry::Command { kind: Some(entry::command::Kind::Put(put)) };
    Bytes::from(entry::Entry { header: Some(header), command: Some(command) }.encode_to_vec())
}

/// The key of a put and who proposed it; other data as it is.
pub(super) fn text(data: &Bytes) -> (String, Option<entry::RequestId>) {
    let decoded = entry::Entry::decode(data.clone()).unwrap_or_default();
    match decoded.command.and_then(|command| command.kind) {
        Some(entry::command::Kind::Put(put)) => {
            (String::from_utf8_lossy(&put.key).into_owned(), decoded.header.and_then(|header| header.request_id))
        }
        _ => (String::from_utf8_lossy(data).into_owned(), None),
    }
}

fn entries(entries: &[LogEntry]) -> String {
    let one = |entry: &LogEntry| match entry.index.0 {
        0 => format!(" {:?}", text(&entry.data).0),
        index => format!(" {index}@{} {:?}", entry.term, text(&entry.data).0),
    };
    entries.iter().map(one).collect()
}

fn show(message: &Message) -> String {
    let mut out = format!("n{} → n{} {:?} term={}", message.from, message.to, message.kind, message.term);
    let numbers = [("index", message.index.0), ("log_term", message.log_term.0), ("commit", message.commit.0)];
    for (name, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
        write!(out, " {name}={number}").unwrap();
    }
    if message.reject {
        write!(out, " reject={}", message.reject_hint).unwrap();
    }
    if let Some(forward) = message.forward() {
        write!(out, " number={}", forward.number).unwrap();
    }
    if !message.context.is_empty() {
        write!(out, " context={}", message.context.len()).unwrap();
    }
    out + &entries(&message.entries)
}
