//! The one order that etcd leaves to chance: keys that are equal in what a range is sorted by.
//!
//! etcd 3.7.1 sorts by Go's `sort.Sort`, which keeps the order of equal elements up to twelve of them and shuffles them
//! beyond. Conclave keeps them ordered by key. Here both are brought into the order of keys; and where a limit cuts
//! through equal keys, which of them are left is forgotten, but not how many they are and what they are sorted by.

use conclave_proto::{
    etcdserverpb::{
        self as pb,
        range_request::{SortOrder, SortTarget},
        request_op::Request,
        response_op::Response,
    },
    mvccpb::KeyValue,
};

use super::{call::Reply, script::Op};

/// Up to so many elements Go sorts by insertion, which is stable (`sort.Sort`, Go 1.19 and later).
const STABLE: i64 = 12;

/// The reply with equal keys in the order of keys.
pub(super) fn ordered(op: &Op, reply: &Reply) -> Reply {
    let mut reply = reply.clone();
    match (op, &mut reply) {
        (Op::Range(asked), Reply::Range(found)) => order(asked, found),
        (Op::Txn(asked), Reply::Txn(done)) => order_txn(asked, done),
        _ => {}
    }
    reply
}

fn order_txn(asked: &pb::TxnRequest, done: &mut pb::TxnResponse) {
    let branch = if done.succeeded { &asked.success } else { &asked.failure };
    for (asked, done) in branch.iter().zip(&mut done.responses) {
        match (&asked.request, &mut done.response) {
            (Some(Request::RequestRange(asked)), Some(Response::ResponseRange(found))) => order(asked, found),
            (Some(Request::RequestTxn(asked)), Some(Response::ResponseTxn(done))) => order_txn(asked, done),
            _ => {}
        }
    }
}

fn order(asked: &pb::RangeRequest, found: &mut pb::RangeResponse) {
    let target = asked.sort_target();
    // Filters are not part of the count, so it is at least what was sorted. Keys are never equal.
    if target == SortTarget::Key || found.count <= STABLE {
        return;
    }
    let equal = |a: &KeyValue, b: &KeyValue| match target {
        SortTarget::Key => false,
        SortTarget::Version => a.version == b.version,
        SortTarget::Create => a.create_revision == b.create_revision,
        SortTarget::Mod => a.mod_revision == b.mod_revision,
        // Without values in the reply nothing tells which were equal.
        SortTarget::Value => asked.keys_only || a.value == b.value,
    };
    // Without an order and without a bound on revisions, the limit is applied to keys in their own order, before they are
    // sorted.
    let bounds = [asked.min_mod_revision, asked.max_mod_revision, asked.min_create_revision, asked.max_create_revision];
    let cut = found.more && (asked.sort_order() != SortOrder::None || bounds != [0; 4]);
    let mut runs = found.kvs.chunk_by_mut(equal).peekable();
    while let Some(run) = runs.next() {
        run.sort_by(|a, b| a.key.cmp(&b.key));
        if cut && runs.peek().is_none() {
            run.iter_mut().for_each(|kv| forget(kv, target));
        }
    }
}

/// Leaves what the keys were sorted by.
fn forget(kv: &mut KeyValue, target: SortTarget) {
    let KeyValue { create_revision, mod_revision, version, value, .. } = std::mem::take(kv);
    match target {
        SortTarget::Key => {}
        SortTarget::Version => kv.version = version,
        SortTarget::Create => kv.create_revision = create_revision,
        SortTarget::Mod => kv.mod_revision = mod_revision,
        SortTarget::Value => kv.value = value,
    }
}
