//! When each lease runs out, on the leader's monotonic clock. Pure: `now_ms` is handed in.
use crate::types::LeaseId;

#[derive(Debug, Default)]
pub struct Expiry(());

impl Expiry {
    pub fn new() -> Self {
        todo!()
    }
    /// A new leader starts over: every lease gets its full TTL plus `extend_ms`.
    pub fn promote(&mut self, _leases: impl Iterator<Item = (LeaseId, i64)>, _now_ms: u64, _extend_ms: u64) {
        todo!()
    }
    /// Not leader any more: no deadlines, renewals refused.
    pub fn demote(&mut self) {
        todo!()
    }
    pub fn granted(&mut self, _id: LeaseId, _ttl_ms: i64, _now_ms: u64) {
        todo!()
    }
    pub fn revoked(&mut self, _id: LeaseId) {
        todo!()
    }
    /// New remaining TTL in ms (the full one); None: no such lease, or it ran out.
    pub fn renew(&mut self, _id: LeaseId, _now_ms: u64) -> Option<i64> {
        todo!()
    }
    /// (remaining ms, granted ms)
    pub fn remaining(&self, _id: LeaseId, _now_ms: u64) -> Option<(i64, i64)> {
        todo!()
    }
    /// At most `max` leases that ran out and were not handed out within the last retry interval, oldest first.
    pub fn take_expired(&mut self, _now_ms: u64, _max: usize) -> Vec<LeaseId> {
        todo!()
    }
    /// Ids by remaining time.
    pub fn list(&self) -> Vec<LeaseId> {
        todo!()
    }
}
