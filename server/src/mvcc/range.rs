use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;

use super::Position;
use crate::{
    engine::Read,
    error::Error,
    types::{LeaseId, Revision},
};

/// A range of user keys as etcd spells it, parsed once. `range_end` empty: one key; `"\0"`: to the end; else exclusive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    One(Bytes),
    Between { from: Bytes, to: Bytes },
    From(Bytes),
}

impl KeyRange {
    pub fn parse(_key: &Bytes, _range_end: &Bytes) -> Self {
        todo!()
    }
    pub fn contains(&self, _key: &[u8]) -> bool {
        todo!()
    }
}

/// One version of a key, borrowed from the store: the visitor copies what it needs.
#[derive(Clone, Copy, Debug)]
pub struct VersionRef<'a> {
    pub key: &'a [u8],
    pub create: Revision,
    pub modified: Revision,
    pub version: i64,
    pub lease: LeaseId,
    pub value: &'a [u8],
}
pub type Version = KeyValue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortTarget {
    Key,
    Version,
    Create,
    Mod,
    Value,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    pub target: SortTarget,
    pub descending: bool,
    /// etcd's SortOrder NONE with a target other than KEY: sorts after the limit.
    pub after_limit: bool,
}

/// What to read. `limit` 0: no limit. Filters are inclusive; 0: none.
#[derive(Clone, Debug)]
pub struct Query {
    pub range: KeyRange,
    pub revision: Revision, /* 0: current */
    pub limit: usize,
    pub sort: Option<Sort>,
    pub keys_only: bool,
    pub count_only: bool,
    pub min_mod: Revision,
    pub max_mod: Revision,
    pub min_create: Revision,
    pub max_create: Revision,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub count: i64,
    pub more: bool,
}

/// Visits the versions that `query` asks for in the order that it asks for, and counts. etcd-v3.md 5.2 to the letter.
pub fn range(
    _read: &impl Read,
    _at: Position,
    _query: &Query,
    _visit: &mut dyn FnMut(VersionRef<'_>),
) -> Result<Summary, Error> {
    todo!()
}
/// Current version of one key.
pub fn get(_read: &impl Read, _key: &[u8]) -> Option<Version> {
    todo!()
}
