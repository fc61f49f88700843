//! The semantics once more, as plainly as they can be told, over maps that are copied: random commands must come to the
//! same replies, the same keys and the same events.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{self as entry, command::Kind},
    etcdserverpb::{
        self as pb,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
        response_op::Response,
    },
    mvccpb::KeyValue,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::world::{World, all_keys, small};
use crate::{
    error::Error,
    mvcc::{self, KeyRange, Query},
    state::{Applied, Events, Reply, check_txn, header},
    types::Revision,
};

type Keys = BTreeMap<Bytes, KeyValue>;

struct Model {
    keys: Keys,
    revision: i64,
    compacted: i64,
    leases: BTreeMap<i64, i64>,
    /// The keys at every revision.
    past: BTreeMap<i64, Keys>,
}

impl Model {
    fn new() -> Self {
        let past = BTreeMap::from([(1, Keys::new())]);
        Self { keys: Keys::new(), revision: 1, compacted: -1, leases: BTreeMap::new(), past }
    }

    fn apply(&mut self, kind: &Kind) -> Result<Reply, Error> {
        let mut keys = self.keys.clone();
        let mut changed = false;
        let reply = match kind {
            Kind::Put(r) => {
                self.check_put(r)?;
                Reply::Put(self.put(&mut keys, r, &mut changed))
            }
            Kind::DeleteRange(r) => Reply::DeleteRange(self.delete(&mut keys, r, &mut changed)),
            Kind::Txn(r) => {
                self.check_txn(r, &mut Vec::new())?;
                let mut reply = self.txn(&mut keys, r, &mut changed)?;
                reply.header = header(Revision(self.revision + i64::from(changed)));
                Reply::Txn(reply)
            }
            Kind::Compact(r) => {
                if r.revision <= self.compacted {
                    return Err(Error::Compacted);
                }
                if r.revision > self.revision {
                    return Err(Error::FutureRev);
                }
                self.compacted = r.revision;
                Reply::Compact(pb::CompactionResponse { header: header(Revision(self.revision)) })
            }
            Kind::LeaseGrant(r) => {
                if self.leases.contains_key(&r.id) {
                    return Err(Error::LeaseExist);
                }
                self.leases.insert(r.id, r.ttl_ms);
                let (header, ttl) = (header(Revision(self.revision)), r.ttl_ms / 1_000);
                Reply::LeaseGrant(pb::LeaseGrantResponse { header, id: r.id, ttl, error: String::new() })
            }
            Kind::LeaseRevoke(r) => {
                self.leases.remove(&r.id).ok_or(Error::LeaseNotFound)?;
                keys.retain(|_, kv| kv.lease != r.id);
                changed = keys.len() < self.keys.len();
                let header = header(Revision(self.revision + i64::from(changed)));
                Reply::LeaseRevoke(pb::LeaseRevokeResponse { header })
            }
            Kind::MemberPublish(_) => unreachable!("not among the random commands"),
        };
        self.revision += i64::from(changed);
        self.keys = keys;
        self.past.insert(self.revision, self.keys.clone());
        Ok(reply)
    }

    fn check_put(&self, r: &pb::PutRequest) -> Result<(), Error> {
        if r.lease != 0 && !self.leases.contains_key(&r.lease) {
            return Err(Error::LeaseNotFound);
        }
        if (r.ignore_value || r.ignore_lease) && !self.keys.contains_key(&r.key) {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let range = KeyRange::parse(&compare.key, &compare.range_end);
        let found: Vec<&KeyValue> = self.keys.values().filter(|kv| range.contains(&kv.key)).collect();
        let one = |kv: &KeyValue| {
            let order = match compare.target_union.as_ref().expect("always set") {
                TargetUnion::Version(n) => kv.version.cmp(n),
                TargetUnion::CreateRevision(n) => kv.create_revision.cmp(n),
                TargetUnion::ModRevision(n) => kv.mod_revision.cmp(n),
                TargetUnion::Lease(n) => kv.lease.cmp(n),
                TargetUnion::Value(value) => kv.value.cmp(value),
            };
            match compare.result() {
                CompareResult::Equal => order.is_eq(),
                CompareResult::NotEqual => order.is_ne(),
                CompareResult::Greater => order.is_gt(),
                CompareResult::Less => order.is_lt(),
            }
        };
        if found.is_empty() {
            compare.target() != CompareTarget::Value && one(&KeyValue::default())
        } else {
            found.into_iter().all(one)
        }
    }

    /// The branch that the compares choose; they see the keys before the txn, however deep they stand.
    fn branch<'r>(&self, r: &'r pb::TxnRequest) -> (bool, &'r [pb::RequestOp]) {
        let held = r.compare.iter().all(|compare| self.holds(compare));
        (held, if held { &r.success } else { &r.failure })
    }

