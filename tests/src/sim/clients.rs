//! Clients: each has one request under way, at one member, and goes elsewhere when that does not answer. Whatever it asks
//! and is told is shown to the judge.

use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::command::Kind,
    etcdserverpb::{self as pb, request_op::Request},
    mvccpb::KeyValue,
};
use conclave_server::{
    error::Error,
    mvcc::{self, KeyRange, ReadView},
    node::{Input, LeaseAsk, LeaseTime, Proposal, Ticket},
    types::{LeaseId, MemberId, Revision},
};
use rand::RngExt;

use super::{
    commands,
    member::{TICKETS, TIMEOUT_MS},
    oracle::collect,
    schedule::{Task, Thread},
    seen::{Answer, Call, Op, PastRead, Renewed, Seen, Watch},
    turns::encode,
    watcher::Watcher,
    world::World,
};

/// What a client does when nothing answers at a member, until it tries the next one.
const RECONNECT_US: u64 = 50_000;
/// How often watchers and readers of the past look, about.
const LOOK_US: u64 = 60_000;

pub(super) struct Client {
    /// Where it asks.
    member: usize,
    busy: bool,
    /// A write of unknown outcome that it will make again.
    again: Option<Write>,
    /// Requests that must still be answered before a healed cluster counts as such.
    pub(super) owed: u32,
}

/// A write, the same in every attempt.
#[derive(Clone)]
pub(super) struct Write {
    op: Op,
    command: Kind,
    idempotency: Bytes,
    attempts: u32,
}

enum Asked {
    Write(Write),
    Read { op: Op, range: KeyRange },
    Renew { lease: LeaseId, called: Vec<(MemberId, u64)> },
}

/// One attempt under way.
pub(super) struct Pending {
    client: usize,
    member: usize,
    asked: Asked,
}

impl Pending {
    pub(super) fn is_write(&self) -> bool {
        matches!(self.asked, Asked::Write(_))
    }
}

/// A reader that takes its view now and reads later, when history may have been dropped under it.
pub(super) struct SlowReader {
    pub(super) member: usize,
    view: Arc<ReadView>,
    revision: Revision,
}

impl Client {
    pub(super) fn new(member: usize) -> Self {
        Self { member, busy: false, again: None, owed: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        !self.busy && self.again.is_none() && self.owed == 0
    }
}

impl World {
    /// The client's next request.
    pub(super) fn client(&mut self, client: usize) {
        if self.clients[client].busy || (self.healing && self.clients[client].is_done()) {
            return;
        }
        let serving = self.serving();
        if self.rng.random_ratio(1, 10) || !serving.contains(&self.clients[client].member) {
            let members = self.machines.len();
            self.clients[client].member = self.rng.random_range(0..members);
        }
        let member = self.clients[client].member;
        if !serving.contains(&member) {
            self.schedule.after(RECONNECT_US, Task::Client(client));
            return;
        }
        if let Some(again) = self.clients[client].again.take() {
            self.counts.repeated += 1;
            return self.write(client, member, again);
        }
        if self.healing {
            // A write and a read that must be answered.
            return if self.clients[client].owed > 1 {
                self.last_write(client, member)
            } else {
                self.read(client, member)
            };
        }
        match self.rng.random_range(0..100) {
            0..60 => self.new_write(client, member),
            60..80 => self.read(client, member),
            80..88 => self.serializable_read(client, member),
            88..96 => self.renew(client, member),
            _ => self.hash(client, member),
        }
    }

    fn new_write(&mut self, client: usize, member: usize) {
        let op = self.number();
        let revision = self.judge.truth().position().revision;
        let command = commands::random(&mut self.rng, &mut self.leases, op, revision);
        let repeats = matches!(command, Kind::Put(_)) && self.rng.random_bool(0.5);
        let idempotency = if repeats { Bytes::from(format!("request {op}")) } else { Bytes::new() };
        self.call_write(client, member, Write { op, command, idempotency, attempts: 0 });
    }

    fn last_write(&mut self, client: usize, member: usize) {
        let op = self.number();
        let value = Bytes::from(format!("{op}.last"));
        let put = pb::PutRequest { key: commands::key(&mut self.rng), value, ..Default::default() };
        self.call_write(client, member, Write { op, command: Kind::Put(put), idempotency: Bytes::new(), attempts: 0 });
    }

