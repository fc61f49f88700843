//! Whether the compares of a txn hold, and with that which branches it takes.

use std::cmp::Ordering;

use conclave_proto::etcdserverpb::{
    self as pb, Compare,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
};

use crate::{
    engine::Read,
    mvcc::{self, KeyRange, Position, Query, VersionRef},
    types::{LeaseId, Revision},
};

/// Evaluates the compares of the txn, and of those nested in the branch it takes, all on the state before it. One answer
/// for each txn that is entered, in the order in which they are.
pub(super) fn path(read: &impl Read, at: Position, txn: &pb::TxnRequest) -> Vec<bool> {
    let mut path = Vec::with_capacity(1);
    follow(read, at, txn, &mut path);
    path
}

fn follow(read: &impl Read, at: Position, txn: &pb::TxnRequest, path: &mut Vec<bool>) {
    let held = txn.compare.iter().all(|compare| holds(read, at, compare));
    path.push(held);
    for op in branch(txn, held) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            follow(read, at, nested, path);
        }
    }
}

pub(super) fn branch(txn: &pb::TxnRequest, held: bool) -> &[pb::RequestOp] {
    if held { &txn.success } else { &txn.failure }
}

/// Every key of the range must satisfy the compare. No key at all is like one that was never written, except that its
/// value compares to nothing.
fn holds(read: &impl Read, at: Position, compare: &Compare) -> bool {
    let range = KeyRange::parse(&compare.key, &compare.range_end);
    let by_value = compare.target == CompareTarget::Value as i32;
    let query = Query {
        range,
        revision: Revision(0),
        limit: 0,
        sort: None,
        // A lease is not among what is answered for keys only.
        keys_only: !by_value && compare.target != CompareTarget::Lease as i32,
        count_only: false,
        min_mod: Revision(0),
        max_mod: Revision(0),
        min_create: Revision(0),
        max_create: Revision(0),
    };
    let (mut any, mut all) = (false, true);
    mvcc::range(read, at, &query, &mut |version| {
        any = true;
        all = all && satisfies(compare, &version);
    })
    .expect("the current revision is neither compacted nor to come");
    if any { all } else { !by_value && satisfies(compare, &NOTHING) }
}

const NOTHING: VersionRef<'static> =
    VersionRef { key: &[], create: Revision(0), modified: Revision(0), version: 0, lease: LeaseId(0), value: &[] };

/// A target without its operand compares with zero or with no bytes, an unknown target is equal to everything, and an
/// unknown result always holds: etcd's answers to requests that no client library makes.
fn satisfies(compare: &Compare, version: &VersionRef<'_>) -> bool {
    let operand = compare.target_union.as_ref();
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => version.version.cmp(&number(operand, |union| match union {
            TargetUnion::Version(version) => Some(*version),
            _ => None,
        })),
        Ok(CompareTarget::Create) => version.create.0.cmp(&number(operand, |union| match union {
            TargetUnion::CreateRevision(revision) => Some(*revision),
            _ => None,
        })),
        Ok(CompareTarget::Mod) => version.modified.0.cmp(&number(operand, |union| match union {
            TargetUnion::ModRevision(revision) => Some(*revision),
            _ => None,
        })),
        Ok(CompareTarget::Lease) => version.lease.0.cmp(&number(operand, |union| match union {
            TargetUnion::Lease(lease) => Some(*lease),
            _ => None,
        })),
        Ok(CompareTarget::Value) => version.value.cmp(match operand {
            Some(TargetUnion::Value(value)) => value.as_ref(),
            _ => &[],
        }),
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

fn number(operand: Option<&TargetUnion>, pick: impl Fn(&TargetUnion) -> Option<i64>) -> i64 {
    operand.and_then(pick).unwrap_or(0)
}
