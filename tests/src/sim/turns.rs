//! The threads' turns: what each of them does to its member, and what comes of it for the others.

use bytes::Bytes;
use conclave_proto::conclave::raft::v1::command::Kind;
use conclave_server::{
    node::{self, Identity, Message, MessageKind, Ticket, log::LogEntry},
    state::{Applied, Events, Reply},
    types::{LogIndex, MemberId, Term},
};
use prost::Message as _;
use rand::RngExt;

use super::{
    member::{ApplyTurn, Died, Member, RaftTurn, slot},
    options::Options,
    oracle::{ORACLE, contents, outcome},
    schedule::{Task, Thread},
    seen::{Answer, Decided, Seen},
    world::World,
};

/// One in how many decided entries is looked for on all disks: each look opens every log.
const LOOK_ONE_IN: u32 = 8;

impl World {
    pub(super) fn start(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        if machine.member.is_some() || machine.refuses {
            return;
        }
        machine.life += 1;
        machine.boots += 1;
        machine.scheduled = Default::default();
        let seed = self.rng.random();
        let started = match Member::start(machine, &self.first, self.cluster, seed) {
            Ok(started) => started,
            Err(Died) if self.machines[place].refuses => {
                self.counts.rotten += 1;
                return self.note(format_args!("m{} refuses to start: its log is rotten", place + 1));
            }
            Err(Died) => return self.died(place),
        };
        let machine = &mut self.machines[place];
        let (id, life, now_us) = (machine.id, machine.life, self.schedule.now_us());
        machine.begin_ticking(now_us);
        let tick_at = machine.next_tick_at_us();
        self.counts.torn_tails += u64::from(started.torn);
        self.counts.archives_redone += u64::from(started.reinstalled);
        let last = started.seen.log.last().map_or(started.seen.base.0, |slot| slot.index);
        self.note(format_args!(
            "m{id} starts: term {}, log {} to {last}, applied {}, torn {}",
            started.seen.term, started.seen.base.0, started.seen.applied, started.torn
        ));
        self.see(&Seen::Started(started.seen));
        if !started.unfinished {
            let restored = contents(id, &started.member.state);
            self.see(&Seen::Restored(restored));
        }
        self.machines[place].member = Some(started.member);
        self.say_hello(place, last);
        self.schedule.at(tick_at, Task::Tick { member: place, life });
        self.wake(place);
        self.wake_thread(place, Thread::Reclaim);
    }

    /// Whoever connects says how far its log reaches; both sides do.
    fn say_hello(&mut self, place: usize, last: LogIndex) {
        let id = self.machines[place].id;
        for other in (0..self.machines.len()).filter(|other| *other != place) {
            let other_id = self.machines[other].id;
            let Some(member) = &mut self.machines[other].member else { continue };
            let other_last = member.reader.last_index();
            member.input(node::Input::PeerOffers { member: id, last });
            self.wake(other);
            if let Some(member) = &mut self.machines[place].member {
                member.input(node::Input::PeerOffers { member: other_id, last: other_last });
            }
        }
    }

    pub(super) fn tick(&mut self, place: usize) {
        let now_us = self.schedule.now_us();
        let machine = &mut self.machines[place];
        let ticks = machine.ticks(now_us);
        let (life, at) = (machine.life, machine.next_tick_at_us());
        let Some(member) = &mut machine.member else { return };
        // As the raft thread does not make up for all ticks of a pause.
        member.ticks = (member.ticks + ticks).min(5);
        self.schedule.at(at.max(now_us + 1), Task::Tick { member: place, life });
        self.wake(place);
    }