    fn call_write(&mut self, client: usize, member: usize, write: Write) {
        let unique = writes_value(&write.command).then(|| Bytes::from(write.op.to_string()));
        self.see(&Seen::Called(write.op, Call::Write { unique }));
        self.write(client, member, write);
    }

    fn write(&mut self, client: usize, member: usize, mut write: Write) {
        write.attempts += 1;
        let ticket = self.number() * TICKETS;
        self.note(format_args!("c{client} asks m{}: {} as {ticket}", member + 1, show(&write)));
        let running = self.machines[member].member.as_mut().expect("it serves");
        let (identity, term) = (running.identity, running.standing.term);
        let data = encode(identity, Ticket(ticket), term, write.idempotency.clone(), write.command.clone());
        running.input(Input::Propose(vec![Proposal { ticket: Ticket(ticket), data }]));
        self.wait(ticket, Pending { client, member, asked: Asked::Write(write) });
        self.wake(member);
    }

    fn wait(&mut self, ticket: u64, pending: Pending) {
        self.clients[pending.client].busy = true;
        self.schedule.after(TIMEOUT_MS * 1_000, Task::TimeOut(ticket));
        self.pending.insert(ticket, pending);
    }

    fn read(&mut self, client: usize, member: usize) {
        let op = self.number();
        let range = KeyRange::parse(&commands::key(&mut self.rng), &commands::range_end(&mut self.rng));
        self.see(&Seen::Called(op, Call::Read { range: range.clone(), linearizable: true }));
        self.ask_leader(client, member, Asked::Read { op, range });
    }

    fn renew(&mut self, client: usize, member: usize) {
        let (lease, called) = (self.leases.any(&mut self.rng), self.clocks());
        self.ask_leader(client, member, Asked::Renew { lease, called });
    }

    /// What needs the leader's word, unless this member may answer alone.
    fn ask_leader(&mut self, client: usize, member: usize, asked: Asked) {
        let ticket = self.number() * TICKETS;
        let ask = match &asked {
            Asked::Renew { lease, .. } => Some(LeaseAsk { ticket: Ticket(ticket), id: *lease, renew: true }),
            _ => None,
        };
        self.wait(ticket, Pending { client, member, asked });
        let running = self.machines[member].member.as_mut().expect("it serves");
        if running.reads_are_local() {
            return self.complete(ticket);
        }
        running.input(match ask {
            Some(ask) => Input::AskLeases(vec![ask]),
            None => Input::Read(vec![Ticket(ticket)]),
        });
        self.wake(member);
    }

    /// The leader has spoken and the index is applied; the handler is woken, and runs a little later.
    pub(super) fn ready(&mut self, member: usize, ticket: Ticket) {
        let usual = self.options.turn_us;
        let late = self.options.stalls && self.rng.random_ratio(1, 50);
        let delay = self.rng.random_range(0..=if late { usual * 100 } else { usual });
        if self.pending.get(&ticket.0).is_some_and(|pending| pending.member == member) {
            self.schedule.after(delay, Task::Complete(ticket.0));
        }
    }

    pub(super) fn complete(&mut self, ticket: u64) {
        let Some(pending) = self.pending.get(&ticket) else { return };
        let member = pending.member;
        if self.is_paused(member) {
            return self.put_off(member, Task::Complete(ticket));
        }
        let now_ms = self.local_ms(member);
        let Some(running) = &self.machines[member].member else { return };
        let pending = self.pending.remove(&ticket).expect("found above");
        match pending.asked {
            Asked::Read { op, range } => {
                let view = running.state.published().load_full();
                let (revision, kvs) = found(&view, range);
                self.counts.reads += 1;
                self.note(format_args!("c{} reads at m{}: revision {revision}", pending.client, member + 1));
                self.see(&Seen::Answered(op, Answer::Read { revision, kvs }));
                self.go_on(pending.client, true);
            }
            Asked::Renew { lease, called } => {
                // The sole voter asks nobody; `Handle::lease`.
                let renewed = running.keeper.with(running.standing.term, |expiry| expiry.renew(lease, now_ms));
                self.renewed(pending.client, lease, renewed.ok().flatten(), called);
            }
            Asked::Write(_) => unreachable!("writes are answered by apply"),
        }
    }