    fn check_txn(&self, r: &pb::TxnRequest, deleted: &mut Vec<KeyRange>) -> Result<(), Error> {
        for op in self.branch(r).1 {
            match op.request.as_ref().expect("checked") {
                Request::RequestRange(r) if r.revision > self.revision => return Err(Error::FutureRev),
                Request::RequestRange(r) if r.revision != 0 && r.revision < self.compacted => {
                    return Err(Error::Compacted);
                }
                Request::RequestRange(_) => {}
                Request::RequestPut(r) => {
                    self.check_put(r)?;
                    if (r.ignore_value || r.ignore_lease) && deleted.iter().any(|range| range.contains(&r.key)) {
                        return Err(Error::KeyNotFound);
                    }
                }
                Request::RequestDeleteRange(r) => deleted.push(KeyRange::parse(&r.key, &r.range_end)),
                Request::RequestTxn(r) => self.check_txn(r, deleted)?,
            }
        }
        Ok(())
    }

    fn txn(&self, keys: &mut Keys, r: &pb::TxnRequest, changed: &mut bool) -> Result<pb::TxnResponse, Error> {
        let (succeeded, ops) = self.branch(r);
        let mut responses = Vec::new();
        for op in ops {
            let response = match op.request.as_ref().expect("checked") {
                Request::RequestRange(r) => Response::ResponseRange(self.range(keys, r, *changed)),
                Request::RequestPut(r) => Response::ResponsePut(self.put(keys, r, changed)),
                Request::RequestDeleteRange(r) => Response::ResponseDeleteRange(self.delete(keys, r, changed)),
                Request::RequestTxn(r) => Response::ResponseTxn(self.txn(keys, r, changed)?),
            };
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        Ok(pb::TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded, responses })
    }

    fn range(&self, keys: &Keys, r: &pb::RangeRequest, changed: bool) -> pb::RangeResponse {
        let revision = self.revision + i64::from(changed);
        let past = r.revision > 0 && r.revision < revision;
        let keys = if past { &self.past[&r.revision] } else { keys };
        let range = KeyRange::parse(&r.key, &r.range_end);
        let mut kvs: Vec<KeyValue> = keys.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
        let count = kvs.len() as i64;
        let more = r.limit > 0 && count > r.limit;
        if more {
            kvs.truncate(r.limit as usize);
        }
        pb::RangeResponse { header: header(Revision(revision)), kvs, more, count }
    }

    fn put(&self, keys: &mut Keys, r: &pb::PutRequest, changed: &mut bool) -> pb::PutResponse {
        let before = keys.get(&r.key).cloned();
        let kept = |ignore| before.as_ref().filter(|_| ignore);
        let kv = KeyValue {
            key: r.key.clone(),
            create_revision: before.as_ref().map_or(self.revision + 1, |kv| kv.create_revision),
            mod_revision: self.revision + 1,
            version: before.as_ref().map_or(1, |kv| kv.version + 1),
            value: kept(r.ignore_value).map_or(r.value.clone(), |kv| kv.value.clone()),
            lease: kept(r.ignore_lease).map_or(r.lease, |kv| kv.lease),
        };
        keys.insert(r.key.clone(), kv);
        *changed = true;
        pb::PutResponse { header: header(Revision(self.revision + 1)), prev_kv: before.filter(|_| r.prev_kv) }
    }