    pub(super) fn turn(&mut self, place: usize, thread: Thread) {
        self.machines[place].scheduled[thread as usize] = false;
        let now_ms = self.local_ms(place);
        let keep = self.held_by_all();
        let Some(member) = &mut self.machines[place].member else { return };
        let done = match thread {
            Thread::Raft => {
                let turn = member.raft_turn(now_ms);
                self.raft_turned(place, turn);
                Ok(())
            }
            Thread::Log => self.log_turn(place),
            Thread::Mark if member.log_waits() == 0 => member.mark_turn(),
            Thread::Mark => Ok(()),
            Thread::Apply => {
                let waits = member.items_wait();
                let count = if waits == 0 { 0 } else { self.rng.random_range(1..=waits) };
                let turn = member.apply_turn(count, now_ms);
                let installs = member.installs();
                turn.map(|turn| {
                    self.applied(place, turn);
                    if installs {
                        self.crash_in_installation(place);
                    }
                })
            }
            Thread::Watch => {
                if member.watch_turn(now_ms) {
                    self.wake_thread(place, Thread::Watch);
                }
                Ok(())
            }
            Thread::Reclaim => {
                self.close_archives(place);
                let flush = self.rng.random_bool(0.3);
                let member = self.machines[place].member.as_mut().expect("it runs");
                let keep = match self.options {
                    Options { log_cuts: false, .. } => LogIndex(0),
                    Options { archives: false, .. } => keep,
                    _ => LogIndex(u64::MAX),
                };
                let cut = member.reclaim_turn(flush, keep);
                self.wake_thread(place, Thread::Reclaim);
                cut.map(|cut| self.counts.log_cuts += u64::from(cut))
            }
        };
        match done {
            Ok(()) => self.wake(place),
            Err(Died) => self.died(place),
        }
    }

    fn raft_turned(&mut self, place: usize, turn: RaftTurn) {
        let id = self.machines[place].id;
        if let Some(base) = turn.log_begins {
            self.see(&Seen::LogBegins(id, base));
        }
        if !turn.logged.is_empty() {
            self.see(&Seen::Logged(id, turn.logged));
        }
        if let Some(standing) = turn.standing {
            let led = self.leader == Some(id);
            if standing.leading && !led {
                let under_load = self.pending.values().any(|pending| pending.is_write());
                self.counts.elections += 1;
                let changed = self.last_leader.replace(id).is_some_and(|last| last != id);
                self.counts.leader_changes += u64::from(changed && under_load);
                self.leader = Some(id);
            } else if !standing.leading && led {
                self.leader = None;
            }
            let leader = standing.leader.map_or(0, |leader| leader.0);
            self.note(format_args!(
                "m{id} term {} leader m{leader} commit {}{}",
                standing.term,
                standing.commit,
                if standing.leading { ", leads" } else { "" }
            ));
            self.see(&Seen::Standing(id, standing));
        }
        self.send(turn.sent);
        for to in turn.wanted {
            self.archive_wanted(place, to);
        }
        for message in turn.snapshots {
            self.archive_goes(place, message);
        }
        self.counts.read_rounds += turn.confirmed;
        for ticket in turn.ready {
            self.ready(place, ticket);
        }
        for (ticket, error) in turn.rejected {
            self.rejected(ticket, error);
        }
        for (ticket, lease) in turn.told {
            self.told(ticket, lease);
        }
    }

    fn log_turn(&mut self, place: usize) -> Result<(), Died> {
        let Some(member) = &mut self.machines[place].member else { return Ok(()) };
        let waits = member.log_waits();
        if waits == 0 {
            return Ok(());
        }
        let count = self.rng.random_range(1..=waits);
        let sent = member.log_turn(count)?;
        self.send(sent);
        Ok(())
    }

    pub(super) fn send(&mut self, messages: Vec<Message>) {
        let now_us = self.schedule.now_us();
        for message in messages {
            self.see(&Seen::Sent(message.clone()));
            self.counts.forwarded +=
                if message.kind == MessageKind::Propose { message.entries.len() as u64 } else { 0 };
            let arrivals = self.network.send(&message, now_us, &self.options, &mut self.rng, &mut self.counts);
            if arrivals.is_empty() && self.rng.random_ratio(1, 4) {
                // As the transport reports a connection that broke.
                let sender = Self::place(message.from);
                if let Some(member) = &mut self.machines[sender].member {
                    member.input(node::Input::Unreachable(message.to));
                }
            }
            for at in arrivals {
                self.schedule.at(at, Task::Deliver(message.clone()));
            }
        }
    }