    /// The leader has spoken about a lease.
    pub(super) fn told(&mut self, ticket: Ticket, lease_time: Option<LeaseTime>) {
        let Some(Pending { client, asked: Asked::Renew { lease, called }, .. }) = self.pending.remove(&ticket.0) else {
            return;
        };
        self.renewed(client, lease, lease_time.map(|time| time.granted_ms), called);
    }

    fn renewed(&mut self, client: usize, lease: LeaseId, ttl_ms: Option<i64>, called: Vec<(MemberId, u64)>) {
        if let Some(ttl_ms) = ttl_ms {
            self.counts.leases_renewed += 1;
            self.note(format_args!("c{client} renewed lease {lease}"));
            self.see(&Seen::Renewed(Renewed { lease, ttl_ms, called }));
        }
        self.go_on(client, true);
    }

    pub(super) fn answer(&mut self, ticket: u64, answer: Answer) {
        // Nobody waits any more when the client's time was over.
        let Some(pending) = self.pending.remove(&ticket) else { return };
        let Asked::Write(write) = pending.asked else { unreachable!("only writes have entries") };
        if let Answer::Write { reply: Ok(_), .. } = &answer {
            self.counts.acknowledged += 1;
        }
        self.see(&Seen::Answered(write.op, answer));
        self.go_on(pending.client, true);
    }

    pub(super) fn rejected(&mut self, ticket: Ticket, error: Error) {
        let Some(pending) = self.pending.remove(&ticket.0) else { return };
        self.note(format_args!("c{} is refused {}: {error}", pending.client, ticket.0));
        let surely = matches!(error, Error::RequestTooManyRequests | Error::ContextDeadlineExceeded);
        match pending.asked {
            Asked::Write(write) if surely && write.attempts == 1 => {
                self.counts.refused += 1;
                self.see(&Seen::Refused(write.op));
                self.go_on(pending.client, false);
            }
            asked => self.unknown(Pending { asked, ..pending }),
        }
    }

    pub(super) fn time_out(&mut self, ticket: u64) {
        if let Some(pending) = self.pending.remove(&ticket) {
            self.note(format_args!("c{} has waited long enough for {ticket}", pending.client));
            self.unknown(pending);
        }
    }

    /// The client will never know, or asks again under its key.
    pub(super) fn unknown(&mut self, pending: Pending) {
        self.counts.unknown += 1;
        match pending.asked {
            Asked::Write(write) if write.idempotency.is_empty() => self.see(&Seen::Lost(write.op)),
            Asked::Write(write) => self.clients[pending.client].again = Some(write),
            Asked::Read { op, .. } => self.see(&Seen::Lost(op)),
            Asked::Renew { .. } => {}
        }
        self.go_on(pending.client, false);
    }

    /// Whoever was at a member that died.
    pub(super) fn cut_off(&mut self, member: usize) {
        let tickets: Vec<_> =
            self.pending.iter().filter(|(_, pending)| pending.member == member).map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            let pending = self.pending.remove(&ticket).expect("found above");
            self.unknown(pending);
        }
        self.watchers.iter_mut().filter(|watcher| watcher.member == Some(member)).for_each(Watcher::cut_off);
        self.slow = self.slow.take().filter(|slow| slow.member != member);
    }

    fn go_on(&mut self, client: usize, well: bool) {
        self.clients[client].busy = false;
        if well {
            self.clients[client].owed = self.clients[client].owed.saturating_sub(1);
        } else {
            let members = self.machines.len();
            self.clients[client].member = self.rng.random_range(0..members);
        }
        let delay = self.think_us();
        self.schedule.after(delay, Task::Client(client));
    }

    fn serializable_read(&mut self, client: usize, member: usize) {
        let op = self.number();
        let range = KeyRange::parse(&commands::key(&mut self.rng), &commands::range_end(&mut self.rng));
        self.see(&Seen::Called(op, Call::Read { range: range.clone(), linearizable: false }));
        let running = self.machines[member].member.as_ref().expect("it serves");
        let (revision, kvs) = found(&running.state.published().load_full(), range);
        self.counts.serializable_reads += 1;
        self.see(&Seen::Answered(op, Answer::Read { revision, kvs }));
        self.go_on(client, true);
    }

    fn hash(&mut self, client: usize, member: usize) {
        let running = self.machines[member].member.as_ref().expect("it serves");
        if let Ok((hash, _)) = mvcc::hash_published(&running.state.published(), Revision(0)) {
            self.counts.hashes += 1;
            let id = self.machines[member].id;
            let mvcc::HashKv { hash, compacted, revision } = hash;
            self.see(&Seen::Hashed { member: id, revision, compacted, hash });
        }
        self.go_on(client, true);
    }