    fn delete(&self, keys: &mut Keys, r: &pb::DeleteRangeRequest, changed: &mut bool) -> pb::DeleteRangeResponse {
        let range = KeyRange::parse(&r.key, &r.range_end);
        let doomed: Vec<KeyValue> = keys.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
        keys.retain(|key, _| !range.contains(key));
        *changed |= !doomed.is_empty();
        pb::DeleteRangeResponse {
            header: header(Revision(self.revision + i64::from(*changed))),
            deleted: doomed.len() as i64,
            prev_kvs: if r.prev_kv { doomed } else { Vec::new() },
        }
    }
}

fn key(rng: &mut ChaCha8Rng) -> Bytes {
    vec![b'a' + rng.random_range(0..6u8)].into()
}

fn range_end(rng: &mut ChaCha8Rng) -> Bytes {
    match rng.random_range(0..10) {
        0..6 => Bytes::new(),
        6 => Bytes::from_static(b"\0"),
        _ => key(rng),
    }
}

fn put(rng: &mut ChaCha8Rng) -> pb::PutRequest {
    let (ignore_value, ignore_lease) = (rng.random_range(0..8) == 0, rng.random_range(0..8) == 0);
    pb::PutRequest {
        key: key(rng),
        value: if ignore_value { Bytes::new() } else { vec![b'0' + rng.random_range(0..4u8)].into() },
        lease: if ignore_lease || rng.random() { 0 } else { rng.random_range(1..5) },
        prev_kv: rng.random(),
        ignore_value,
        ignore_lease,
    }
}

fn delete(rng: &mut ChaCha8Rng) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key(rng), range_end: range_end(rng), prev_kv: rng.random() }
}

fn range(rng: &mut ChaCha8Rng) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key(rng),
        range_end: range_end(rng),
        revision: if rng.random_range(0..3) == 0 { rng.random_range(1..80) } else { 0 },
        limit: rng.random_range(0..3),
        ..Default::default()
    }
}

fn compare(rng: &mut ChaCha8Rng) -> pb::Compare {
    let (target, union) = match rng.random_range(0..5) {
        0 => (CompareTarget::Version, TargetUnion::Version(rng.random_range(0..4))),
        1 => (CompareTarget::Create, TargetUnion::CreateRevision(rng.random_range(0..40))),
        2 => (CompareTarget::Mod, TargetUnion::ModRevision(rng.random_range(0..40))),
        3 => (CompareTarget::Lease, TargetUnion::Lease(rng.random_range(0..5))),
        _ => (CompareTarget::Value, TargetUnion::Value(vec![b'0' + rng.random_range(0..4u8)].into())),
    };
    pb::Compare {
        result: rng.random_range(0..4),
        target: target as i32,
        key: key(rng),
        range_end: range_end(rng),
        target_union: Some(union),
    }
}

fn txn(rng: &mut ChaCha8Rng, depth: u32) -> pb::TxnRequest {
    let ops = |rng: &mut ChaCha8Rng| {
        let mut ops = Vec::new();
        for _ in 0..rng.random_range(0..4) {
            let request = match rng.random_range(0..10) {
                0..4 => Request::RequestPut(put(rng)),
                4..6 => Request::RequestDeleteRange(delete(rng)),
                6..8 => Request::RequestRange(range(rng)),
                _ if depth < 2 => Request::RequestTxn(txn(rng, depth + 1)),
                _ => continue,
            };
            ops.push(pb::RequestOp { request: Some(request) });
        }
        ops
    };
    let compare = (0..rng.random_range(0..3)).map(|_| compare(rng)).collect();
    pb::TxnRequest { compare, success: ops(rng), failure: ops(rng) }
}

/// A command that the door would let in.
pub(super) fn random_command(rng: &mut ChaCha8Rng) -> Kind {
    loop {
        return match rng.random_range(0..100) {
            0..30 => Kind::Put(put(rng)),
            30..38 => Kind::DeleteRange(delete(rng)),
            38..85 => {
                let txn = txn(rng, 0);
                if check_txn(&txn, 128).is_err() {
                    continue;
                }
                Kind::Txn(txn)
            }
            85..87 => Kind::Compact(entry::Compact { revision: rng.random_range(0..60) }),
            87..95 => Kind::LeaseGrant(entry::LeaseGrant { id: rng.random_range(1..5), ttl_ms: 5_000 }),
            _ => Kind::LeaseRevoke(entry::LeaseRevoke { id: rng.random_range(1..5), ..Default::default() }),
        };
    }
}

