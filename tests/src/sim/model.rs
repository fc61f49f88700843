//! What each command means, written a second time and as plainly as can be: a map of versions, no engine, no pieces, no
//! indexes. It shares no code with the server, so that both are not wrong together.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{self as entry, command::Kind},
    etcdserverpb::{self as pb, compare::TargetUnion, request_op::Request, response_op::Response},
    mvccpb::KeyValue,
};
use conclave_server::{
    error::Error,
    lease::Grant,
    mvcc::{Change, KeyRange, Kind as ChangeKind, Position},
    state::Reply,
    types::{LeaseId, LogIndex, Revision, Sub},
};

use super::seen::Slot;

/// Leases live at least a second.
const LEAST_TTL_MS: i64 = 1_000;

/// What a command should do.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    pub reply: Result<Reply, Error>,
    pub changes: Vec<Change>,
    pub revision: Revision,
    /// It made `revision`; of a repeated request, its first execution did.
    pub made: bool,
    /// It was applied before, under the same idempotency key.
    pub repeated: bool,
}

/// The key space, the leases and the answered requests.
#[derive(Clone, Debug, Default)]
pub struct Model {
    revision: i64,
    compacted: i64,
    now: BTreeMap<Bytes, KeyValue>,
    /// Every version of each key; none: it was deleted.
    past: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    leases: BTreeMap<i64, Grant>,
    answered: BTreeMap<Bytes, Expected>,
    /// Of the command under way.
    changes: Vec<Change>,
}

impl Model {
    #[must_use]
    pub fn new() -> Self {
        Self { revision: Revision::FIRST.0, compacted: Revision::NEVER.0, ..Self::default() }
    }

    #[must_use]
    pub fn position(&self) -> Position {
        Position { revision: Revision(self.revision), compacted: Revision(self.compacted) }
    }

    #[must_use]
    pub fn leases(&self) -> Vec<(LeaseId, Grant)> {
        self.leases.iter().map(|(id, grant)| (LeaseId(*id), *grant)).collect()
    }

    /// The range as it was at `revision`, compacted or not.
    #[must_use]
    pub fn read(&self, range: &KeyRange, revision: Revision) -> Vec<KeyValue> {
        let at = |versions: &Vec<(i64, Option<KeyValue>)>| {
            versions.iter().rev().find(|(made, _)| *made <= revision.0).and_then(|(_, kv)| kv.clone())
        };
        self.past.iter().filter(|(key, _)| range.contains(key)).filter_map(|(_, versions)| at(versions)).collect()
    }

    /// Executes one entry of the log.
    pub fn apply(&mut self, entry: &entry::Entry, slot: Slot) -> Expected {
        let header = entry.header.clone().unwrap_or_default();
        let command = entry.command.as_ref().and_then(|command| command.kind.as_ref()).expect("an entry has a command");
        let key = header.idempotency_key;
        if !key.is_empty()
            && let Some(first) = self.answered.get(&key)
        {
            return Expected { reply: retold(first), changes: Vec::new(), repeated: true, ..first.clone() };
        }
        self.changes.clear();
        let reply = self.execute(command, slot.index, header.proposer_term == slot.term.0);
        let changes = std::mem::take(&mut self.changes);
        let made = !changes.is_empty();
        self.revision += i64::from(made);
        let expected = Expected { reply, changes, revision: Revision(self.revision), made, repeated: false };
        if !key.is_empty() {
            self.answered.insert(key, expected.clone());
        }
        expected
    }

    fn execute(&mut self, command: &Kind, index: LogIndex, own_term: bool) -> Result<Reply, Error> {
        match command {
            Kind::Put(put) => {
                self.check_put(put)?;
                Ok(Reply::Put(self.put(put)))
            }
            Kind::DeleteRange(delete) => Ok(Reply::DeleteRange(self.delete(delete))),
            Kind::Txn(txn) => self.txn(txn),
            Kind::Compact(compact) if compact.revision <= self.compacted => Err(Error::Compacted),
            Kind::Compact(compact) if compact.revision > self.revision => Err(Error::FutureRev),
            Kind::Compact(compact) => {
                self.compacted = compact.revision;
                Ok(Reply::Compact(pb::CompactionResponse { header: self.header() }))
            }
            Kind::LeaseGrant(grant) if self.leases.contains_key(&grant.id) => Err(Error::LeaseExist),
            Kind::LeaseGrant(grant) => {
                let ttl_ms = grant.ttl_ms.max(LEAST_TTL_MS);
                self.leases.insert(grant.id, Grant { ttl_ms, index });
                let (header, ttl) = (self.header(), ttl_ms / 1_000);
                Ok(Reply::LeaseGrant(pb::LeaseGrantResponse { header, id: grant.id, ttl, error: String::new() }))
            }
            // The leader that found it run out is not the leader any more.
            Kind::LeaseRevoke(revoke) if revoke.expired && !own_term => Ok(Reply::Done),
            // The lease that ran out is gone, and this is another one.
            Kind::LeaseRevoke(revoke)
                if revoke.expired
                    && self.leases.get(&revoke.id).is_some_and(|grant| grant.index.0 != revoke.granted_index) =>
            {
                Ok(Reply::Done)
            }
            Kind::LeaseRevoke(revoke) if self.leases.remove(&revoke.id).is_none() => Err(Error::LeaseNotFound),
            Kind::LeaseRevoke(revoke) => {
                for kv in self.matching(|kv| kv.lease == revoke.id) {
                    self.remove(kv);
                }
                Ok(Reply::LeaseRevoke(pb::LeaseRevokeResponse { header: self.header() }))
            }
            Kind::MemberPublish(_) => Ok(Reply::Done),
        }
    }