    pub(super) fn deliver(&mut self, message: Message) {
        let place = Self::place(message.to);
        if self.network.is_cut(&message) {
            self.counts.messages_lost += 1;
        } else if self.is_paused(place) {
            self.put_off(place, Task::Deliver(message));
        } else if self.machines[place].member.is_some() {
            self.counts.messages += 1;
            self.arrives(&message);
            let member = self.machines[place].member.as_mut().expect("found above");
            member.input(node::Input::Message(message));
            self.wake(place);
        }
    }

    fn applied(&mut self, place: usize, turn: ApplyTurn) {
        let machine = &self.machines[place];
        let (id, boot) = (machine.id, machine.boots);
        for (entry, applied) in turn.applied {
            let highest = &mut self.machines[place].applied_to;
            *highest = entry.index.max(*highest);
            self.decide(&entry, &applied);
            self.see(&Seen::Applied(id, slot(&entry), outcome(&applied)));
            let outcome = match &applied.reply {
                Ok(_) => "done".to_owned(),
                Err(error) => error.to_string(),
            };
            self.note(format_args!("m{id} applies {}: revision {}, {outcome}", entry.index, applied.revision));
            let Some(request) = applied
                .request
                .filter(|request| MemberId(request.member) == id && request.boot == boot && request.sequence != 0)
            else {
                continue;
            };
            let answer = Answer::Write { index: entry.index, reply: applied.reply.clone(), revision: applied.revision };
            self.answer(request.sequence, answer);
        }
        for ticket in turn.ready {
            self.ready(place, ticket);
        }
        if turn.installed {
            self.installed(place);
        }
        self.wake_thread(place, Thread::Watch);
    }

    fn installed(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        let found = contents(machine.id, &machine.member.as_ref().expect("it installed").state);
        machine.applied_to = found.applied.max(machine.applied_to);
        self.counts.archives_installed += 1;
        self.note(format_args!("m{} has the state at {}", found.member, found.applied));
        self.see(&Seen::Installed(found.member, found.applied));
        self.see(&Seen::Restored(found));
    }

    /// An entry that nobody applied before is the truth from now on.
    fn decide(&mut self, entry: &LogEntry, applied: &Applied) {
        if entry.index != self.judge.truth().applied().next() {
            return;
        }
        let twin = self.oracle.apply(entry);
        let changes = match &applied.effects.events {
            Events::None => Vec::new(),
            Events::Changes(changes) => changes.to_vec(),
            Events::TooMany => panic!("simulated requests are small"),
        };
        let slot = slot(entry);
        self.counts.compactions += u64::from(matches!(applied.reply, Ok(Reply::Compact(_))));
        let expired = matches!(applied.reply, Ok(Reply::LeaseRevoke(_)))
            && applied.request.is_some_and(|request| request.sequence == 0);
        self.counts.leases_expired += u64::from(expired);
        self.see(&Seen::Decided(Box::new(Decided {
            slot,
            data: entry.data.clone(),
            reply: applied.reply.clone(),
            revision: applied.revision,
            changes,
            clocks: self.clocks(),
        })));
        self.see(&Seen::Applied(ORACLE, slot, outcome(&twin)));
        if self.rng.random_ratio(1, LOOK_ONE_IN) {
            self.counts.on_disk_checks += 1;
            let holders = self.machines.iter().filter(|machine| machine.holds(slot.index, slot.term)).count();
            self.see(&Seen::Stored { slot, holders, voters: self.machines.len() });
        }
    }
}

/// An entry as the server makes it, but for the wall clock, which no simulation may look at.
pub(super) fn encode(identity: Identity, ticket: Ticket, term: Term, idempotency: Bytes, kind: Kind) -> Bytes {
    let mut entry = node::entry(identity, ticket, term, idempotency, kind);
    if let Some(header) = &mut entry.header {
        header.wall_clock_ms = 0;
    }
    Bytes::from(entry.encode_to_vec())
}
