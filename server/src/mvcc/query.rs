//! What is asked, in etcd's words, parsed once.

use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;

use crate::types::{LeaseId, Revision};

/// A range of user keys as etcd spells it, parsed once. `range_end` empty: one key; `"\0"`: to the end; else exclusive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    One(Bytes),
    Between { from: Bytes, to: Bytes },
    From(Bytes),
}

/// A range as the store walks it.
pub(super) enum Span<'a> {
    /// An end at or below the start: etcd answers with nothing, not with an error.
    Empty,
    One(&'a [u8]),
    List {
        from: &'a [u8],
        to: Option<&'a [u8]>,
    },
}

impl KeyRange {
    #[must_use]
    pub fn parse(key: &Bytes, range_end: &Bytes) -> Self {
        match &range_end[..] {
            [] => Self::One(key.clone()),
            [0] => Self::From(key.clone()),
            _ => Self::Between { from: key.clone(), to: range_end.clone() },
        }
    }

    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Between { from, to } => &from[..] <= key && key < &to[..],
            Self::From(from) => &from[..] <= key,
        }
    }

    pub(super) fn span(&self) -> Span<'_> {
        match self {
            Self::One(key) => Span::One(key),
            Self::Between { from, to } if from >= to => Span::Empty,
            Self::Between { from, to } => Span::List { from, to: Some(to) },
            Self::From(from) => Span::List { from, to: None },
        }
    }

    /// What of a range lies at or above `from`, which is one of its keys.
    pub(super) fn at_or_above(&self, from: Bytes) -> Self {
        match self {
            Self::One(_) => Self::One(from),
            Self::Between { to, .. } => Self::Between { from, to: to.clone() },
            Self::From(_) => Self::From(from),
        }
    }
}

/// One version of a key, borrowed from the store: the visitor copies what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRef<'a> {
    pub key: &'a [u8],
    pub create: Revision,
    pub modified: Revision,
    pub version: i64,
    pub lease: LeaseId,
    pub value: &'a [u8],
}

/// One version of a key, owned.
pub type Version = KeyValue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortTarget {
    Key,
    Version,
    Create,
    Mod,
    Value,
}

/// An order other than ascending by key. What is equal in it stays ascending by key (etcd leaves that to chance in
/// answers of more than twelve keys).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    pub target: SortTarget,
    pub descending: bool,
    /// etcd's SortOrder NONE with a target other than KEY: sorts after the limit.
    pub after_limit: bool,
}

/// What to read. `limit` 0: no limit. Bounds of revisions are inclusive; 0: none.
#[derive(Clone, Debug)]
pub struct Query {
    pub range: KeyRange,
    /// 0 (or below, as in etcd): the current one.
    pub revision: Revision,
    pub limit: usize,
    /// None: ascending by key.
    pub sort: Option<Sort>,
    pub keys_only: bool,
    pub count_only: bool,
    pub min_mod: Revision,
    pub max_mod: Revision,
    pub min_create: Revision,
    pub max_create: Revision,
}

/// `count`: keys of the range at the revision, whatever limit and bounds left out. `more`: the limit left some out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub count: i64,
    pub more: bool,
}

impl Query {
    /// All keys of the range as they are now, in key order.
    #[must_use]
    pub fn all(range: KeyRange) -> Self {
        let none = Revision(0);
        Self {
            range,
            revision: none,
            limit: 0,
            sort: None,
            keys_only: false,
            count_only: false,
            min_mod: none,
            max_mod: none,
            min_create: none,
            max_create: none,
        }
    }

    /// Whether a bound of revisions is set.
    pub(super) fn is_filtered(&self) -> bool {
        [self.min_mod, self.max_mod, self.min_create, self.max_create].iter().any(|bound| bound.0 != 0)
    }

    /// Whether a version lies within the bounds.
    pub(super) fn admits(&self, create: Revision, modified: Revision) -> bool {
        let at_least = |bound: Revision, it: Revision| bound.0 == 0 || it >= bound;
        let at_most = |bound: Revision, it: Revision| bound.0 == 0 || it <= bound;
        at_least(self.min_mod, modified)
            && at_most(self.max_mod, modified)
            && at_least(self.min_create, create)
            && at_most(self.max_create, create)
    }

    /// Whether values are needed, be it only to sort by them.
    pub(super) fn reads_values(&self) -> bool {
        !self.keys_only || self.sorts_by_value()
    }

    /// Since 3.7 etcd answers keys-only queries from its index of keys, which knows no leases, unless it must sort by value.
    pub(super) fn shows_leases(&self) -> bool {
        self.reads_values()
    }

    fn sorts_by_value(&self) -> bool {
        self.sort.is_some_and(|sort| sort.target == SortTarget::Value)
    }
}
