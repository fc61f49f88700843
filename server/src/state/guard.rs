//! What can be said of a request without looking at the key space. The door makes these checks before it proposes,
//! so that a request that can never succeed costs no log entry.
//!
//! The order of the checks is etcd's (`api/v3rpc/key.go`): of two mistakes in one request, a client must be told the
//! same one.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use bytes::Bytes;
use conclave_proto::etcdserverpb::{
    self as pb,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};

use crate::error::Error;

/// The longest idempotency key that is remembered. A key is an id, not a document; with [`super::WINDOW_KEYS`] it bounds
/// what clients can make the window hold.
pub const IDEMPOTENCY_KEY_MAX_BYTES: usize = 256;

pub fn check_idempotency_key(key: &[u8]) -> Result<(), Error> {
    if key.len() > IDEMPOTENCY_KEY_MAX_BYTES {
        return Err(Error::IdempotencyKeyTooLong);
    }
    Ok(())
}

pub fn check_range(r: &pb::RangeRequest) -> Result<(), Error> {
    if r.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if SortOrder::try_from(r.sort_order).is_err() || SortTarget::try_from(r.sort_target).is_err() {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// A RangeStream sends keys as it finds them, so what would need all of them first is refused.
pub fn check_range_stream(r: &pb::RangeRequest) -> Result<(), Error> {
    check_range(r)?;
    let by_key = r.sort_target == SortTarget::Key as i32 && r.sort_order == SortOrder::Ascend as i32;
    if r.sort_order != SortOrder::None as i32 && !by_key {
        return Err(Error::StreamCustomSort);
    }
    if [r.min_mod_revision, r.max_mod_revision, r.min_create_revision, r.max_create_revision] != [0; 4] {
        return Err(Error::StreamRevisionFilter);
    }
    Ok(())
}

pub fn check_put(r: &pb::PutRequest) -> Result<(), Error> {
    if r.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if r.ignore_value && !r.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if r.ignore_lease && r.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

pub fn check_delete_range(r: &pb::DeleteRangeRequest) -> Result<(), Error> {
    if r.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    Ok(())
}

/// Shape first (empty keys, too many operations, options), then keys that would be written twice.
///
/// `max_ops` bounds the longest list of each level, and a nested txn gets what its parent left over, so the depth of
/// the recursion is bounded by it too.
pub fn check_txn(r: &pb::TxnRequest, max_ops: usize) -> Result<(), Error> {
    check_shape(r, max_ops)?;
    written(&r.success)?;
    written(&r.failure)?;
    Ok(())
}

fn check_shape(r: &pb::TxnRequest, max_ops: usize) -> Result<(), Error> {
    let ops = r.compare.len().max(r.success.len()).max(r.failure.len());
    if ops > max_ops {
        return Err(Error::TooManyOps);
    }
    if r.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in r.success.iter().chain(&r.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(range)?,
            Some(Request::RequestPut(put)) => check_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete_range(delete)?,
            Some(Request::RequestTxn(txn)) => check_shape(txn, max_ops - ops)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// What a list of operations may write.
#[derive(Default)]
struct Written<'a> {
    puts: BTreeSet<&'a Bytes>,
    deletes: Spans,
}

/// Refuses two puts of one key, and a put of a key that a delete covers, unless they stand in branches of which only one
/// runs.
///
/// Two of etcd's gaps are kept, because a client must get the same answer from both: a put in one nested txn and a
/// delete of the same key in a *later* one beside it pass, and so does every delete with `range_end` `"\0"`. Such a
/// request changes one key twice in one revision.
fn written(ops: &[pb::RequestOp]) -> Result<Written<'_>, Error> {
    let mut all = Written::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.insert_range(&delete.key, &delete.range_end);
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            let (then, otherwise) = (written(&txn.success)?, written(&txn.failure)?);
            if then.puts.iter().any(|key| all.puts.contains(key) || all.deletes.contains(key)) {
                return Err(Error::DuplicateKey);
            }
            if otherwise.puts.iter().any(|key| all.puts.contains(key) || all.deletes.contains(key)) {
                return Err(Error::DuplicateKey);
            }
            all.puts.extend(then.puts);
            all.puts.extend(otherwise.puts);
            all.deletes.merge(then.deletes);
            all.deletes.merge(otherwise.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request
            && (all.deletes.contains(&put.key) || !all.puts.insert(&put.key))
        {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(all)
}

/// A set of keys as disjoint half-open spans: start to end, or to the end of all keys. Looking up one key costs one step
/// however many deletes a request holds, so that a request full of nested deletes and puts cannot keep a thread busy.
#[derive(Default)]
pub(super) struct Spans(BTreeMap<Vec<u8>, End>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Vec<u8>),
    Open,
}

impl Spans {
    /// `range_end` empty: the one key. An end at or before the key covers nothing, `"\0"` included (see [`written`]).
    fn insert_range(&mut self, key: &[u8], range_end: &[u8]) {
        if range_end.is_empty() {
            self.insert(key.to_vec(), End::Before([key, &[0]].concat()));
        } else if key < range_end {
            self.insert(key.to_vec(), End::Before(range_end.to_vec()));
        }
    }

    /// The same, but with `range_end` `"\0"` as what it means: to the end of all keys.
    pub(super) fn insert_open_range(&mut self, key: &[u8], range_end: &[u8]) {
        if range_end == b"\0" {
            self.insert(key.to_vec(), End::Open);
        } else {
            self.insert_range(key, range_end);
        }
    }

    fn insert(&mut self, mut from: Vec<u8>, mut to: End) {
        loop {
            let below = match &to {
                End::Before(to) => self.0.range(..=to.clone()).next_back(),
                End::Open => self.0.last_key_value(),
            };
            let touching = below.filter(|(_, end)| match end {
                End::Before(end) => *end >= from,
                End::Open => true,
            });
            let Some(start) = touching.map(|(start, _)| start.clone()) else { break };
            let end = self.0.remove(&start).expect("it was just found");
            from = from.min(start);
            to = to.max(end);
        }
        self.0.insert(from, to);
    }

    fn merge(&mut self, other: Self) {
        for (from, to) in other.0 {
            self.insert(from, to);
        }
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        let below = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        below.is_some_and(|(_, end)| match end {
            End::Before(end) => key < end.as_slice(),
            End::Open => true,
        })
    }
}
