//! Checks that need no key space: which mistake is told first, and what counts as a key written twice.

use bytes::Bytes;
use conclave_proto::etcdserverpb::{self as pb, request_op::Request};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::{check_idempotency_key, check_put, check_range, check_range_stream, check_txn, guard::Spans, query};
use crate::error::Error;

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}
fn put(key: &'static str) -> pb::RequestOp {
    op(Request::RequestPut(pb::PutRequest { key: key.into(), ..Default::default() }))
}
fn delete(key: &'static str, range_end: &'static str) -> pb::RequestOp {
    let request = pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
    op(Request::RequestDeleteRange(request))
}
fn get(key: &'static str) -> pb::RequestOp {
    op(Request::RequestRange(pb::RangeRequest { key: key.into(), ..Default::default() }))
}
fn txn(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { compare: Vec::new(), success, failure }
}
fn nested(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
    op(Request::RequestTxn(txn(success, failure)))
}

#[test]
fn single_requests() {
    let put = |key: &'static str, value: &'static str, lease, ignore_value, ignore_lease| {
        let (key, value) = (key.into(), value.into());
        check_put(&pb::PutRequest { key, value, lease, ignore_value, ignore_lease, ..Default::default() })
    };
    assert_eq!(put("k", "v", 1, false, false), Ok(()));
    assert_eq!(put("k", "", 0, true, true), Ok(()));
    assert_eq!(put("k", "v", 1, true, true), Err(Error::ValueProvided));
    assert_eq!(put("k", "", 1, true, true), Err(Error::LeaseProvided));
    assert_eq!(put("", "v", 1, true, true), Err(Error::EmptyKey));
    assert_eq!(check_idempotency_key(&[0; 256]), Ok(()));
    assert_eq!(check_idempotency_key(&[0; 257]), Err(Error::IdempotencyKeyTooLong));
}

#[test]
fn options_of_a_range() {
    let range = |sort_order, sort_target, min_mod_revision| pb::RangeRequest {
        key: "k".into(),
        sort_order,
        sort_target,
        min_mod_revision,
        ..Default::default()
    };
    assert_eq!(check_range(&pb::RangeRequest { sort_order: 9, ..Default::default() }), Err(Error::EmptyKey));
    for (order, target, stream) in [
        (0, 0, Ok(())),
        (1, 0, Ok(())),
        (2, 0, Err(Error::StreamCustomSort)),
        // Order NONE passes with every target: etcd asks for the order first.
        (0, 4, Ok(())),
        (1, 4, Err(Error::StreamCustomSort)),
    ] {
        assert_eq!(check_range(&range(order, target, 0)), Ok(()));
        assert_eq!(check_range_stream(&range(order, target, 0)), stream, "{order} {target}");
    }
    assert_eq!(check_range_stream(&range(0, 0, -1)), Err(Error::StreamRevisionFilter));
    for (order, target) in [(3, 0), (-1, 0), (0, 5), (0, -1)] {
        assert_eq!(check_range(&range(order, target, 0)), Err(Error::InvalidSortOption));
        assert!(query(&range(order, target, 0)).is_err());
    }
}

/// Key, then number, then duplicates: over the whole tree before the next kind is looked for.
#[test]
fn order_of_mistakes_in_a_txn() {
    let many = |n| (0..n).map(|_| get("k")).collect::<Vec<_>>();
    assert_eq!(check_txn(&txn(many(128), many(128)), 128), Ok(()));
    assert_eq!(check_txn(&txn(many(129), vec![put("")]), 128), Err(Error::TooManyOps));
    assert_eq!(check_txn(&txn(vec![put("a"), put("a"), put("")], vec![]), 128), Err(Error::EmptyKey));
    assert_eq!(check_txn(&txn(vec![put("a"), put("a")], vec![op_none()]), 128), Err(Error::KeyNotFound));
    let compare = pb::TxnRequest { compare: vec![pb::Compare::default()], ..txn(vec![op_none()], vec![]) };
    assert_eq!(check_txn(&compare, 128), Err(Error::EmptyKey));
}

