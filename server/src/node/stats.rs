//! What is counted about a member, as plain numbers; the metrics page gives them etcd's names.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::types::MemberId;

/// Upper bounds of the buckets, in microseconds: etcd's for its sync and commit histograms, 1 ms doubled 13 times.
pub const BUCKETS_US: [u64; 14] = {
    let mut bounds = [1_000; 14];
    let mut place = 1;
    while place < bounds.len() {
        bounds[place] = bounds[place - 1] * 2;
        place += 1;
    }
    bounds
};

/// How long something took, counted in etcd's buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative; the last one has no upper bound.
    counts: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub(super) fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[BUCKETS_US.partition_point(|bound| *bound < us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Counts by bucket (the last above all bounds), not cumulative, and the sum in microseconds.
    #[must_use]
    pub fn read(&self) -> ([u64; BUCKETS_US.len() + 1], u64) {
        (std::array::from_fn(|place| self.counts[place].load(Relaxed)), self.sum_us.load(Relaxed))
    }
}

/// All of it only rises, unless the name says otherwise.
#[derive(Debug, Default)]
pub struct Stats {
    pub proposals_failed: AtomicU64,
    pub leader_changes: AtomicU64,
    /// Each is one sync of the raft log.
    pub log_syncs: Histogram,
    pub log_entries: AtomicU64,
    pub log_bytes: AtomicU64,
    /// Each is one write to the engine.
    pub apply_batches: AtomicU64,
    pub applied_entries: AtomicU64,
    pub slow_applies: AtomicU64,
    /// States that came as an archive.
    pub archives_installed: AtomicU64,
    pub reads_confirmed: AtomicU64,
    pub flushes: Histogram,
    pub leases_expired: AtomicU64,
    pub messages_dropped: AtomicU64,
    traffic: RwLock<BTreeMap<MemberId, Arc<Traffic>>>,
    /// Messages that no correct member sends.
    pub messages_refused: AtomicU64,
    /// Times when reads found no leader to confirm them for as long as a client waits.
    pub slow_reads: AtomicU64,
    pub late_heartbeats: AtomicU64,
}

/// Upper bounds of the buckets of round trips, in microseconds: etcd's, 0.1 ms doubled 15 times.
pub const ROUND_TRIPS_US: [u64; 16] = {
    let mut bounds = [100; 16];
    let mut place = 1;
    while place < bounds.len() {
        bounds[place] = bounds[place - 1] * 2;
        place += 1;
    }
    bounds
};

/// What went over the wire to and from one member. All of it only rises, unless the name says otherwise.
#[derive(Debug, Default)]
pub struct Traffic {
    pub sent_bytes: AtomicU64,
    pub received_bytes: AtomicU64,
    /// Messages that were dropped instead of sent.
    pub send_failures: AtomicU64,
    /// Connections from that member that were closed for what came in.
    pub receive_failures: AtomicU64,
    /// Lanes that are connected now.
    pub connected: AtomicU64,
    /// Lanes whose connection ended.
    pub disconnects: AtomicU64,
    round_trips: [AtomicU64; ROUND_TRIPS_US.len() + 1],
    round_trips_us: AtomicU64,
}

impl Traffic {
    /// A ping came back.
    pub fn round_trip(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.round_trips[ROUND_TRIPS_US.partition_point(|bound| *bound < us)].fetch_add(1, Relaxed);
        self.round_trips_us.fetch_add(us, Relaxed);
    }

    /// As [`Histogram::read`].
    #[must_use]
    pub fn round_trips(&self) -> ([u64; ROUND_TRIPS_US.len() + 1], u64) {
        (std::array::from_fn(|place| self.round_trips[place].load(Relaxed)), self.round_trips_us.load(Relaxed))
    }
}

impl Stats {
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Relaxed);
    }

    /// The numbers of one other member.
    pub(super) fn traffic_with(&self, member: MemberId) -> Arc<Traffic> {
        Arc::clone(self.traffic.write().unwrap_or_else(PoisonError::into_inner).entry(member).or_default())
    }

    /// The numbers of each other member.
    #[must_use]
    pub fn traffic(&self) -> Vec<(MemberId, Arc<Traffic>)> {
        let traffic = self.traffic.read().unwrap_or_else(PoisonError::into_inner);
        traffic.iter().map(|(member, traffic)| (*member, Arc::clone(traffic))).collect()
    }
}
