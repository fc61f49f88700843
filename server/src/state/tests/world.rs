//! A state over the engine in memory, driven entry by entry.

use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::conclave::raft::v1::{self as entry, command::Kind};

use super::super::{Applied, Committed, State, work::Limits};
use crate::{
    engine::{Engine, Family, Key, Read},
    lease,
    mvcc::{self, KeyRange, ReadView},
    types::{LeaseId, LogIndex, Term},
};

/// All families, so that two stores can be compared byte for byte.
pub(super) const FAMILIES: [Family; 11] = [
    Family::Cur,
    Family::Log,
    Family::Idx,
    Family::Gone,
    Family::Count,
    Family::Leases,
    Family::LeaseKeys,
    Family::Requests,
    Family::Auth,
    Family::Members,
    Family::Meta,
];

pub(super) type Dump = Vec<(Family, Vec<u8>, Vec<u8>)>;

/// Everything in the store, in order.
pub(super) fn dump(read: &impl Read) -> Dump {
    let mut all = Vec::new();
    for family in FAMILIES {
        let mut cursor = read.scan(family, &[], None);
        while cursor.valid() {
            all.push((family, cursor.key().to_vec(), cursor.value().to_vec()));
            cursor.next();
        }
    }
    all
}

pub(super) fn small() -> Limits {
    Limits { window_keys: 3, ..Limits::default() }
}

pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) state: State,
    pub(super) term: Term,
    pub(super) last: LogIndex,
}

impl World {
    pub(super) fn new(limits: Limits) -> Self {
        let engine = Engine::memory();
        let state = State::open_with(engine.clone(), limits);
        Self { engine, state, term: Term(1), last: LogIndex(0) }
    }

    pub(super) fn committed(&mut self, kind: Kind, idempotency_key: &str, proposed: Term) -> Committed {
        self.last = self.last.next();
        let header = entry::Header {
            required_level: 1,
            idempotency_key: Bytes::copy_from_slice(idempotency_key.as_bytes()),
            proposer_term: proposed.0,
            ..Default::default()
        };
        let entry = entry::Entry { header: Some(header), command: Some(entry::Command { kind: Some(kind) }) };
        Committed { index: self.last, term: self.term, entry: Some(entry) }
    }

    pub(super) fn apply(&mut self, kind: Kind) -> Applied {
        let committed = self.committed(kind, "", self.term);
        self.apply_committed(committed)
    }

    pub(super) fn apply_committed(&mut self, committed: Committed) -> Applied {
        let applied = self.state.apply(vec![committed]).expect("the entry may be applied");
        self.check_leases();
        applied.into_iter().next().expect("one entry has one outcome")
    }

    pub(super) fn view(&self) -> Arc<ReadView> {
        self.state.read_view()
    }

    /// A key hangs on the lease that its current version names, and on no other.
    pub(super) fn check_leases(&self) {
        check_leases(&self.view().view);
    }
}

pub(super) fn check_leases(read: &impl Read) {
    let mut by_version = Vec::new();
    let mut cursor = read.scan(Family::Cur, &[], None);
    while cursor.valid() {
        let version = mvcc::get(read, cursor.key()).expect("the cursor stands on it");
        if version.lease != 0 {
            by_version.push((version.lease, version.key));
        }
        cursor.next();
    }
    by_version.sort();
    let mut by_table = Vec::new();
    for (id, _) in lease::all(read) {
        by_table.extend(lease::keys(read, id).into_iter().map(|key| (id.0, key)));
    }
    by_table.sort();
    assert_eq!(by_table, by_version, "keys on leases");
    let mut rows = 0;
    let mut cursor = read.scan(Family::LeaseKeys, &[], None);
    while cursor.valid() {
        let Ok(Key::LeaseKey { lease, .. }) = Key::decode(Family::LeaseKeys, cursor.key()) else {
            panic!("a lease key")
        };
        assert_ne!(lease, LeaseId::NONE);
        rows += 1;
        cursor.next();
    }
    assert_eq!(rows, by_version.len(), "no key hangs on a lease that is not there");
}

pub(super) fn all_keys() -> KeyRange {
    KeyRange::From(Bytes::from_static(b"\0"))
}
