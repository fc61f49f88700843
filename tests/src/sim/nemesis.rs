//! Misfortune: what goes wrong, when, and for how long.

use std::collections::BTreeSet;

use conclave_server::{node::Input, types::MemberId};
use rand::RngExt;

use super::{disk::Fault, network::Link, schedule::Task, world::World};

/// Something that goes on until it is relieved.
pub(super) enum Trouble {
    Cut(BTreeSet<Link>),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Crash,
    Blackout,
    TornCall,
    DiskError,
    SlowDisk,
    Pause,
    Partition,
    OneWay,
    Partial,
    Transfer,
}

impl World {
    pub(super) fn misfortune(&mut self) {
        if self.healing {
            return;
        }
        let delay = self.calm_us();
        self.schedule.after(delay, Task::Misfortune);
        let options = self.options;
        let several = options.members > 1;
        let kinds = [
            (Kind::Crash, options.crashes),
            (Kind::Blackout, options.blackouts && self.rng.random_ratio(1, 4)),
            (Kind::TornCall, options.torn_calls),
            (Kind::DiskError, options.disk_errors),
            (Kind::SlowDisk, options.slow_disks),
            (Kind::Pause, options.pauses),
            (Kind::Partition, options.partitions && several),
            (Kind::OneWay, options.one_way && several),
            (Kind::Partial, options.partial && options.members > 2),
            (Kind::Transfer, options.transfers && several),
        ];
        let on: Vec<_> = kinds.into_iter().filter(|(_, on)| *on).map(|(kind, _)| kind).collect();
        if !on.is_empty() {
            let kind = on[self.rng.random_range(0..on.len())];
            self.befall(kind);
        }
    }

    fn befall(&mut self, kind: Kind) {
        let member = self.victim();
        match kind {
            Kind::Crash => self.crash(member, "crashes"),
            Kind::Blackout => {
                self.counts.blackouts += 1;
                (0..self.machines.len()).for_each(|member| self.crash(member, "loses power with all others"));
            }
            Kind::TornCall => self.plan(member, Fault::Crash),
            Kind::DiskError => self.plan(member, Fault::Error),
            Kind::SlowDisk => {
                self.counts.slow_disks += 1;
                let until = self.schedule.now_us() + self.rng.random_range(500_000..10_000_000);
                self.note(format_args!("the disk of m{} is slow", member + 1));
                self.machines[member].slow_until_us = until;
            }
            Kind::Pause => {
                self.counts.pauses += 1;
                let long = if self.rng.random_ratio(1, 3) { 10_000_000 } else { 1_500_000 };
                let pause = self.rng.random_range(10_000..long);
                self.note(format_args!("m{} is paused for {} ms", member + 1, pause / 1_000));
                self.machines[member].paused_until_us = self.schedule.now_us() + pause;
            }
            Kind::Partition => self.partition(),
            Kind::OneWay => self.cut_one_way(member),
            Kind::Partial => self.cut_partially(member),
            Kind::Transfer => self.transfer(),
        }
    }

    /// Any member, the leader more often than others.
    fn victim(&mut self) -> usize {
        match self.leader {
            Some(leader) if self.rng.random_bool(0.4) => Self::place(leader),
            _ => self.rng.random_range(0..self.machines.len()),
        }
    }

    fn plan(&mut self, member: usize, fault: Fault) {
        if self.machines[member].member.is_some() {
            let call = self.machines[member].disk.calls() + self.rng.random_range(1..40);
            self.machines[member].disk.plan(call, fault);
        }
    }

    pub(super) fn died(&mut self, member: usize) {
        self.counts.crashes_in_calls += 1;
        self.crash(member, "dies in a disk call");
    }

    fn crash(&mut self, member: usize, why: &str) {
        let healing = self.healing;
        let machine = &mut self.machines[member];
        let ran = machine.member.take().is_some();
        machine.life += 1;
        let id = machine.id;
        if self.rng.random_bool(0.7) {
            let rng = &mut self.rng;
            machine.disk.power_off(&mut |below| rng.random_range(0..below));
            self.rot(member);
        } else {
            machine.disk.kill();
        }
        let machine = &mut self.machines[member];
        machine.engine = machine.engine.crash(&mut self.rng);
        machine.paused_until_us = 0;
        if ran {
            self.counts.crashes += 1;
            self.see(&super::seen::Seen::Died(id));
        }
        self.note(format_args!("m{id} {why}"));
        if self.leader == Some(id) {
            self.leader = None;
        }
        self.cut_off(member);
        let long = if self.rng.random_ratio(1, 10) { 30_000_000 } else { 3_000_000 };
        let down = if healing { 0 } else { self.rng.random_range(0..long) };
        self.schedule.after(down, Task::Start(member));
    }