    /// The revision that the command under way reads at: its own, once it changed something.
    fn at(&self) -> i64 {
        self.revision + i64::from(!self.changes.is_empty())
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { revision: self.at(), ..Default::default() })
    }

    fn check_put(&self, put: &pb::PutRequest) -> Result<(), Error> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Error::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && !self.now.contains_key(&put.key) {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn put(&mut self, put: &pb::PutRequest) -> pb::PutResponse {
        let before = self.now.get(&put.key).cloned();
        let old = before.clone().unwrap_or_default();
        let made = self.revision + 1;
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: if before.is_some() { old.create_revision } else { made },
            mod_revision: made,
            version: old.version + 1,
            value: if put.ignore_value { old.value } else { put.value.clone() },
            lease: if put.ignore_lease { old.lease } else { put.lease },
        };
        self.now.insert(put.key.clone(), kv.clone());
        self.past.entry(put.key.clone()).or_default().push((made, Some(kv.clone())));
        self.note(ChangeKind::Put, kv, before.clone());
        pb::PutResponse { header: self.header(), prev_kv: before.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let range = KeyRange::parse(&delete.key, &delete.range_end);
        let gone = self.matching(|kv| range.contains(&kv.key));
        gone.iter().cloned().for_each(|kv| self.remove(kv));
        let deleted = i64::try_from(gone.len()).expect("few keys");
        let prev_kvs = if delete.prev_kv { gone } else { Vec::new() };
        pb::DeleteRangeResponse { header: self.header(), deleted, prev_kvs }
    }

    fn matching(&self, wanted: impl Fn(&KeyValue) -> bool) -> Vec<KeyValue> {
        self.now.values().filter(|kv| wanted(kv)).cloned().collect()
    }

    fn remove(&mut self, before: KeyValue) {
        let made = self.revision + 1;
        self.now.remove(&before.key);
        self.past.entry(before.key.clone()).or_default().push((made, None));
        let kv = KeyValue { key: before.key.clone(), mod_revision: made, ..KeyValue::default() };
        self.note(ChangeKind::Delete, kv, Some(before));
    }

    fn note(&mut self, kind: ChangeKind, kv: KeyValue, prev: Option<KeyValue>) {
        let sub = Sub(u32::try_from(self.changes.len()).expect("few changes"));
        self.changes.push(Change { kind, sub, kv, prev });
    }

    /// Without nested ones, which no simulated client sends.
    fn txn(&mut self, txn: &pb::TxnRequest) -> Result<Reply, Error> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        for op in branch {
            if let Some(Request::RequestPut(put)) = &op.request {
                self.check_put(put)?;
            }
        }
        let run = |op: &pb::RequestOp| {
            let response = match op.request.as_ref().expect("an operation") {
                Request::RequestPut(put) => Response::ResponsePut(self.put(put)),
                Request::RequestDeleteRange(delete) => Response::ResponseDeleteRange(self.delete(delete)),
                Request::RequestRange(range) => Response::ResponseRange(self.range(range)),
                Request::RequestTxn(_) => unimplemented!("no simulated client sends nested transactions"),
            };
            pb::ResponseOp { response: Some(response) }
        };
        let responses = branch.iter().map(run).collect();
        Ok(Reply::Txn(pb::TxnResponse { header: self.header(), succeeded, responses }))
    }

    fn range(&self, range: &pb::RangeRequest) -> pb::RangeResponse {
        let wanted = KeyRange::parse(&range.key, &range.range_end);
        let kvs = self.matching(|kv| wanted.contains(&kv.key));
        let count = i64::try_from(kvs.len()).expect("few keys");
        pb::RangeResponse { header: self.header(), kvs, more: false, count }
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let kv = self.now.get(&compare.key).cloned().unwrap_or_default();
        let order = match compare.target_union.as_ref().expect("a target") {
            TargetUnion::Version(version) => kv.version.cmp(version),
            TargetUnion::CreateRevision(revision) => kv.create_revision.cmp(revision),
            TargetUnion::ModRevision(revision) => kv.mod_revision.cmp(revision),
            TargetUnion::Lease(lease) => kv.lease.cmp(lease),
            TargetUnion::Value(value) => kv.value.cmp(value),
        };
        match compare.result() {
            pb::compare::CompareResult::Equal => order.is_eq(),
            pb::compare::CompareResult::Greater => order.is_gt(),
            pb::compare::CompareResult::Less => order.is_lt(),
            pb::compare::CompareResult::NotEqual => order.is_ne(),
        }
    }
}

/// The outcome of a request that comes again: as it was, without the key-values.
fn retold(first: &Expected) -> Result<Reply, Error> {
    match first.reply.clone()? {
        Reply::Put(put) => Ok(Reply::Put(pb::PutResponse { prev_kv: None, ..put })),
        _ => unimplemented!("simulated clients give keys to puts only"),
    }
}
