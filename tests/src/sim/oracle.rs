//! What must be so, whatever crashed: a second state machine that never crashes and is given each entry once.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;
use conclave_server::{
    engine::{Engine, Read},
    error::Error,
    members::Member,
    mvcc::{self, Change, KeyRange, Position, Query},
    node,
    node::log::LogEntry,
    state::{Applied, Events, State},
    types::{LogIndex, Revision, Term},
};

pub(super) struct Oracle {
    state: State,
    /// Everything that was ever applied, from index 1 on.
    log: Vec<(Term, Bytes, Applied)>,
    changes: BTreeMap<Revision, Vec<Change>>,
}

impl Oracle {
    pub(super) fn new(members: &[Member], conf_state: Vec<u8>) -> Self {
        let mut state = State::open(Engine::memory());
        state.bootstrap(members, conf_state);
        Self { state, log: Vec::new(), changes: BTreeMap::new() }
    }

    /// The last index that any life of the member has applied.
    pub(super) fn applied(&self) -> LogIndex {
        LogIndex(self.log.len() as u64)
    }

    pub(super) fn position(&self) -> Position {
        self.state.read_view().position
    }

    /// Holds what the member did with an entry against what a member does that never crashed.
    ///
    /// # Panics
    /// If they differ, or if the entry is not the one that was applied at this index before.
    pub(super) fn applied_by_member(&mut self, entry: &LogEntry, applied: &Applied) {
        let at = usize::try_from(entry.index.0).expect("a simulated log is short") - 1;
        assert!(at <= self.log.len(), "the member applied {} after {}", entry.index, self.log.len());
        if at == self.log.len() {
            let mut done = self.state.apply(vec![node::decode(entry.clone())]).expect("the member applied it too");
            let own = done.pop().expect("one entry, one outcome");
            if let Events::Changes(changes) = &own.effects.events {
                self.changes.insert(own.revision, changes.to_vec());
            }
            self.log.push((entry.term, entry.data.clone(), own));
        }
        let (term, data, own) = &self.log[at];
        assert_eq!(
            (term, data),
            (&entry.term, &entry.data),
            "entry {} is another one than before the crash",
            entry.index
        );
        assert_eq!(format!("{own:?}"), format!("{applied:?}"), "the outcome of entry {} differs", entry.index);
    }

    /// The range as it was at `revision`, compacted or not.
    pub(super) fn read(&self, range: KeyRange, revision: Revision) -> Vec<KeyValue> {
        let view = self.state.read_view();
        let everything = Position { compacted: Revision::NEVER, ..view.position };
        collect(&view.view, everything, range, revision).expect("the oracle forgets nothing")
    }

    /// Changes of the range from `from` on, as a watcher with prev_kv must be told of them.
    pub(super) fn changes(&self, range: &KeyRange, from: Revision) -> impl Iterator<Item = (Revision, Vec<&Change>)> {
        self.changes.range(from..).filter_map(move |(revision, changes)| {
            let of_range: Vec<_> = changes.iter().filter(|change| range.contains(&change.kv.key)).collect();
            (!of_range.is_empty()).then_some((*revision, of_range))
        })
    }

    /// How often a put wrote this value.
    pub(super) fn times_written(&self, value: &[u8]) -> usize {
        self.changes.values().flatten().filter(|change| change.kv.value.starts_with(value)).count()
    }

    /// Compares all that both hold.
    ///
    /// # Panics
    /// If they differ.
    pub(super) fn must_equal(&self, member: &State) {
        let (own, theirs) = (self.state.read_view(), member.read_view());
        assert_eq!(own.position, theirs.position);
        assert_eq!(self.state.applied(), member.applied());
        let hash = |view: &mvcc::ReadView| {
            mvcc::hash_kv(&view.view, view.position, Revision(0)).expect("the current revision")
        };
        assert_eq!(hash(&own), hash(&theirs), "hash_kv differs");
        let leases = |view: &mvcc::ReadView| conclave_server::lease::all(&view.view);
        assert_eq!(leases(&own), leases(&theirs));
        let first = own.position.compacted.max(Revision::FIRST);
        for revision in first.0..=own.position.revision.0 {
            let all = || KeyRange::From(Bytes::from_static(b"\0"));
            let found = collect(&theirs.view, theirs.position, all(), Revision(revision));
            assert_eq!(found, Ok(self.read(all(), Revision(revision))), "the key space at revision {revision}");
        }
    }
}

pub(super) fn collect(
    read: &impl Read,
    at: Position,
    range: KeyRange,
    revision: Revision,
) -> Result<Vec<KeyValue>, Error> {
    let mut kvs = Vec::new();
    let query = Query { revision, ..Query::all(range) };
    mvcc::range(read, at, &query, &mut |version| {
        kvs.push(KeyValue {
            key: Bytes::copy_from_slice(version.key),
            value: Bytes::copy_from_slice(version.value),
            create_revision: version.create.0,
            mod_revision: version.modified.0,
            version: version.version,
            lease: version.lease.0,
        });
    })?;
    Ok(kvs)
}
