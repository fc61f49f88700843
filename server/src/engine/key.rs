//! The disk format of keys: every key there is, and how its bytes order.
//!
//! A variant's bytes order as its fields do, whatever the user's bytes are. `docs/disk-format.md` is the same list in
//! prose, and golden vectors in the tests keep it readable for ever.

use std::borrow::Cow;

use crate::types::{LeaseId, MemberId, Revision, Sub};

/// One ordered key space inside the store.
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

impl Family {
    /// All families, in the order in which `as usize` numbers them.
    pub const ALL: [Self; 11] = [
        Self::Cur,
        Self::Log,
        Self::Idx,
        Self::Gone,
        Self::Count,
        Self::Leases,
        Self::LeaseKeys,
        Self::Requests,
        Self::Auth,
        Self::Members,
        Self::Meta,
    ];

    /// The name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cur => "cur",
            Self::Log => "log",
            Self::Idx => "idx",
            Self::Gone => "gone",
            Self::Count => "count",
            Self::Leases => "leases",
            Self::LeaseKeys => "lease_keys",
            Self::Requests => "requests",
            Self::Auth => "auth",
            Self::Members => "members",
            Self::Meta => "meta",
        }
    }
}

/// Every key there is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// Current version of a user key (the encoded key is the user key).
    Cur(&'a [u8]),
    /// One change.
    Log {
        revision: Revision,
        sub: Sub,
    },
    /// `key` was superseded by the change at (revision, sub).
    Idx {
        key: Cow<'a, [u8]>,
        revision: Revision,
        sub: Sub,
    },
    /// A deleted user key.
    Gone(&'a [u8]),
    /// Where a piece of the count index ends (`mvcc` says how).
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

/// The keys of [`Family::Meta`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetaKey {
    /// Applied index and term, ConfState, revision, compacted revision: one value, so that they never disagree.
    Applied,
    /// Where an entry that is written in pieces goes on.
    Resume,
    /// Cluster version.
    ClusterVersion,
    /// The store is being filled from an archive and holds a part of it.
    Installing,
}

impl MetaKey {
    const ALL: [Self; 4] = [Self::Applied, Self::Resume, Self::ClusterVersion, Self::Installing];

    fn name(self) -> &'static [u8] {
        match self {
            Self::Applied => b"applied",
            Self::Resume => b"resume",
            Self::ClusterVersion => b"cluster_version",
            Self::Installing => b"installing",
        }
    }
}

/// Bytes that are no key of their family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key of {} bytes in family {} is not in the disk format", .length, .family.name())]
pub struct Malformed {
    pub family: Family,
    pub length: usize,
}

// The two kinds of records in `requests`, kept apart by their first byte.
const REQUEST: u8 = b'k';
const REQUEST_AGE: u8 = b'a';

