//! Random transactions: nested, with every compare target, colliding and malformed ones among them.

use conclave_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
};
use rand::RngExt;

use super::script::Script;

/// etcd's default for `--max-txn-ops`.
const MAX_OPS: usize = 128;
/// How deep transactions nest here.
const DEPTH: usize = 3;

impl Script {
    pub(super) fn txn(&mut self) -> pb::TxnRequest {
        match self.rng.random_range(0..1000) {
            0..4 => self.wide_txn(),
            4..8 => self.full_txn(),
            _ => {
                let mut txn = self.txn_at(DEPTH);
                if deletes_to_the_end(&txn) {
                    ignore_nothing(&mut txn);
                }
                txn
            }
        }
    }

    fn txn_at(&mut self, depth: usize) -> pb::TxnRequest {
        let compares = [0, 1, 1, 1, 2, 3][self.rng.random_range(0..6)];
        let read_only = self.rng.random_bool(0.12);
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.branch(depth, read_only),
            failure: self.branch(depth, read_only),
        }
    }

    fn branch(&mut self, depth: usize, read_only: bool) -> Vec<pb::RequestOp> {
        let count = [0, 1, 1, 2, 2, 3, 4][self.rng.random_range(0..7)];
        (0..count).map(|_| pb::RequestOp { request: self.request(depth, read_only) }).collect()
    }

    fn request(&mut self, depth: usize, read_only: bool) -> Option<Request> {
        let draw = if read_only { 0 } else { self.rng.random_range(0..1000) };
        match draw {
            0..300 => Some(Request::RequestRange(self.range())),
            300..650 => Some(Request::RequestPut(self.put())),
            650..800 => Some(Request::RequestDeleteRange(self.delete_range())),
            800..990 if depth > 1 => Some(Request::RequestTxn(self.txn_at(depth - 1))),
            800..990 => Some(Request::RequestPut(self.put())),
            _ => None,
        }
    }

    /// Mostly compares with what may well hold, so that both branches are taken.
    fn compare(&mut self) -> pb::Compare {
        let key = self.keys.key_or_empty(&mut self.rng);
        let range_end =
            if self.rng.random_bool(0.15) { self.keys.range_end(&mut self.rng, &key) } else { bytes::Bytes::new() };
        // One in a hundred is outside of the enum: etcd takes every comparison of unknown kind for true.
        let result = if self.rng.random_bool(0.01) { 7 } else { self.rng.random_range(0..4) };
        let target = self.rng.random_range(0..5);
        let revision = self.rng.random_range(0..=self.revision);
        let version = self.rng.random_range(0..4);
        let mut target_union = Some(match CompareTarget::try_from(target).expect("drawn from the enum") {
            CompareTarget::Version => TargetUnion::Version(version),
            CompareTarget::Create => TargetUnion::CreateRevision(if version == 0 { 0 } else { revision }),
            CompareTarget::Mod => TargetUnion::ModRevision(if version == 0 { 0 } else { revision }),
            CompareTarget::Value => TargetUnion::Value(self.value()),
            CompareTarget::Lease => TargetUnion::Lease(if version < 2 { 0 } else { self.lease_id() }),
        });
        if self.rng.random_bool(0.02) {
            target_union = None;
        }
        debug_assert!(CompareResult::try_from(result).is_ok() || result == 7);
        pb::Compare { result, target, key, target_union, range_end }
    }

    /// One operation too many, at the top or one level down, where the budget is what the level above left.
    fn wide_txn(&mut self) -> pb::TxnRequest {
        let get = pb::RequestOp { request: Some(Request::RequestRange(self.range())) };
        if self.rng.random_bool(0.5) {
            return pb::TxnRequest { success: vec![get; MAX_OPS + 1], ..Default::default() };
        }
        let inner = pb::TxnRequest { failure: vec![get.clone(); MAX_OPS], ..Default::default() };
        let nested = pb::RequestOp { request: Some(Request::RequestTxn(inner)) };
        pb::TxnRequest { success: vec![get, nested], ..Default::default() }
    }

    /// As many operations as there may be, all in one revision.
    fn full_txn(&mut self) -> pb::TxnRequest {
        let put =
            |n: usize| pb::PutRequest { key: format!("k/{n:03}").into(), value: "full".into(), ..Default::default() };
        let ops = (0..MAX_OPS).map(|n| match n {
            0..120 => Request::RequestPut(put(n)),
            _ => Request::RequestRange(self.range()),
        });
        pb::TxnRequest { success: ops.map(|r| pb::RequestOp { request: Some(r) }).collect(), ..Default::default() }
    }
}

/// etcd's check for keys that are changed twice does not see a deletion of everything from a key on. What follows it may
/// so put a key that is gone, and a put that ignores the value or the lease of a key that is gone makes etcd 3.7.1 panic:
/// such transactions cannot be compared.
fn deletes_to_the_end(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestDeleteRange(delete)) => delete.range_end == b"\0"[..],
        Some(Request::RequestTxn(nested)) => deletes_to_the_end(nested),
        _ => false,
    })
}

fn ignore_nothing(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(Request::RequestTxn(nested)) => ignore_nothing(nested),
            _ => {}
        }
    }
}
