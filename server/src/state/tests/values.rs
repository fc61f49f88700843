//! The bytes on disk. These vectors are the format: they are added to, never changed.

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{Command, command::Kind},
    etcdserverpb::PutRequest,
};

use super::super::{
    meta::{Mark, Outcome, Settled},
    requests::{Remembered, Told, Window, checksum, lookup},
};
use crate::{
    engine::{Batch, Engine, Family, Read},
    error::Error,
    mvcc::Position,
    types::{LogIndex, Revision, Sub, Term},
};

fn settled() -> Settled {
    Settled {
        applied: LogIndex(300),
        term: Term(2),
        position: Position { revision: Revision(7), compacted: Revision(4) },
        window: Window { oldest: 1, next: 3 },
        conf_state: Bytes::from_static(b"conf"),
    }
}

#[test]
fn applied_index_and_all_that_goes_with_it() {
    let bytes = settled().encode();
    assert_eq!(&bytes[..], b"\x01\xac\x02\x02\x07\x05\x01\x03conf");
    assert_eq!(Settled::decode(&bytes), Some(settled()));
    let fresh = Settled::fresh();
    assert_eq!(&fresh.encode()[..], b"\x01\x00\x00\x01\x00\x00\x00");
    assert_eq!(Settled::decode(&fresh.encode()), Some(fresh));
    for rot in [b"".as_slice(), b"\x02\x00\x00\x01\x00\x00\x00", b"\x01\xac\x02\x02", b"\x01\x00\x00\x01\x00\x05\x03"] {
        assert_eq!(Settled::decode(&Bytes::copy_from_slice(rot)), None, "{rot:?}");
    }
}

fn outcome() -> Outcome {
    Outcome { path: vec![true, false], deleted: vec![0, 200] }
}

#[test]
fn resume_mark() {
    let mark = Mark { index: LogIndex(301), revision: Revision(8), sub: Sub(5), op: 3, outcome: outcome() };
    let bytes = mark.encode();
    assert_eq!(&bytes[..], b"\x01\xad\x02\x08\x05\x03\x02\x01\x00\x02\x00\xc8\x01");
    assert_eq!(Mark::decode(&bytes), Some(mark));
    for cut in 0..bytes.len() {
        assert_eq!(Mark::decode(&bytes.slice(..cut)), None);
    }
    assert_eq!(
        Mark::decode(&Bytes::from_static(b"\x01\x01\x02\x00\x00\x01\x02\x00")),
        None,
        "a branch is taken or not"
    );
    assert_eq!(
        Mark::decode(&Bytes::from_static(b"\x01\x01\x02\x00\x00\xff\xff\xff\xff\x0f\x00")),
        None,
        "no memory for rot"
    );
}

fn remembered(result: Result<Told, Error>) -> Remembered {
    Remembered { index: LogIndex(9), revision: Revision(3), checksum: 0x80, result }
}

#[test]
fn remembered_request() {
    for (result, golden) in [
        (Ok(Told::Whole(outcome())), b"\x01\x09\x03\x80\x01\x00\x02\x01\x00\x02\x00\xc8\x01".as_slice()),
        (Ok(Told::Long(true)), b"\x01\x09\x03\x80\x01\x02\x01"),
        (Err(Error::KeyNotFound), b"\x01\x09\x03\x80\x01\x01etcdserver: key not found"),
    ] {
        let bytes = remembered(result.clone()).encode();
        assert_eq!(&bytes[..], golden);
        assert_eq!(Remembered::decode(&bytes), Some(remembered(result)));
    }
    assert_eq!(Remembered::decode(&Bytes::from_static(b"\x01\x09\x03\x80\x01\x01no such error")), None);
}

/// What would take more than a few kilobytes is remembered by its first branch.
#[test]
fn a_long_outcome_is_cut_short() {
    let long = Outcome { path: vec![true; 5_000], deleted: Vec::new() };
    let bytes = remembered(Ok(Told::Whole(long))).encode();
    assert!(bytes.len() < 16);
    assert_eq!(Remembered::decode(&bytes), Some(remembered(Ok(Told::Long(true)))));
}

/// Every error that can be remembered must be told again by its text.
#[test]
fn texts_of_errors_are_their_names_on_disk() {
    for error in Error::ALL {
        let bytes = remembered(Err(*error)).encode();
        assert_eq!(Remembered::decode(&bytes), Some(remembered(Err(*error))));
    }
}

/// Kept beside remembered outcomes, so it may not change with a version of this program.
#[test]
fn checksum_of_a_request() {
    let put = |value: &'static str| {
        let request = PutRequest { key: "k".into(), value: value.into(), ..Default::default() };
        checksum(&Command { kind: Some(Kind::Put(request)) })
    };
    assert_eq!(put("v"), 967_156_361);
    assert_ne!(put("v"), put("w"));
}

/// The window holds as many keys as it may and no byte more, each under one age.
#[test]
fn what_leaves_the_window_leaves_the_store() {
    let engine = Engine::memory();
    let mut batch = Batch::new(engine.view());
    let mut window = Window::default();
    for i in 0..40u64 {
        let key = format!("key {i}");
        window.remember(&mut batch, key.as_bytes(), &remembered(Ok(Told::Whole(outcome()))), 5);
        let mut rows = 0;
        let mut cursor = batch.scan(Family::Requests, &[], None);
        while cursor.valid() {
            rows += 1;
            cursor.next();
        }
        assert_eq!(rows, 2 * (i + 1).min(5));
        let oldest = (i + 1).saturating_sub(5);
        assert!(lookup(&batch, format!("key {oldest}").as_bytes()).is_some());
        assert!(oldest == 0 || lookup(&batch, format!("key {}", oldest - 1).as_bytes()).is_none());
    }
}