    pub(super) fn past_read(&mut self) {
        let delay = self.rng.random_range(0..LOOK_US * 2);
        self.schedule.after(delay, Task::PastRead);
        let Some(slow) = self.slow.take() else {
            let serving = self.serving();
            if serving.is_empty() {
                return;
            }
            let member = serving[self.rng.random_range(0..serving.len())];
            let view = self.machines[member].member.as_ref().expect("it serves").state.published().load_full();
            let first = view.position.compacted.max(Revision::FIRST).0;
            let revision = Revision(self.rng.random_range(first..=view.position.revision.0));
            self.slow = Some(SlowReader { member, view, revision });
            return;
        };
        let Some(running) = &self.machines[slow.member].member else { return };
        let range = KeyRange::parse(&commands::key(&mut self.rng), &commands::range_end(&mut self.rng));
        let published = running.state.published();
        let found = mvcc::read_past(&published, &slow.view, slow.revision, |view| {
            collect(&view.view, view.position, range.clone(), slow.revision)
        });
        let compacted = published.load().position.compacted;
        match &found {
            Ok(_) => self.counts.past_reads += 1,
            Err(_) => self.counts.past_reads_refused += 1,
        }
        self.see(&Seen::Past(PastRead { range, revision: slow.revision, compacted, found }));
    }

    pub(super) fn watcher(&mut self, watcher: usize) {
        let delay = self.rng.random_range(0..LOOK_US * 2);
        self.schedule.after(delay, Task::Watcher(watcher));
        let serving = self.serving();
        let Some(member) = self.watchers[watcher].member else {
            if !serving.is_empty() {
                let member = serving[self.rng.random_range(0..serving.len())];
                self.open(watcher, member);
            }
            return;
        };
        let Some(running) = &self.machines[member].member else { return };
        let told = self.watchers[watcher].take(&running.inbox);
        match self.rng.random_range(0..100) {
            0..5 => self.watchers[watcher].ask_progress(&running.inbox),
            5..7 if !self.healing => self.watchers[watcher].close(&running.inbox),
            _ => {}
        }
        for watch in told {
            match &watch {
                Watch::Told { events, .. } => self.counts.watch_events += events.len() as u64,
                Watch::Progress { .. } => self.counts.watch_progress += 1,
                Watch::Compacted { .. } => self.counts.watchers_compacted += 1,
                _ => {}
            }
            self.see(&Seen::Watch(watcher, watch));
        }
        self.wake_thread(member, Thread::Watch);
    }

    fn open(&mut self, watcher: usize, member: usize) {
        let running = self.machines[member].member.as_ref().expect("it serves");
        let opened = self.watchers[watcher].open(member, &running.inbox);
        if let Watch::Opened { start, .. } = &opened {
            self.counts.watch_resumed += u64::from(start.0 > 0);
        }
        self.see(&Seen::Watch(watcher, opened));
        self.wake_thread(member, Thread::Watch);
    }
}

fn found(view: &ReadView, range: KeyRange) -> (Revision, Vec<KeyValue>) {
    let kvs = collect(&view.view, view.position, range, Revision(0)).expect("the current revision");
    (view.position.revision, kvs)
}

fn writes_value(command: &Kind) -> bool {
    match command {
        Kind::Put(_) => true,
        Kind::Txn(txn) => txn.success.iter().any(|op| matches!(op.request, Some(Request::RequestPut(_)))),
        _ => false,
    }
}

fn show(write: &Write) -> String {
    let again = if write.attempts > 1 { format!(" (attempt {})", write.attempts) } else { String::new() };
    let what = match &write.command {
        Kind::Put(put) => format!("put {:?}", put.key),
        Kind::DeleteRange(delete) => format!("delete {:?} to {:?}", delete.key, delete.range_end),
        Kind::Txn(_) => "txn".to_owned(),
        Kind::Compact(compact) => format!("compact at {}", compact.revision),
        Kind::LeaseGrant(grant) => format!("grant lease {}", grant.id),
        Kind::LeaseRevoke(revoke) => format!("revoke lease {}", revoke.id),
        Kind::MemberPublish(_) => "publish".to_owned(),
    };
    format!("op {} {what}{again}", write.op)
}
