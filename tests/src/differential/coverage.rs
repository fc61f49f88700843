//! How often each option, error text and shape occurred. What [`REQUIRED`] lists and a run never met is a failure: a
//! script that stopped to ask a question would otherwise look like a server that answers it well.

use std::collections::BTreeMap;

use conclave_proto::{
    etcdserverpb::{
        self as pb,
        compare::{CompareResult, CompareTarget},
        request_op::Request,
        watch_create_request::FilterType,
    },
    mvccpb,
};

use super::{call::Reply, script::Op};

/// Everything that a run must have met.
const REQUIRED: &[&str] = &[
    // Range and RangeStream, each with each option.
    "range",
    "range.one_key",
    "range.from_key",
    "range.all",
    "range.inverted",
    "range.end",
    "range.limit",
    "range.negative_limit",
    "range.more",
    "range.past",
    "range.at_compacted",
    "range.negative_revision",
    "range.serializable",
    "range.keys_only",
    "range.count_only",
    "range.min_mod",
    "range.max_mod",
    "range.min_create",
    "range.max_create",
    "range.found",
    "range.found_none",
    "range.found_leased",
    "sort.NONE.KEY",
    "sort.NONE.VERSION",
    "sort.NONE.CREATE",
    "sort.NONE.MOD",
    "sort.NONE.VALUE",
    "sort.ASCEND.KEY",
    "sort.ASCEND.VERSION",
    "sort.ASCEND.CREATE",
    "sort.ASCEND.MOD",
    "sort.ASCEND.VALUE",
    "sort.DESCEND.KEY",
    "sort.DESCEND.VERSION",
    "sort.DESCEND.CREATE",
    "sort.DESCEND.MOD",
    "sort.DESCEND.VALUE",
    "range_stream",
    "range_stream.found",
    "range_stream.more",
    "range_stream.past",
    "range_stream.count_only",
    "range_stream.keys_only",
    "range_stream.many",
    // Put and DeleteRange.
    "put",
    "put.prev_kv",
    "put.prev_kv_found",
    "put.lease",
    "put.ignore_value",
    "put.ignore_lease",
    "put.empty_value",
    "put.large",
    "delete",
    "delete.prev_kv",
    "delete.range",
    "delete.none",
    "delete.many",
    "delete.everything",
    // Txn: shapes, operations, comparisons.
    "txn",
    "txn.depth1",
    "txn.depth2",
    "txn.depth3",
    "txn.empty",
    "txn.read_only",
    "txn.succeeded",
    "txn.failed",
    "txn.op.range",
    "txn.op.put",
    "txn.op.delete_range",
    "txn.op.txn",
    "txn.op.none",
    "txn.full",
    "compare.range",
    "compare.unknown",
    "compare.no_value",
    "compare.VERSION.EQUAL",
    "compare.VERSION.GREATER",
    "compare.VERSION.LESS",
    "compare.VERSION.NOT_EQUAL",
    "compare.CREATE.EQUAL",
    "compare.CREATE.GREATER",
    "compare.CREATE.LESS",
    "compare.CREATE.NOT_EQUAL",
    "compare.MOD.EQUAL",
    "compare.MOD.GREATER",
    "compare.MOD.LESS",
    "compare.MOD.NOT_EQUAL",
    "compare.VALUE.EQUAL",
    "compare.VALUE.GREATER",
    "compare.VALUE.LESS",
    "compare.VALUE.NOT_EQUAL",
    "compare.LEASE.EQUAL",
    "compare.LEASE.GREATER",
    "compare.LEASE.LESS",
    "compare.LEASE.NOT_EQUAL",
    // Compact, HashKV, leases.
    "compact",
    "compact.physical",
    "hash_kv",
    "hash_kv.current",
    "hash_kv.past",
    "lease.grant",
    "lease.revoke",
    "lease.keep_alive",
    "lease.keep_alive_missing",
    "lease.time_to_live",
    "lease.time_to_live_missing",
    "lease.time_to_live_keys",
    "lease.leases_some",
    "lease.short",
    "lease.expired",
    // Watch.
    "watch.now",
    "watch.history",
    "watch.future",
    "watch.one_key",
    "watch.range",
    "watch.from_key",
    "watch.empty_key",
    "watch.NOPUT",
    "watch.NODELETE",
    "watch.prev_kv",
    "watch.own_id",
    "watch.cancel",
    "watch.cancel_unknown",
    "watch.close",
    "watch.progress",
    "watch.progress_notify",
    "watch.progress_empty",
    "watch.progress_future",
    "watch.fragment",
    "watch.wide_fragment",
    "watch.wide_whole",
    "watch.event.PUT",
    "watch.event.DELETE",
    "watch.event.create",
    "watch.event.prev_kv",
    "watch.event.many_in_revision",
    "watch.compacted",
    "watch.refused",
    // Errors, by their text.
    "error: etcdserver: key is not provided",
    "error: etcdserver: key not found",
    "error: etcdserver: value is provided",
    "error: etcdserver: lease is provided",
    "error: etcdserver: too many operations in txn request",
    "error: etcdserver: duplicate key given in txn request",
    "error: etcdserver: invalid client api version",
    "error: etcdserver: invalid sort option",
    "error: etcdserver: mvcc: required revision has been compacted",
    "error: etcdserver: mvcc: required revision is a future revision",
    "error: etcdserver: requested lease not found",
    "error: etcdserver: lease already exists",
    "error: etcdserver: too large lease TTL",
    "error: etcdserver: request is too large",
    "error: RangeStream does not support custom sort orders",
    "error: RangeStream does not support revision filters",
    "error: grpc: received message larger than max",
    "watch error: mvcc: duplicate watch ID provided on the WatchStream",
    "watch error: mvcc: watcher range is empty",
    "watch error: etcdserver: mvcc: required revision has been compacted",
];