#[derive(Default)]
struct Seen {
    txns: u32,
    errors: BTreeMap<String, u32>,
    twice: u32,
    nested: u32,
}

#[test]
fn random_commands_agree_with_the_model() {
    let mut seen = Seen::default();
    for seed in 0..150 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut world, mut model) = (World::new(small()), Model::new());
        for step in 0..100 {
            let kind = random_command(&mut rng);
            let before = model.keys.clone();
            let expected = model.apply(&kind);
            let applied = world.apply(kind.clone());
            assert_eq!(applied.reply, expected, "seed {seed}, step {step}: {kind:?}");
            assert_eq!(applied.revision.0, model.revision);
            check_events(&applied, &before, &model.keys, &mut seen);
            check_reads(&world, &model, &mut rng);
            seen.count(&kind, &expected);
        }
    }
    assert!(seen.txns > 1_000 && seen.nested > 300 && seen.twice > 20, "{} {} {}", seen.txns, seen.nested, seen.twice);
    for error in [Error::LeaseNotFound, Error::LeaseExist, Error::KeyNotFound, Error::Compacted, Error::FutureRev] {
        assert!(seen.errors.contains_key(error.text()), "never met: {error}");
    }
}

impl Seen {
    fn count(&mut self, kind: &Kind, reply: &Result<Reply, Error>) {
        if let Kind::Txn(txn) = kind {
            self.txns += 1;
            let is_txn = |op: &pb::RequestOp| matches!(op.request, Some(Request::RequestTxn(_)));
            self.nested += u32::from(txn.success.iter().chain(&txn.failure).any(is_txn));
        }
        if let Err(error) = reply {
            *self.errors.entry(error.to_string()).or_default() += 1;
        }
    }
}

/// The events lead from the keys before to the keys after, in order; each says what the key was before the revision.
fn check_events(applied: &Applied, before: &Keys, after: &Keys, seen: &mut Seen) {
    let mut keys = before.clone();
    let changes = match &applied.effects.events {
        Events::None => Vec::new(),
        Events::Changes(changes) => changes.to_vec(),
        Events::TooMany => panic!("so few changes fit"),
    };
    let mut touched = std::collections::BTreeSet::new();
    for (sub, change) in changes.iter().enumerate() {
        assert_eq!(change.sub.0 as usize, sub);
        assert_eq!(change.kv.mod_revision, applied.revision.0);
        let key = &change.kv.key;
        seen.twice += u32::from(!touched.insert(key.clone()));
        match change.kind {
            mvcc::Kind::Put => {
                let created = change.kv.create_revision == change.kv.mod_revision;
                let expected = before.get(key).filter(|_| !created);
                assert_eq!(change.prev.as_ref(), expected, "{key:?}");
                keys.insert(key.clone(), change.kv.clone());
            }
            mvcc::Kind::Delete => {
                assert_eq!(change.prev.as_ref(), before.get(key), "{key:?}");
                keys.remove(key).expect("what is deleted was there");
            }
        }
    }
    assert_eq!(&keys, after);
}

fn check_reads(world: &World, model: &Model, rng: &mut ChaCha8Rng) {
    let view = world.view();
    assert_eq!((view.position.revision.0, view.position.compacted.0), (model.revision, model.compacted));
    let revision = rng.random_range(1..=model.revision);
    for (asked, keys) in [(0, Some(&model.keys)), (revision, model.past.get(&revision))] {
        let query = Query {
            range: all_keys(),
            revision: Revision(asked),
            limit: 0,
            sort: None,
            keys_only: false,
            count_only: false,
            min_mod: Revision(0),
            max_mod: Revision(0),
            min_create: Revision(0),
            max_create: Revision(0),
        };
        let reply = crate::state::range_reply(&view.view, view.position, &query);
        if asked != 0 && asked < model.compacted {
            assert_eq!(reply, Err(Error::Compacted));
        } else {
            let kvs = reply.expect("neither compacted nor to come").kvs;
            assert_eq!(kvs, keys.expect("each revision was kept").values().cloned().collect::<Vec<_>>());
        }
    }
}
