//! One machine: what outlives the process that runs on it, and its clock.

use conclave_server::{
    engine::MemoryEngine,
    node::{
        Staging,
        log::{LogOptions, LogStore},
    },
    state::State,
    types::{ClusterId, LogIndex, MemberId, Term},
};

use super::{
    disk::SimDisk,
    member::{ARCHIVES, FOLDER, LOG, Member},
    schedule::Thread,
};

/// Ticks of raft that are made up for after a pause, as the raft thread does.
const MAX_TICKS: u64 = 5;
const TICK_US: u64 = conclave_server::node::TICK_MS * 1_000;

pub(super) struct Machine {
    pub(super) id: MemberId,
    cluster: ClusterId,
    pub(super) disk: SimDisk,
    pub(super) engine: MemoryEngine,
    /// The first start was finished once; the server keeps this in its identity file.
    pub(super) initialised: bool,
    pub(super) boots: u64,
    /// Counts processes, so that what was meant for a dead one is known.
    pub(super) life: u64,
    pub(super) member: Option<Member>,
    pub(super) scheduled: [bool; Thread::COUNT],
    /// Its clock's rate in thousandths.
    rate: u64,
    next_tick_us: u64,
    pub(super) paused_until_us: u64,
    pub(super) slow_until_us: u64,
    /// It refuses to start, because its log is rotten.
    pub(super) refuses: bool,
    /// The disk as it was before the log on it rotted: what it had promised till then it had kept.
    pub(super) before_rot: Option<SimDisk>,
    /// The highest index that it ever applied: its log matches every leader's up to there.
    pub(super) applied_to: LogIndex,
}

impl Machine {
    pub(super) fn new(id: MemberId, cluster: ClusterId, engine: MemoryEngine, rate: u64) -> Self {
        Self {
            id,
            cluster,
            disk: SimDisk::new(),
            engine,
            initialised: false,
            boots: 0,
            life: 0,
            member: None,
            scheduled: [false; Thread::COUNT],
            rate,
            next_tick_us: 0,
            paused_until_us: 0,
            slow_until_us: 0,
            refuses: false,
            before_rot: None,
            applied_to: LogIndex(0),
        }
    }

    fn local_us(&self, now_us: u64) -> u64 {
        now_us * self.rate / 1_000
    }

    /// What its clock says.
    pub(super) fn local_ms(&self, now_us: u64) -> u64 {
        self.local_us(now_us) / 1_000
    }

    pub(super) fn begin_ticking(&mut self, now_us: u64) {
        self.next_tick_us = self.local_us(now_us) + TICK_US;
    }

    /// Ticks that are due, as `Clock::ticks` of the raft thread counts them.
    pub(super) fn ticks(&mut self, now_us: u64) -> u64 {
        let now = self.local_us(now_us);
        let mut ticks = 0;
        while self.next_tick_us <= now && ticks < MAX_TICKS {
            self.next_tick_us += TICK_US;
            ticks += 1;
        }
        if self.next_tick_us <= now {
            self.next_tick_us = now + TICK_US;
        }
        ticks
    }

    /// When the next tick comes, in virtual time.
    pub(super) fn next_tick_at_us(&self) -> u64 {
        (self.next_tick_us * 1_000).div_ceil(self.rate)
    }

    /// Whether the entry would be there if the power failed now and everything that was not synced were lost: in the
    /// log, or in the store if the log was cut above it. Of a rotten log, what it held before: rot is no fault of those
    /// who counted on it.
    pub(super) fn holds(&self, index: LogIndex, term: Term) -> bool {
        let disk = self.before_rot.as_ref().unwrap_or(&self.disk).fork();
        disk.forget_plan();
        disk.power_off(&mut |_| 0);
        let options = LogOptions { must_exist: self.initialised, ..LOG };
        let Ok((log, recovered)) = LogStore::open(disk.folder(FOLDER), options) else { return false };
        if index <= recovered.base.0 {
            // In the store, or in an archive that raft took and that is still to become the store.
            let staging = Staging::open(disk.folder(ARCHIVES), self.cluster);
            let staged = staging.ok().and_then(|staging| staging.staged().map(|meta| meta.index));
            return State::persisted(&self.engine.clone().into()).0 >= index || staged >= Some(index);
        }
        log.reader().term(index) == Some(term)
    }
}