/// The counts of a run.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    counts: BTreeMap<String, u64>,
}

impl Coverage {
    pub(super) fn add(&mut self, name: &str, times: u64) {
        match self.counts.get_mut(name) {
            Some(count) => *count += times,
            None => drop(self.counts.insert(name.to_owned(), times)),
        }
    }

    pub(super) fn count(&mut self, name: &str) {
        self.add(name, 1);
    }

    fn count_if(&mut self, name: &str, holds: bool) {
        if holds {
            self.count(name);
        }
    }

    /// What was never met.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        REQUIRED.iter().copied().filter(|name| !self.counts.contains_key(*name)).collect()
    }

    pub(super) fn into_counts(self) -> BTreeMap<String, u64> {
        self.counts
    }

    /// Counts an operation that both servers answered alike.
    pub(super) fn call(&mut self, op: &Op, reply: &Reply, compacted: i64) {
        if let (Op::Range(r), Reply::Range(_)) = (op, reply) {
            self.count_if("range.at_compacted", r.revision == compacted);
        }
        if let Reply::Failed { message, .. } = reply {
            // The transport's error names sizes; its first words are enough.
            let text = message.split(" (").next().unwrap_or_default();
            self.count(&format!("error: {text}"));
        }
        match op {
            Op::Range(r) => self.range("range", r, reply),
            Op::RangeStream(r) => self.range("range_stream", r, reply),
            Op::Put(r) => self.put(r, reply),
            Op::DeleteRange(r) => self.delete_range(r, reply),
            Op::Txn(r) => self.txn(r, reply),
            Op::Compact(r) if matches!(reply, Reply::Compact(_)) => {
                self.count("compact");
                self.count_if("compact.physical", r.physical);
            }
            Op::HashKv(r) if matches!(reply, Reply::HashKv(_)) => {
                self.count("hash_kv");
                self.count(if r.revision <= 0 { "hash_kv.current" } else { "hash_kv.past" });
            }
            _ => self.lease(reply),
        }
    }

    fn range(&mut self, name: &str, r: &pb::RangeRequest, reply: &Reply) {
        let Reply::Range(found) = reply else { return };
        self.count(name);
        let end = &r.range_end[..];
        let ends = [
            ("one_key", end.is_empty()),
            ("from_key", end == b"\0"),
            ("all", end == b"\0" && r.key == b"\0"[..]),
            ("inverted", end.len() > 1 && end <= &r.key[..]),
            ("end", end > &r.key[..]),
            ("limit", r.limit > 0),
            ("negative_limit", r.limit < 0),
            ("more", found.more),
            ("past", r.revision > 0),
            ("negative_revision", r.revision < 0),
            ("serializable", r.serializable),
            ("keys_only", r.keys_only),
            ("count_only", r.count_only),
            ("min_mod", r.min_mod_revision > 0),
            ("max_mod", r.max_mod_revision > 0),
            ("min_create", r.min_create_revision > 0),
            ("max_create", r.max_create_revision > 0),
            ("found", !found.kvs.is_empty()),
            ("found_none", found.kvs.is_empty()),
            ("found_leased", found.kvs.iter().any(|kv| kv.lease != 0)),
            ("many", found.kvs.len() > 20),
        ];
        for (option, holds) in ends {
            self.count_if(&format!("{name}.{option}"), holds);
        }
        if name == "range" && found.kvs.len() > 1 {
            self.count(&format!("sort.{}.{}", r.sort_order().as_str_name(), r.sort_target().as_str_name()));
        }
    }

    fn put(&mut self, r: &pb::PutRequest, reply: &Reply) {
        let Reply::Put(done) = reply else { return };
        self.count("put");
        self.count_if("put.prev_kv", r.prev_kv);
        self.count_if("put.prev_kv_found", done.prev_kv.is_some());
        self.count_if("put.lease", r.lease != 0);
        self.count_if("put.ignore_value", r.ignore_value);
        self.count_if("put.ignore_lease", r.ignore_lease);
        self.count_if("put.empty_value", r.value.is_empty() && !r.ignore_value);
        self.count_if("put.large", r.value.len() > 1 << 20);
    }

    fn delete_range(&mut self, r: &pb::DeleteRangeRequest, reply: &Reply) {
        let Reply::DeleteRange(done) = reply else { return };
        self.count("delete");
        self.count_if("delete.prev_kv", r.prev_kv && !done.prev_kvs.is_empty());
        self.count_if("delete.range", !r.range_end.is_empty());
        self.count_if("delete.everything", r.range_end == b"\0"[..]);
        self.count_if("delete.none", done.deleted == 0);
        self.count_if("delete.many", done.deleted > 5);
    }

    fn txn(&mut self, r: &pb::TxnRequest, reply: &Reply) {
        // A transaction with an empty operation is always refused; that is its coverage.
        self.count_if("txn.op.none", r.success.iter().chain(&r.failure).any(|op| op.request.is_none()));
        let Reply::Txn(done) = reply else { return };
        self.count("txn");
        self.count(if done.succeeded { "txn.succeeded" } else { "txn.failed" });
        let depth = depth(r);
        self.count(&format!("txn.depth{depth}"));
        self.count_if("txn.empty", r.success.is_empty() && r.failure.is_empty());
        let reads = |ops: &[pb::RequestOp]| ops.iter().all(|op| matches!(op.request, Some(Request::RequestRange(_))));
        self.count_if("txn.read_only", !r.success.is_empty() && reads(&r.success) && reads(&r.failure));
        self.count_if("txn.full", r.success.len() == 128);
        self.txn_parts(r);
    }

    fn txn_parts(&mut self, r: &pb::TxnRequest) {
        for compare in &r.compare {
            self.compare(compare);
        }
        for op in r.success.iter().chain(&r.failure) {
            match &op.request {
                Some(Request::RequestRange(_)) => self.count("txn.op.range"),
                Some(Request::RequestPut(_)) => self.count("txn.op.put"),
                Some(Request::RequestDeleteRange(_)) => self.count("txn.op.delete_range"),
                Some(Request::RequestTxn(nested)) => {
                    self.count("txn.op.txn");
                    self.txn_parts(nested);
                }
                None => {}
            }
        }
    }

    fn compare(&mut self, c: &pb::Compare) {
        self.count_if("compare.range", !c.range_end.is_empty());
        self.count_if("compare.no_value", c.target_union.is_none());
        match (CompareTarget::try_from(c.target), CompareResult::try_from(c.result)) {
            (Ok(target), Ok(result)) => {
                self.count(&format!("compare.{}.{}", target.as_str_name(), result.as_str_name()));
            }
            _ => self.count("compare.unknown"),
        }
    }

    fn lease(&mut self, reply: &Reply) {
        match reply {
            Reply::LeaseGrant(_) => self.count("lease.grant"),
            Reply::LeaseRevoke(_) => self.count("lease.revoke"),
            Reply::LeaseKeepAlive(r) => {
                self.count(if r.ttl > 0 { "lease.keep_alive" } else { "lease.keep_alive_missing" });
            }
            Reply::LeaseTimeToLive(r) => {
                self.count(if r.ttl > 0 { "lease.time_to_live" } else { "lease.time_to_live_missing" });
                self.count_if("lease.time_to_live_keys", !r.keys.is_empty());
            }
            Reply::LeaseLeases(r) => self.count_if("lease.leases_some", r.leases.len() > 1),
            Reply::Steps(_) => self.count("lease.short"),
            _ => {}
        }
    }

    pub(super) fn watch_created(&mut self, r: &pb::WatchCreateRequest, created: &pb::WatchResponse, revision: i64) {
        if created.canceled {
            self.count("watch.refused");
            self.count(&format!("watch error: {}", created.cancel_reason));
            return;
        }
        let hides = |filter: FilterType| r.filters.contains(&filter.into());
        let options = [
            ("watch.now", r.start_revision == 0),
            ("watch.history", r.start_revision > 0 && r.start_revision <= revision),
            ("watch.future", r.start_revision > revision + 1),
            ("watch.one_key", r.range_end.is_empty()),
            ("watch.range", r.range_end.len() > 1),
            ("watch.from_key", r.range_end == b"\0"[..]),
            ("watch.empty_key", r.key.is_empty()),
            ("watch.NOPUT", hides(FilterType::Noput)),
            ("watch.NODELETE", hides(FilterType::Nodelete)),
            ("watch.prev_kv", r.prev_kv),
            ("watch.own_id", r.watch_id != 0),
        ];
        for (option, holds) in options {
            self.count_if(option, holds);
        }
    }

    pub(super) fn watch_canceled(&mut self, canceled: &pb::WatchResponse) {
        self.count_if("watch.compacted", canceled.compact_revision > 0);
    }

    pub(super) fn events(&mut self, events: &[mvccpb::Event]) {
        let revision = |event: &mvccpb::Event| event.kv.as_ref().map(|kv| kv.mod_revision);
        for event in events {
            self.count(&format!("watch.event.{}", event.r#type().as_str_name()));
            self.count_if("watch.event.prev_kv", event.prev_kv.is_some());
            let created = event.kv.as_ref().is_some_and(|kv| kv.create_revision == kv.mod_revision);
            self.count_if("watch.event.create", created);
        }
        self.count_if("watch.event.many_in_revision", events.windows(2).any(|w| revision(&w[0]) == revision(&w[1])));
    }
}

fn depth(txn: &pb::TxnRequest) -> usize {
    let nested = txn.success.iter().chain(&txn.failure).filter_map(|op| match &op.request {
        Some(Request::RequestTxn(nested)) => Some(depth(nested)),
        _ => None,
    });
    1 + nested.max().unwrap_or(0)
}