impl<'a> Key<'a> {
    /// The family the key belongs to.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Self::Cur(_) => Family::Cur,
            Self::Log { .. } => Family::Log,
            Self::Idx { .. } => Family::Idx,
            Self::Gone(_) => Family::Gone,
            Self::Count(_) => Family::Count,
            Self::Lease(_) => Family::Leases,
            Self::LeaseKey { .. } => Family::LeaseKeys,
            Self::Request(_) | Self::RequestAge(_) => Family::Requests,
            Self::Member(_) => Family::Members,
            Self::Meta(_) => Family::Meta,
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.bytes().into_owned()
    }

    /// The same, borrowed where they are the user's own.
    pub(super) fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Cur(key) | Self::Gone(key) | Self::Count(key) => Cow::Borrowed(key),
            Self::Log { revision, sub } => Cow::Owned(place(*revision, *sub).to_vec()),
            Self::Idx { key, revision, sub } => {
                let mut bytes = Self::idx_prefix(key);
                bytes.extend_from_slice(&place(*revision, *sub));
                Cow::Owned(bytes)
            }
            Self::Lease(id) => Cow::Owned(lease_bytes(*id).to_vec()),
            Self::LeaseKey { lease, key } => Cow::Owned([&lease_bytes(*lease)[..], key].concat()),
            Self::Request(key) => Cow::Owned([&[REQUEST][..], key].concat()),
            Self::RequestAge(age) => Cow::Owned([&[REQUEST_AGE][..], &age.to_be_bytes()].concat()),
            Self::Member(id) => Cow::Owned(id.0.to_be_bytes().to_vec()),
            Self::Meta(key) => Cow::Borrowed(key.name()),
        }
    }

    /// What all `Idx` keys of one user key begin with, and no other's do: the user key with each zero byte written as
    /// `00 ff`, closed by `00 01`. The close sorts below any continuation, so shorter keys come first.
    #[must_use]
    pub fn idx_prefix(key: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(key.len() + 16);
        for &byte in key {
            bytes.push(byte);
            if byte == 0 {
                bytes.push(0xff);
            }
        }
        bytes.extend_from_slice(&[0, 1]);
        bytes
    }

    /// Reads a key back.
    ///
    /// # Errors
    /// If the bytes are none of the family's.
    pub fn decode(family: Family, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = Malformed { family, length: bytes.len() };
        let key = match family {
            Family::Cur => Some(Self::Cur(bytes)),
            Family::Gone => Some(Self::Gone(bytes)),
            Family::Count => Some(Self::Count(bytes)),
            Family::Log => split_place(bytes)
                .filter(|(rest, ..)| rest.is_empty())
                .map(|(_, revision, sub)| Self::Log { revision, sub }),
            Family::Idx => split_place(bytes).and_then(|(rest, revision, sub)| {
                unescape(rest).map(|key| Self::Idx { key: Cow::Owned(key), revision, sub })
            }),
            Family::Leases => bytes.try_into().ok().map(|id| Self::Lease(lease_id(id))),
            Family::LeaseKeys => {
                bytes.split_first_chunk().map(|(lease, key)| Self::LeaseKey { lease: lease_id(*lease), key })
            }
            Family::Requests => match bytes.split_first() {
                Some((&REQUEST, key)) => Some(Self::Request(key)),
                Some((&REQUEST_AGE, age)) => age.try_into().ok().map(|age| Self::RequestAge(u64::from_be_bytes(age))),
                _ => None,
            },
            Family::Auth => None,
            Family::Members => bytes.try_into().ok().map(|id| Self::Member(MemberId(u64::from_be_bytes(id)))),
            Family::Meta => MetaKey::ALL.into_iter().find(|key| key.name() == bytes).map(Self::Meta),
        };
        key.ok_or(malformed)
    }
}

/// (revision, sub) in twelve bytes that order as they do; revisions on disk are never negative.
fn place(revision: Revision, sub: Sub) -> [u8; 12] {
    let mut bytes = [0; 12];
    let revision = u64::try_from(revision.0).expect("a change has a positive revision");
    bytes[..8].copy_from_slice(&revision.to_be_bytes());
    bytes[8..].copy_from_slice(&sub.0.to_be_bytes());
    bytes
}

fn split_place(bytes: &[u8]) -> Option<(&[u8], Revision, Sub)> {
    let (rest, sub) = bytes.split_last_chunk::<4>()?;
    let (rest, revision) = rest.split_last_chunk::<8>()?;
    let revision = i64::try_from(u64::from_be_bytes(*revision)).ok()?;
    Some((rest, Revision(revision), Sub(u32::from_be_bytes(*sub))))
}

fn unescape(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    loop {
        match rest.next()? {
            0 => match rest.next()? {
                0xff => key.push(0),
                1 => return rest.as_slice().is_empty().then_some(key),
                _ => return None,
            },
            &byte => key.push(byte),
        }
    }
}

/// Big endian with the sign bit flipped, so that negative ids sort first.
fn lease_bytes(id: LeaseId) -> [u8; 8] {
    (id.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn lease_id(bytes: [u8; 8]) -> LeaseId {
    LeaseId((u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed())
}
