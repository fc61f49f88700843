//! Order among keys that a sort holds for equal.
//!
//! etcd sorts with an algorithm that is not stable, so keys of one version, value or revision come in any order, and a
//! limit that cuts through such a group keeps any of them. Both servers' replies are brought into one form: each run of
//! equals is put into key order, and of a group that a limit cut only the number is kept. The order between groups is
//! left as it came, and so compared.

use bytes::Bytes;
use conclave_proto::{
    etcdserverpb::{
        self as pb,
        range_request::{SortOrder, SortTarget},
        request_op::Request,
        response_op::Response,
    },
    mvccpb::KeyValue,
};

pub(super) fn settle_range(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    let target = request.sort_target();
    let unsorted = target == SortTarget::Key;
    if unsorted || response.kvs.is_empty() {
        return;
    }
    for group in response.kvs.chunk_by_mut(|a, b| sorts_as(target, a) == sorts_as(target, b)) {
        group.sort_by(|a, b| a.key.cmp(&b.key));
    }
    // Without an order the limit was applied before the sort, so nothing was cut by it.
    if response.more && request.sort_order() != SortOrder::None {
        let last = response.kvs.last().map(|kv| sorts_as(target, kv));
        for kv in response.kvs.iter_mut().rev().take_while(|kv| Some(sorts_as(target, kv)) == last) {
            *kv = KeyValue { key: Bytes::from_static(b"any of these"), ..KeyValue::default() };
        }
    }
}

pub(super) fn settle_txn(request: &pb::TxnRequest, response: &mut pb::TxnResponse) {
    let branch = if response.succeeded { &request.success } else { &request.failure };
    for (op, done) in branch.iter().zip(&mut response.responses) {
        match (&op.request, &mut done.response) {
            (Some(Request::RequestRange(r)), Some(Response::ResponseRange(done))) => settle_range(r, done),
            (Some(Request::RequestTxn(r)), Some(Response::ResponseTxn(done))) => settle_txn(r, done),
            _ => {}
        }
    }
}

/// What a sort compares.
fn sorts_as(target: SortTarget, kv: &KeyValue) -> (i64, Bytes) {
    match target {
        SortTarget::Key => (0, kv.key.clone()),
        SortTarget::Version => (kv.version, Bytes::new()),
        SortTarget::Create => (kv.create_revision, Bytes::new()),
        SortTarget::Mod => (kv.mod_revision, Bytes::new()),
        SortTarget::Value => (0, kv.value.clone()),
    }
}
