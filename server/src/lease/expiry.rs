//! When each lease runs out, on the leader's monotonic clock. Pure: `now_ms` is handed in.

use std::collections::{BTreeMap, BTreeSet};

use super::Grant;
use crate::types::{LeaseId, LogIndex};

/// A lease that ran out and is still there after this time is handed out again: its revocation may have been lost on
/// the way to the log. etcd waits as long.
pub(super) const RETRY_MS: u64 = 3_000;

/// From this many leases on a new leader spreads their deadlines, so that leases which all got the same extension do not
/// all run out in one second. etcd's revoke rate.
const SPREAD_FROM: usize = 1_000;
/// Deadlines per second that spreading leaves at most: three quarters of the revoke rate, the rest is for leases that
/// run out meanwhile.
const SPREAD_PER_SECOND: u64 = 750;

/// The leader's clockwork. On other members it is empty, and learns nothing.
///
/// It holds one entry a lease, whatever the number of renewals.
#[derive(Debug, Default)]
pub struct Expiry(Option<Deadlines>);

#[derive(Debug, Default)]
struct Deadlines {
    /// Beyond its TTL a lease lives so much longer, because its client counts from when it hears of a grant or renewal.
    grace_ms: u64,
    leases: BTreeMap<LeaseId, Lease>,
    /// When to look at a lease next: its deadline, or later once it was handed out. One entry for each of `leases`.
    due: BTreeSet<(u64, LeaseId)>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    granted: LogIndex,
    ttl_ms: u64,
    deadline: u64,
    /// Its time in `due`.
    due: u64,
}

impl Expiry {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A new leader starts over: every lease gets its full TTL plus `extend_ms`, because renewals that the leader before
    /// answered are not known here. Many leases get more, none gets less. `grace_ms`: what a renewal adds to the TTL.
    pub fn promote(
        &mut self,
        leases: impl Iterator<Item = (LeaseId, Grant)>,
        now_ms: u64,
        extend_ms: u64,
        grace_ms: u64,
    ) {
        let latest = now_ms.saturating_add(extend_ms);
        let mut found: Vec<(u64, LeaseId, Grant)> =
            leases.map(|(id, grant)| (latest.saturating_add(millis(grant.ttl_ms)), id, grant)).collect();
        if found.len() >= SPREAD_FROM {
            found.sort_unstable_by_key(|(deadline, id, _)| (*deadline, *id));
            spread(&mut found);
        }
        let mut deadlines = Deadlines { grace_ms, ..Deadlines::default() };
        for (deadline, id, grant) in found {
            deadlines.set(id, Lease { granted: grant.index, ttl_ms: millis(grant.ttl_ms), deadline, due: deadline });
        }
        self.0 = Some(deadlines);
    }

    /// Not leader any more: no deadlines, renewals refused.
    pub fn demote(&mut self) {
        self.0 = None;
    }

    /// Whether this member keeps the time, that is, leads.
    #[must_use]
    pub fn keeps_time(&self) -> bool {
        self.0.is_some()
    }

    pub fn granted(&mut self, id: LeaseId, grant: Grant, now_ms: u64) {
        if let Some(deadlines) = &mut self.0 {
            let ttl_ms = millis(grant.ttl_ms);
            let deadline = now_ms.saturating_add(ttl_ms).saturating_add(deadlines.grace_ms);
            deadlines.set(id, Lease { granted: grant.index, ttl_ms, deadline, due: deadline });
        }
    }

    pub fn revoked(&mut self, id: LeaseId) {
        if let Some(deadlines) = &mut self.0 {
            deadlines.remove(id);
        }
    }

    /// New remaining TTL in ms (the full one); none: no such lease, or it ran out.
    pub fn renew(&mut self, id: LeaseId, now_ms: u64) -> Option<i64> {
        let deadlines = self.0.as_mut()?;
        let lease = *deadlines.leases.get(&id)?;
        if lease.deadline <= now_ms {
            // Its revocation may stand in the log already. Once it ran out it stays so, whoever asks.
            return None;
        }
        // A new leader may have given it more than its TTL; a renewal never takes away.
        let renewed = now_ms.saturating_add(lease.ttl_ms).saturating_add(deadlines.grace_ms);
        let deadline = lease.deadline.max(renewed);
        deadlines.set(id, Lease { deadline, due: deadline, ..lease });
        Some(signed(lease.ttl_ms))
    }

    /// (remaining ms, granted ms); the remaining time is 0 when it ran out and is not revoked yet.
    #[must_use]
    pub fn remaining(&self, id: LeaseId, now_ms: u64) -> Option<(i64, i64)> {
        let lease = self.0.as_ref()?.leases.get(&id)?;
        // Never more than was granted, though a new leader may have added to it.
        let left = lease.deadline.saturating_sub(now_ms).min(lease.ttl_ms);
        Some((signed(left), signed(lease.ttl_ms)))
    }

    /// At most `max` leases that ran out and were not handed out within the last [`RETRY_MS`], oldest first, each with
    /// the log index of its grant.
    pub fn take_expired(&mut self, now_ms: u64, max: usize) -> Vec<(LeaseId, LogIndex)> {
        let Some(deadlines) = &mut self.0 else { return Vec::new() };
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(&(due, id)) = deadlines.due.first()
            && due <= now_ms
        {
            let lease = deadlines.leases[&id];
            assert!(lease.deadline <= due, "a lease is looked at before its deadline");
            deadlines.set(id, Lease { due: now_ms + RETRY_MS, ..lease });
            taken.push((id, lease.granted));
        }
        taken
    }

    /// When the next lease is due, so that whoever waits need not look before.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.0.as_ref()?.due.first().map(|(due, _)| *due)
    }

    /// Ids by remaining time, least first.
    #[must_use]
    pub fn list(&self) -> Vec<LeaseId> {
        let Some(deadlines) = &self.0 else { return Vec::new() };
        let mut ids: Vec<_> = deadlines.leases.iter().map(|(id, lease)| (lease.deadline, *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }
}

impl Deadlines {
    fn set(&mut self, id: LeaseId, lease: Lease) {
        if let Some(before) = self.leases.insert(id, lease) {
            self.due.remove(&(before.due, id));
        }
        self.due.insert((lease.due, id));
    }

    fn remove(&mut self, id: LeaseId) {
        if let Some(before) = self.leases.remove(&id) {
            self.due.remove(&(before.due, id));
        }
    }
}

/// Moves deadlines, sorted, later so that no second holds more than [`SPREAD_PER_SECOND`] of them.
fn spread(sorted: &mut [(u64, LeaseId, Grant)]) {
    let mut earliest_us = 0;
    for (deadline, _, _) in sorted {
        let at_us = deadline.saturating_mul(1_000).max(earliest_us);
        *deadline = at_us.div_ceil(1_000).max(*deadline);
        earliest_us = at_us.saturating_add(1_000_000 / SPREAD_PER_SECOND);
    }
}

fn millis(ttl_ms: i64) -> u64 {
    u64::try_from(ttl_ms).unwrap_or(0)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
