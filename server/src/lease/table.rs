//! id → granted TTL, and which keys hang on it. All of it in the engine, nothing in memory.
use crate::{
    engine::{Batch, Read},
    types::LeaseId,
};
use bytes::Bytes;

pub fn ttl_ms(_read: &impl Read, _id: LeaseId) -> Option<i64> {
    todo!()
}
pub fn grant(_batch: &mut Batch, _id: LeaseId, _ttl_ms: i64) {
    todo!()
}
pub fn remove(_batch: &mut Batch, _id: LeaseId) {
    todo!()
}
pub fn attach(_batch: &mut Batch, _id: LeaseId, _key: &[u8]) {
    todo!()
}
pub fn detach(_batch: &mut Batch, _id: LeaseId, _key: &[u8]) {
    todo!()
}
/// Keys on the lease, in order.
pub fn keys(_read: &impl Read, _id: LeaseId) -> Vec<Bytes> {
    todo!()
}
/// All leases: (id, granted TTL in ms), by id.
pub fn all(_read: &impl Read) -> Vec<(LeaseId, i64)> {
    todo!()
}
