//! What simulated clients ask for. Few keys, so that they collide; values that occur once, so that each effect can be
//! told from every other.

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{Compact, LeaseGrant, LeaseRevoke, command::Kind},
    etcdserverpb as pb,
};
use conclave_server::types::{LeaseId, Revision};
use rand::{Rng, RngExt};

const KEYS: u32 = 12;
const LEASES: usize = 4;
/// Shorter than a run, so that leases expire in it.
const TTL_MS: i64 = 2_000;

pub(super) fn key(rng: &mut impl Rng) -> Bytes {
    Bytes::from(format!("k{:02}", rng.random_range(0..KEYS)))
}

/// An end behind `key` in one case of two.
pub(super) fn range_end(rng: &mut impl Rng) -> Bytes {
    if rng.random() { Bytes::new() } else { key(rng) }
}

/// The ids of leases that clients know.
#[derive(Debug)]
pub(super) struct Leases {
    known: [i64; LEASES],
    /// Ids are granted again when their lease is gone: an expiry on its way must not hit the new one.
    reuse: bool,
}

impl Leases {
    pub(super) fn new(reuse: bool) -> Self {
        Self { known: [0; LEASES], reuse }
    }

    pub(super) fn any(&self, rng: &mut impl Rng) -> LeaseId {
        LeaseId(self.known[rng.random_range(0..LEASES)].max(1))
    }

    fn next_id(&mut self, rng: &mut impl Rng, unique: u64) -> i64 {
        let place = rng.random_range(0..LEASES);
        self.known[place] = if self.reuse { place as i64 + 1 } else { i64::try_from(unique).expect("a small number") };
        self.known[place]
    }
}

fn put(rng: &mut impl Rng, leases: &Leases, unique: u64) -> pb::PutRequest {
    let size = if rng.random_bool(0.05) { 6_000 } else { rng.random_range(0..300) };
    let mut value = unique.to_string().into_bytes();
    value.resize(value.len() + size, b'.');
    let lease = if rng.random_bool(0.2) { leases.any(rng).0 } else { 0 };
    pb::PutRequest { key: key(rng), value: value.into(), lease, prev_kv: rng.random(), ..Default::default() }
}

fn delete(rng: &mut impl Rng) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key(rng), range_end: range_end(rng), prev_kv: rng.random() }
}

/// A valid transaction: at most one write of any key in a branch.
fn txn(rng: &mut impl Rng, leases: &Leases, unique: u64) -> pb::TxnRequest {
    let op = |request| pb::RequestOp { request: Some(request) };
    let compare = pb::Compare {
        result: pb::compare::CompareResult::Greater.into(),
        target: pb::compare::CompareTarget::Version.into(),
        key: key(rng),
        target_union: Some(pb::compare::TargetUnion::Version(rng.random_range(0..3))),
        ..Default::default()
    };
    let read = pb::RangeRequest { key: key(rng), range_end: range_end(rng), ..Default::default() };
    let first = put(rng, leases, unique);
    let mut success = vec![op(pb::request_op::Request::RequestPut(first.clone()))];
    let second = put(rng, leases, unique);
    if second.key != first.key {
        success.push(op(pb::request_op::Request::RequestPut(second)));
    }
    success.push(op(pb::request_op::Request::RequestRange(read)));
    let failure = vec![op(pb::request_op::Request::RequestDeleteRange(delete(rng)))];
    pb::TxnRequest { compare: vec![compare], success, failure }
}

/// `unique` goes into the values that are written; `revision` is what the client last saw.
pub(super) fn random(rng: &mut impl Rng, leases: &mut Leases, unique: u64, revision: Revision) -> Kind {
    match rng.random_range(0..100) {
        0..60 => Kind::Put(put(rng, leases, unique)),
        60..72 => Kind::DeleteRange(delete(rng)),
        72..84 => Kind::Txn(txn(rng, leases, unique)),
        84..88 => Kind::Compact(Compact { revision: (revision.0 - rng.random_range(0..20)).max(1) }),
        88..95 => Kind::LeaseGrant(LeaseGrant { id: leases.next_id(rng, unique), ttl_ms: TTL_MS }),
        _ => Kind::LeaseRevoke(LeaseRevoke { id: leases.any(rng).0, ..LeaseRevoke::default() }),
    }
}
