//! R12: when nothing goes wrong any more, the cluster gets on. Everybody runs, hears everybody and has caught up; whatever
//! was asked is answered; watchers are told; leases end; and all stores are equal.

use conclave_server::{mvcc, types::Revision};
use rand::RngExt;

use super::{
    oracle::{ORACLE, collect, contents, everything},
    schedule::Task,
    seen::{PastRead, Seen},
    world::World,
};

/// Virtual time in which a healed cluster must have come to rest: the longest wait of a client (7 s), then elections, a
/// lease of two seconds that a new leader began anew, and all of it on slow disks and slow clocks.
const REST_US: u64 = 60_000_000;
/// Requests of each client that must be answered: a write and a read.
const OWED: u32 = 2;

impl World {
    pub(super) fn heal(&mut self) {
        self.note(format_args!("heal"));
        self.healing = true;
        self.options = self.options.healed();
        let troubles: Vec<_> = self.troubles.keys().copied().collect();
        troubles.into_iter().for_each(|trouble| self.relieve(trouble));
        for place in 0..self.machines.len() {
            let machine = &mut self.machines[place];
            machine.disk.forget_plan();
            machine.slow_until_us = 0;
            machine.paused_until_us = 0;
            self.schedule.after(0, Task::Start(place));
        }
        for client in 0..self.clients.len() {
            self.clients[client].owed = OWED;
            let delay = self.rng.random_range(0..1_000_000);
            self.schedule.after(delay, Task::Client(client));
        }
        let end_us = self.schedule.now_us() + REST_US;
        while !self.is_quiet() {
            assert!(self.schedule.now_us() < end_us, "seed {}: R12 (liveness) is broken: {}", self.seed, self.unrest());
            let task = self.schedule.next().expect("clocks go on for ever");
            self.carry_out(task);
        }
        self.settle();
    }

    fn is_quiet(&self) -> bool {
        let applied = self.judge.truth().applied();
        self.pending.is_empty()
            && self.clients.iter().all(super::clients::Client::is_done)
            && self.machines.iter().filter(|machine| !machine.refuses).all(|machine| {
                machine.member.as_ref().is_some_and(|member| {
                    member.standing.leader.is_some()
                        && member.log_waits() == 0
                        && member.apply_waits() == 0
                        && member.state.applied().0 == applied
                        && member.leases() == 0
                })
            })
            && self.watchers.iter().all(|watcher| {
                watcher.member.is_some()
                    && watcher.next > Revision(0)
                    && self.judge.truth().changes(&watcher.range, watcher.next).next().is_none()
            })
    }

    fn unrest(&self) -> String {
        let member = |machine: &super::machine::Machine| match &machine.member {
            None => format!("m{} is down", machine.id),
            Some(member) => format!(
                "m{}: {:?}, applied {}, {} leases",
                machine.id,
                member.standing,
                member.state.applied().0,
                member.leases()
            ),
        };
        let members: Vec<_> = self.machines.iter().map(member).collect();
        let behind = self.watchers.iter().filter(|watcher| {
            self.judge.truth().changes(&watcher.range, watcher.next).next().is_some() || watcher.member.is_none()
        });
        format!(
            "no rest: {} requests wait, {} watchers are behind, applied {}; {}",
            self.pending.len(),
            behind.count(),
            self.judge.truth().applied(),
            members.join("; ")
        )
    }

    /// All stores are equal, to the last version that is not compacted.
    fn settle(&mut self) {
        self.note(format_args!("settled"));
        let hashed = |state: &conclave_server::state::State| {
            mvcc::hash_published(&state.published(), Revision(0)).expect("the current revision").0
        };
        let mut all = vec![(ORACLE, contents(ORACLE, &self.oracle.state), hashed(&self.oracle.state))];
        for machine in self.machines.iter().filter(|machine| !machine.refuses) {
            let state = &machine.member.as_ref().expect("a quiet member runs").state;
            all.push((machine.id, contents(machine.id, state), hashed(state)));
        }
        for (member, contents, hash) in all {
            self.see(&Seen::Restored(contents.clone()));
            self.see(&Seen::Settled(contents));
            let mvcc::HashKv { hash, compacted, revision } = hash;
            self.see(&Seen::Hashed { member, revision, compacted, hash });
        }
        for place in 0..self.machines.len() {
            if self.machines[place].refuses {
                continue;
            }
            let view = self.machines[place].member.as_ref().expect("it runs").state.read_view();
            let compacted = view.position.compacted;
            for revision in compacted.max(Revision::FIRST).0..=view.position.revision.0 {
                let revision = Revision(revision);
                let found = collect(&view.view, view.position, everything(), revision);
                self.see(&Seen::Past(PastRead { range: everything(), revision, compacted, found }));
            }
        }
    }
}
