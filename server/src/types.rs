//! Numbers that must not be swapped. The words are the Raft paper's and etcd's; `docs/glossary.md` defines them.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Revision of the key space: one more with each request that changed something. 1 in a fresh store.
    Revision(i64)
}
number! {
    /// Place of a change among the changes of its revision, from 0.
    Sub(u32)
}
number! {
    /// Index of an entry in the Raft log, from 1.
    LogIndex(u64)
}
number! {
    /// Raft term.
    Term(u64)
}
number! {
    /// Lease id as clients see it; 0 means no lease.
    LeaseId(i64)
}
number! {
    /// Member id; printed by etcd's tools in hexadecimal.
    MemberId(u64)
}
number! {
    /// Cluster id, derived from the initial members.
    ClusterId(u64)
}

impl LeaseId {
    /// What a key without a lease carries.
    pub const NONE: Self = Self(0);
}

impl Revision {
    /// The revision of a store in which nothing was ever written.
    pub const FIRST: Self = Self(1);
    /// The compacted revision of a store that was never compacted.
    pub const NEVER: Self = Self(-1);
}
