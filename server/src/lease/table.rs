//! The replicated table: id to grant, and which keys hang on each lease. All of it in the engine, nothing in memory.
//!
//! Values, version 1: of a lease, as varints, the TTL in milliseconds and the log index of its grant; of an attached key
//! nothing.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};

use crate::{
    engine::{self, Batch, Family, Key, Read},
    types::{LeaseId, LogIndex},
};

/// First byte of every value of both families.
const VERSION: u8 = 1;
const ATTACHED: Bytes = Bytes::from_static(&[VERSION]);

/// A lease as it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub ttl_ms: i64,
    /// Where the grant stands in the log. It tells a lease from an earlier one of the same id.
    pub index: LogIndex,
}

/// None: there is no such lease.
#[must_use]
pub fn get(read: &impl Read, id: LeaseId) -> Option<Grant> {
    read.get(&Key::Lease(id)).map(|value| read_grant(id, &value))
}

pub fn grant(batch: &mut Batch, id: LeaseId, grant: Grant) {
    batch.put(&Key::Lease(id), encode(grant));
}

/// Forgets the lease itself. Its keys must have been detached before.
pub fn remove(batch: &mut Batch, id: LeaseId) {
    batch.delete(&Key::Lease(id));
}

pub fn attach(batch: &mut Batch, id: LeaseId, key: &[u8]) {
    batch.put(&Key::LeaseKey { lease: id, key }, ATTACHED);
}

pub fn detach(batch: &mut Batch, id: LeaseId, key: &[u8]) {
    batch.delete(&Key::LeaseKey { lease: id, key });
}

/// Keys on the lease, in order.
#[must_use]
pub fn keys(read: &impl Read, id: LeaseId) -> Vec<Bytes> {
    keys_from(read, id, &[], usize::MAX)
}

/// At most `max` keys on the lease, in order, from `first` on.
#[must_use]
pub fn keys_from(read: &impl Read, id: LeaseId, first: &[u8], max: usize) -> Vec<Bytes> {
    let from = Key::LeaseKey { lease: id, key: first }.encode();
    let next = id.0.checked_add(1).map(|next| Key::LeaseKey { lease: LeaseId(next), key: &[] }.encode());
    let mut cursor = read.scan(Family::LeaseKeys, &from, next.as_deref());
    let mut found = Vec::new();
    while found.len() < max && cursor.valid() {
        let Ok(Key::LeaseKey { key, .. }) = Key::decode(Family::LeaseKeys, cursor.key()) else {
            engine::fatal(
                "reading the table of lease keys",
                format!("a key below lease {:x} that is no lease key", id.0),
            )
        };
        found.push(Bytes::copy_from_slice(key));
        cursor.next();
    }
    found
}

/// All leases, by id.
#[must_use]
pub fn all(read: &impl Read) -> Vec<(LeaseId, Grant)> {
    let mut found = Vec::new();
    let mut cursor = read.scan(Family::Leases, &[], None);
    while cursor.valid() {
        let Ok(Key::Lease(id)) = Key::decode(Family::Leases, cursor.key()) else {
            engine::fatal("reading the table of leases", "a key that is no lease id")
        };
        found.push((id, read_grant(id, cursor.value())));
        cursor.next();
    }
    found
}

fn read_grant(id: LeaseId, value: &[u8]) -> Grant {
    decode(value).unwrap_or_else(|| {
        engine::fatal("reading the table of leases", format!("the value of lease {:x} cannot be read", id.0))
    })
}

pub(super) fn encode(grant: Grant) -> Bytes {
    let mut out = BytesMut::with_capacity(20);
    out.put_u8(VERSION);
    encode_varint(u64::try_from(grant.ttl_ms).expect("a granted TTL is positive"), &mut out);
    encode_varint(grant.index.0, &mut out);
    out.freeze()
}

pub(super) fn decode(value: &[u8]) -> Option<Grant> {
    let (VERSION, mut rest) = value.split_first().map(|(version, rest)| (*version, rest))? else { return None };
    let ttl_ms = i64::try_from(decode_varint(&mut rest).ok()?).ok()?;
    let index = LogIndex(decode_varint(&mut rest).ok()?);
    rest.is_empty().then_some(Grant { ttl_ms, index })
}
