//! What each command does to the state. Guards first, in one straight line, then the change.

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{self as entry, command::Kind},
    etcdserverpb as pb,
};

use super::{LeaseEffect, Reply, query::header, txn, work::Work};
use crate::{
    engine::Read,
    error::Error,
    lease::{self, MAX_TTL_SECONDS},
    members,
    mvcc::{self, KeyRange},
    types::{LeaseId, MemberId, Revision, Term},
};

/// Lease keys read at a time while a lease is revoked: a lease may hold more keys than fit in memory.
const REVOKE_STEP: usize = 1_000;

/// Where in the log the entry stands, for commands that only count in the term in which they were proposed.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) proposed: Term,
    pub(super) committed: Term,
}

pub(super) fn apply(work: &mut Work<'_>, kind: &Kind, terms: Terms) -> Result<Reply, Error> {
    match kind {
        Kind::Put(r) => {
            if work.is_first() {
                check_put(work.read(), r)?;
            }
            Ok(Reply::Put(put(work, r)))
        }
        Kind::DeleteRange(r) => Ok(Reply::DeleteRange(delete_range(work, r))),
        Kind::Txn(r) => txn::apply(work, r).map(Reply::Txn),
        Kind::Compact(r) => compact(work, Revision(r.revision)),
        Kind::LeaseGrant(r) => lease_grant(work, r),
        Kind::LeaseRevoke(r) => lease_revoke(work, r, terms),
        Kind::MemberPublish(r) => member_publish(work, r),
    }
}

/// What can fail in a put, on the state as it is.
pub(super) fn check_put(read: &impl Read, r: &pb::PutRequest) -> Result<(), Error> {
    if r.lease != 0 && lease::get(read, LeaseId(r.lease)).is_none() {
        return Err(Error::LeaseNotFound);
    }
    if (r.ignore_value || r.ignore_lease) && mvcc::get(read, &r.key).is_none() {
        return Err(Error::KeyNotFound);
    }
    Ok(())
}

/// Cannot fail: [`check_put`] has been passed.
pub(super) fn put(work: &mut Work<'_>, r: &pb::PutRequest) -> pb::PutResponse {
    let mut prev_kv = None;
    if work.begin_op() {
        let before = if r.ignore_value || r.ignore_lease {
            let kept = mvcc::get(work.read(), &r.key).expect("it was checked that the key exists");
            let value = if r.ignore_value { &kept.value } else { &r.value };
            let lease = if r.ignore_lease { kept.lease } else { r.lease };
            work.put(&r.key, value, LeaseId(lease))
        } else {
            work.put(&r.key, &r.value, LeaseId(r.lease))
        };
        prev_kv = before.filter(|_| r.prev_kv);
    }
    work.end_op();
    pb::PutResponse { header: header(work.at().revision), prev_kv }
}

pub(super) fn delete_range(work: &mut Work<'_>, r: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
    let mut prev_kvs = Vec::new();
    let deleted = if work.begin_op() {
        work.delete(&KeyRange::parse(&r.key, &r.range_end), |kv| {
            if r.prev_kv {
                prev_kvs.push(kv);
            }
        })
    } else {
        work.was_deleted()
    };
    work.end_op();
    let deleted = i64::try_from(deleted).expect("fewer keys than an i64 can count");
    pb::DeleteRangeResponse { header: header(work.at().revision), deleted, prev_kvs }
}

fn compact(work: &mut Work<'_>, revision: Revision) -> Result<Reply, Error> {
    if work.begin_op() {
        work.compacted = Some(mvcc::compact(work.at(), revision)?.compacted);
    }
    work.end_op();
    Ok(Reply::Compact(pb::CompactionResponse { header: header(work.at().revision) }))
}

fn lease_grant(work: &mut Work<'_>, r: &entry::LeaseGrant) -> Result<Reply, Error> {
    let id = LeaseId(r.id);
    if work.begin_op() {
        if id == LeaseId::NONE {
            return Err(Error::LeaseNotFound);
        }
        if r.ttl_ms > MAX_TTL_SECONDS * 1_000 {
            return Err(Error::LeaseTTLTooLarge);
        }
        if lease::get(work.read(), id).is_some() {
            return Err(Error::LeaseExist);
        }
        // The proposer raised the TTL to the least that its election timeout allows; a lease of no time at all would
        // have run out before it was granted.
        let grant = lease::Grant { ttl_ms: r.ttl_ms.max(1_000), index: work.index() };
        lease::grant(work.batch(), id, grant);
        work.leases.push(LeaseEffect::Granted { id, grant });
    }
    work.end_op();
    Ok(Reply::LeaseGrant(pb::LeaseGrantResponse {
        header: header(work.at().revision),
        id: r.id,
        ttl: r.ttl_ms.max(1_000) / 1_000,
        error: String::new(),
    }))
}

/// Deletes the keys of the lease in order, in one revision, then the lease.
///
/// A revocation that a leader's clock asked for counts only in the term in which it was proposed: under the next leader
/// the lease has been given more time, and a client may have been told so. It counts only for the grant that ran out: a
/// client may have revoked that lease and been granted another one of the same id, both in front of this entry.
fn lease_revoke(work: &mut Work<'_>, r: &entry::LeaseRevoke, terms: Terms) -> Result<Reply, Error> {
    let id = LeaseId(r.id);
    let grant = lease::get(work.read(), id);
    let is_another = grant.is_some_and(|grant| grant.index.0 != r.granted_index);
    if r.expired && (is_another || terms.proposed != terms.committed) {
        return Ok(Reply::Done);
    }
    if work.begin_op() {
        if grant.is_none() {
            return Err(Error::LeaseNotFound);
        }
        let mut first = Vec::new();
        loop {
            let keys = lease::keys_from(work.read(), id, &first, REVOKE_STEP);
            let Some(last) = keys.last() else { break };
            first.clear();
            first.extend_from_slice(last);
            first.push(0);
            for key in keys {
                delete_leased(work, id, key);
                work.cut_if_full();
            }
        }
        lease::remove(work.batch(), id);
        work.leases.push(LeaseEffect::Revoked { id });
    }
    work.end_op();
    Ok(Reply::LeaseRevoke(pb::LeaseRevokeResponse { header: header(work.at().revision) }))
}

fn delete_leased(work: &mut Work<'_>, id: LeaseId, key: Bytes) {
    let step = work.delete_step(&KeyRange::One(key));
    assert!(
        matches!(&step.kvs[..], [kv] if kv.lease == id.0),
        "a key on lease {:x} names another, or none, or does not exist",
        id.0
    );
}

fn member_publish(work: &mut Work<'_>, r: &entry::MemberPublish) -> Result<Reply, Error> {
    if work.begin_op() {
        let mut member = members::get(work.read(), MemberId(r.id)).ok_or(Error::MemberNotFound)?;
        member.name.clone_from(&r.name);
        member.client_urls.clone_from(&r.client_urls);
        members::put(work.batch(), &member);
    }
    work.end_op();
    Ok(Reply::Done)
}
