//! Entries of the raft log stay readable for ever: one encoded entry of each command is kept in `golden/`.
//!
//! A file here is never changed. What these bytes mean is fixed by every disk that holds some.

use std::{fs, path::Path};

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{
        Caller, Command, Compact, Entry, Header, LeaseGrant, LeaseRevoke, MemberPublish, RequestId, command::Kind,
    },
    etcdserverpb::{self as pb, compare, request_op},
};
use prost::Message;

fn entry(kind: Kind) -> Entry {
    let header = Header {
        required_level: 1,
        request_id: Some(RequestId { member: 0x0102_0304_0506_0708, boot: 0x1112_1314_1516_1718, sequence: 300 }),
        idempotency_key: Bytes::from_static(b"once"),
        caller: Some(Caller { user: "alice".into(), auth_revision: 4 }),
        proposer_term: 7,
        wall_clock_ms: 1_790_000_000_123,
    };
    Entry { header: Some(header), command: Some(Command { kind: Some(kind) }) }
}

fn put() -> pb::PutRequest {
    pb::PutRequest {
        key: "key".into(),
        value: "value".into(),
        lease: 5,
        prev_kv: true,
        ignore_value: false,
        ignore_lease: false,
    }
}

fn delete_range() -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: "a".into(), range_end: Bytes::from_static(b"b\0\xff"), prev_kv: true }
}

fn txn() -> pb::TxnRequest {
    let op = |request| pb::RequestOp { request: Some(request) };
    let compare = pb::Compare {
        result: compare::CompareResult::NotEqual.into(),
        target: compare::CompareTarget::Value.into(),
        key: "key".into(),
        range_end: "kez".into(),
        target_union: Some(compare::TargetUnion::Value("other".into())),
    };
    let nested = pb::TxnRequest {
        success: vec![op(request_op::Request::RequestDeleteRange(delete_range()))],
        ..Default::default()
    };
    let range = pb::RangeRequest { key: "key".into(), limit: 10, serializable: true, ..Default::default() };
    pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(request_op::Request::RequestPut(put())), op(request_op::Request::RequestTxn(nested))],
        failure: vec![op(request_op::Request::RequestRange(range))],
    }
}

/// Each command by its name; a match without a wildcard, so that a new command cannot be forgotten.
fn name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Put(_) => "put",
        Kind::DeleteRange(_) => "delete_range",
        Kind::Txn(_) => "txn",
        Kind::Compact(_) => "compact",
        Kind::LeaseGrant(_) => "lease_grant",
        Kind::LeaseRevoke(_) => "lease_revoke",
        Kind::MemberPublish(_) => "member_publish",
    }
}

#[test]
fn golden_entries_mean_what_they_meant() {
    let kinds = [
        Kind::Put(put()),
        Kind::DeleteRange(delete_range()),
        Kind::Txn(txn()),
        Kind::Compact(Compact { revision: 1 << 40 }),
        Kind::LeaseGrant(LeaseGrant { id: i64::MAX, ttl_ms: 60_000 }),
        Kind::LeaseRevoke(LeaseRevoke { id: 1, expired: true, granted_index: 300 }),
        Kind::MemberPublish(MemberPublish {
            id: u64::MAX,
            name: "default".into(),
            client_urls: vec!["http://127.0.0.1:2379".into(), "http://[::1]:2379".into()],
        }),
    ];
    for kind in kinds {
        let name = name(&kind);
        let expected = entry(kind);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.hex"));
        let kept = fs::read_to_string(&path);
        let kept = kept.unwrap_or_else(|_| panic!("{} is missing; today it is\n{}", path.display(), hex(&expected)));
        let bytes = unhex(&kept);
        assert_eq!(Entry::decode(&bytes[..]).expect(name), expected, "{name} decodes to something else");
        assert_eq!(expected.encode_to_vec(), bytes, "{name} encodes to something else");
    }
}

/// Bytes as lines of 32, so that a change shows where it is.
fn hex(entry: &Entry) -> String {
    let line = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
    entry.encode_to_vec().chunks(32).map(line).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.split_whitespace().collect::<String>();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits")).collect()
}
