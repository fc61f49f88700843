//! The disk format of keys.

use crate::types::{LeaseId, MemberId, Revision, Sub};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Cur,
    Log,
    Idx,
    Gone,
    Count,
    Leases,
    LeaseKeys,
    Requests,
    Auth,
    Members,
    Meta,
}

/// Every key there is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// Current version of a user key (raw bytes: the whole encoded key is the user key).
    Cur(&'a [u8]),
    /// One change.
    Log {
        revision: Revision,
        sub: Sub,
    },
    /// `key` (escaped so that order is kept) was superseded by the change at (revision, sub).
    Idx {
        key: &'a [u8],
        revision: Revision,
        sub: Sub,
    },
    /// A deleted user key (raw).
    Gone(&'a [u8]),
    /// First key of a piece of the count index (raw; empty for the first piece).
    Count(&'a [u8]),
    Lease(LeaseId),
    LeaseKey {
        lease: LeaseId,
        key: &'a [u8],
    },
    /// Outcome remembered under a client's idempotency key.
    Request(&'a [u8]),
    /// Age order of the remembered outcomes.
    RequestAge(u64),
    Member(MemberId),
    Meta(MetaKey),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetaKey {
    /// Applied index and term, ConfState, revision, compacted revision: one value, so that they never disagree.
    Applied,
    /// Where an entry that is written in pieces goes on.
    Resume,
    /// Cluster version.
    ClusterVersion,
}

impl<'a> Key<'a> {
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
    pub fn decode(_f: Family, _k: &'a [u8]) -> Result<Self, ()> {
        todo!()
    }
}