fn op_none() -> pb::RequestOp {
    pb::RequestOp { request: None }
}

#[test]
fn a_nested_txn_gets_what_is_left() {
    let inner = |n| nested((0..n).map(|_| get("k")).collect(), vec![]);
    assert_eq!(check_txn(&txn(vec![inner(2), get("k")], vec![]), 4), Ok(()));
    assert_eq!(check_txn(&txn(vec![inner(3), get("k")], vec![]), 4), Err(Error::TooManyOps));
    // The longest list counts, in whichever branch it stands.
    assert_eq!(check_txn(&txn(vec![inner(2)], vec![get("a"), get("b"), get("c")]), 4), Err(Error::TooManyOps));
    assert_eq!(check_txn(&txn(vec![nested(vec![inner(0)], vec![])], vec![]), 1), Err(Error::TooManyOps));
    assert_eq!(check_txn(&txn(vec![inner(0)], vec![]), 1), Ok(()));
}

/// Each line was tried on etcd 3.7.1.
#[test]
fn keys_written_twice() {
    let duplicate = Err(Error::DuplicateKey);
    for (name, success, expected) in [
        ("two puts", vec![put("a"), put("a")], duplicate),
        ("put then delete", vec![put("a"), delete("a", "")], duplicate),
        ("delete then put", vec![delete("a", ""), put("a")], duplicate),
        ("in a range", vec![delete("a", "c"), put("b")], duplicate),
        ("at its end", vec![delete("a", "c"), put("c")], Ok(())),
        ("two deletes", vec![delete("a", "c"), delete("b", "d")], Ok(())),
        ("empty range", vec![delete("c", "a"), put("b")], Ok(())),
        ("range to the end of all keys", vec![delete("a", "\0"), put("b")], Ok(())),
        ("branches of one nested", vec![nested(vec![put("a")], vec![put("a")])], Ok(())),
        ("put beside a branch", vec![nested(vec![], vec![put("a")]), put("a")], duplicate),
        ("two nested", vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])], duplicate),
        ("delete over nested", vec![nested(vec![put("b")], vec![]), delete("a", "c")], duplicate),
        ("nested delete", vec![nested(vec![], vec![delete("a", "c")]), put("b")], duplicate),
        (
            "nested delete, then put",
            vec![nested(vec![delete("a", "c")], vec![]), nested(vec![put("b")], vec![])],
            duplicate,
        ),
        (
            "nested put, then delete",
            vec![nested(vec![put("b")], vec![]), nested(vec![delete("a", "c")], vec![])],
            Ok(()),
        ),
        ("two levels down", vec![nested(vec![nested(vec![put("a")], vec![])], vec![]), put("a")], duplicate),
    ] {
        assert_eq!(check_txn(&txn(success.clone(), vec![]), 128), expected, "{name}");
        assert_eq!(check_txn(&txn(vec![], success), 128), expected, "{name}, in the other branch");
    }
    assert_eq!(check_txn(&txn(vec![put("a")], vec![put("a")]), 128), Ok(()));
}

#[test]
fn spans_agree_with_a_list() {
    for seed in 0..200 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut spans, mut list) = (Spans::default(), Vec::new());
        let key = |rng: &mut ChaCha8Rng| -> Bytes {
            (0..rng.random_range(1..3)).map(|_| rng.random_range(0..6u8)).collect::<Vec<_>>().into()
        };
        for _ in 0..30 {
            let from = key(&mut rng);
            let to = if rng.random_range(0..4) == 0 { Bytes::new() } else { key(&mut rng) };
            spans.insert_open_range(&from, &to);
            list.push((from, to));
            let probe = key(&mut rng);
            let covered = list.iter().any(|(from, to)| match &to[..] {
                b"" => probe == from,
                b"\0" => probe >= from,
                to => probe >= from && &probe[..] < to,
            });
            assert_eq!(spans.contains(&probe), covered, "seed {seed}: {probe:?} in {list:?}");
        }
    }
}