    /// A disk that lost its power may have lost more. A minority may, or nobody could say what was promised.
    fn rot(&mut self, member: usize) {
        let minority = (self.machines.len() - 1) / 2;
        let rotten = self.machines.iter().filter(|machine| machine.before_rot.is_some()).count();
        let machine = &mut self.machines[member];
        if !self.options.rot || rotten >= minority || machine.before_rot.is_some() || !self.rng.random_ratio(1, 6) {
            return;
        }
        let before = machine.disk.fork();
        if super::rot::damage(&machine.disk, &mut self.rng) {
            machine.before_rot = Some(before);
            let id = machine.id;
            self.note(format_args!("the log of m{id} rots"));
            self.see(&super::seen::Seen::Damaged(id));
        }
    }

    /// The process dies while it exchanges its state for another member's.
    pub(super) fn crash_in_installation(&mut self, member: usize) {
        if self.options.crashes && self.rng.random_ratio(1, 8) {
            self.crash(member, "crashes while it installs");
        }
    }

    fn ids(&self) -> Vec<MemberId> {
        self.machines.iter().map(|machine| machine.id).collect()
    }

    /// Two sides that do not hear of each other.
    fn partition(&mut self) {
        self.counts.partitions += 1;
        let ids = self.ids();
        let side: BTreeSet<_> = if self.rng.random() {
            BTreeSet::from([ids[self.victim()]])
        } else {
            ids.iter().copied().filter(|_| self.rng.random()).collect()
        };
        let links = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
        let links = links.filter(|(from, to)| side.contains(from) != side.contains(to)).collect();
        self.cut("partition", links);
    }

    /// A member that hears nobody, or that nobody hears, or one direction of one link.
    fn cut_one_way(&mut self, member: usize) {
        self.counts.one_way += 1;
        let ids = self.ids();
        let one = ids[member];
        let others = ids.iter().copied().filter(|other| *other != one);
        let links: BTreeSet<_> = match self.rng.random_range(0..3) {
            0 => others.map(|other| (one, other)).collect(),
            1 => others.map(|other| (other, one)).collect(),
            _ => others.take(1).map(|other| (one, other)).collect(),
        };
        self.cut("one-way cut", links);
    }

    /// Two members that do not hear each other, while others hear both.
    fn cut_partially(&mut self, member: usize) {
        self.counts.partial += 1;
        let ids = self.ids();
        let (one, other) = (ids[member], ids[(member + 1) % ids.len()]);
        self.cut("partial cut", BTreeSet::from([(one, other), (other, one)]));
    }

    fn cut(&mut self, what: &str, links: BTreeSet<Link>) {
        let long = if self.rng.random_ratio(1, 5) { 200_000 } else { 10_000_000 };
        let lasts = self.rng.random_range(10_000..long);
        let number = self.number();
        let named: Vec<_> = links.iter().map(|(from, to)| format!("m{from}→m{to}")).collect();
        self.note(format_args!("{what} {number} for {} ms: {}", lasts / 1_000, named.join(" ")));
        self.network.cut(&links);
        self.troubles.insert(number, Trouble::Cut(links));
        self.schedule.after(lasts, Task::Relief(number));
    }

    pub(super) fn relieve(&mut self, number: u64) {
        if let Some(Trouble::Cut(links)) = self.troubles.remove(&number) {
            self.note(format_args!("cut {number} is mended"));
            self.network.mend(&links);
        }
    }

    fn transfer(&mut self) {
        let Some(leader) = self.leader else { return };
        let to = self.ids()[self.rng.random_range(0..self.machines.len())];
        let place = Self::place(leader);
        if to != leader
            && let Some(member) = &mut self.machines[place].member
        {
            self.counts.transfers += 1;
            let input = if self.rng.random() { Input::TransferLeader(to) } else { Input::Abdicate };
            member.input(input);
            self.note(format_args!("m{leader} hands leadership over, perhaps to m{to}"));
            self.wake(place);
        }
    }
}
