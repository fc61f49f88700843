//! Who belongs to the cluster: the replicated table of members, and how ids come about.
//!
//! A member is known by its id from the moment its peer URLs are known; its name and its client URLs follow when it has
//! started and publishes them through the log. Until then they are empty, and clients see a member that has not started.
//!
//! *Invariants*
//! - Ids are etcd's, bit for bit (`ids_are_etcds`, values taken from a running etcd 3.7.1): a client compares the ids of
//!   headers, and a cluster described by the same flags must have the same ids.
//! - A stored member reads back as it was written, and the bytes never change meaning (`golden`).
//! - The table is changed by apply alone, in the batch of the entry that changes it.
//!
//! *Not here*: raft's own membership (its ConfState lies beside the applied index, see `state`), and the rules for
//! adding and removing members.

mod table;
#[cfg(test)]
mod tests;

use sha1::{Digest, Sha1};

pub use table::{all, get, put};

use crate::types::{ClusterId, MemberId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    /// Empty until the member has started.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Empty until the member has started.
    pub client_urls: Vec<String>,
    pub learner: bool,
}

/// The id of a member of a new cluster: SHA-1 over its sorted peer URLs and the cluster token, first eight bytes.
#[must_use]
pub fn member_id(peer_urls: &[String], token: &str) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    MemberId(first_eight(hash))
}

/// The id of a cluster: SHA-1 over the sorted ids of its first members, first eight bytes.
#[must_use]
pub fn cluster_id(members: &[MemberId]) -> ClusterId {
    let mut ids = members.to_vec();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.0.to_be_bytes());
    }
    ClusterId(first_eight(hash))
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 digest has twenty bytes"))
}
