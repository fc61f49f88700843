//! Draws operations from a seed and from what the replies so far taught.

use bytes::Bytes;
use conclave_proto::etcdserverpb::{
    self as pb,
    range_request::{SortOrder, SortTarget},
    watch_create_request::FilterType,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::keys::Keys;

/// Lease ids come from a small set, so that grants collide and revokes meet what exists.
const LEASES: i64 = 12;
/// Watch streams open at a time.
pub(super) const STREAMS: usize = 3;
/// Watchers of one stream at a time.
pub(super) const WATCHERS: usize = 6;
/// Just above etcd's longest TTL.
const TTL_TOO_LARGE: i64 = 9_000_000_001;
/// etcd's default for `--max-request-bytes`.
const MAX_REQUEST: usize = 1_572_864;
/// What a transport lets through beyond that.
const OVERHEAD: usize = 512 << 10;

/// One step of a script.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Range(pb::RangeRequest),
    RangeStream(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    HashKv(pb::HashKvRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    LeaseKeepAlive(i64),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases,
    ShortLease { ttl: i64, key: Bytes },
    BadClientVersion(pb::PutRequest),
    Watch(WatchOp),
}

/// A step on watch streams.
#[derive(Clone, Debug)]
pub(super) enum WatchOp {
    Create {
        stream: usize,
        request: pb::WatchCreateRequest,
    },
    Cancel {
        stream: usize,
        id: i64,
    },
    /// Ask for progress; unanswered by etcd where a watcher starts in the future or none is there.
    Progress {
        stream: usize,
    },
    Close {
        stream: usize,
    },
    /// Wait until every watcher has seen everything, and compare.
    Settle,
    /// More than 2 MiB of events in one revision.
    Wide {
        fragment: bool,
    },
    /// A lease runs out, and its keys go.
    Expire,
}

/// The source of operations.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) rng: ChaCha8Rng,
    pub(super) keys: Keys,
    /// The store's revision, as the last header said.
    pub(super) revision: i64,
    /// The last compaction that was accepted.
    pub(super) compacted: i64,
    /// Expiries take seconds of wall time each, so there are few.
    expiries: u32,
}

impl Script {
    pub(super) fn new(seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { rng, keys: Keys::new(), revision: 1, compacted: -1, expiries: 2 }
    }

    /// The next operation. `watchers` tells how many watchers each open stream has.
    pub(super) fn next(&mut self, watchers: &[Option<Vec<i64>>; STREAMS]) -> Op {
        match self.rng.random_range(0..10_000) {
            0..2200 => Op::Range(self.range()),
            2200..2900 => Op::RangeStream(self.stream_range()),
            2900..5300 => Op::Put(self.put()),
            5300..6000 => Op::DeleteRange(self.delete_range()),
            6000..8300 => Op::Txn(self.txn()),
            8300..8370 => Op::Compact(self.compact()),
            8370..8450 => Op::HashKv(pb::HashKvRequest { revision: self.read_revision() }),
            8450..9350 => self.lease(),
            9350..9960 => Op::Watch(self.watch(watchers)),
            9960..9972 => Op::BadClientVersion(self.put()),
            9972..9982 => Op::Put(self.huge(MAX_REQUEST + 1000)),
            9982..9992 => Op::Put(self.huge(MAX_REQUEST + OVERHEAD + 1000)),
            _ => Op::Put(self.huge(MAX_REQUEST - 1000)),
        }
    }

    pub(super) fn range(&mut self) -> pb::RangeRequest {
        let key = self.keys.key_or_empty(&mut self.rng);
        let range_end = self.keys.range_end(&mut self.rng, &key);
        let mut r = pb::RangeRequest { key, range_end, revision: self.read_revision(), ..Default::default() };
        if self.rng.random_bool(0.01) {
            (r.key, r.range_end) = (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
        }
        let rng = &mut self.rng;
        if rng.random_bool(0.3) {
            r.limit = [1, 2, 3, 10, 50, 1000, -1][rng.random_range(0..7)];
        }
        if rng.random_bool(0.25) {
            r.sort_order = rng.random_range(0..3);
            r.sort_target = rng.random_range(0..5);
        }
        if rng.random_bool(0.004) {
            r.sort_order = 3;
        }
        if rng.random_bool(0.004) {
            r.sort_target = [5, -1][rng.random_range(0..2)];
        }
        r.serializable = rng.random_bool(0.3);
        r.keys_only = rng.random_bool(0.1);
        r.count_only = rng.random_bool(0.08);
        if rng.random_bool(0.1) {
            let (a, b) = (rng.random_range(0..=self.revision), rng.random_range(0..=self.revision));
            match rng.random_range(0..5) {
                0 => r.min_mod_revision = a,
                1 => r.max_mod_revision = a,
                2 => r.min_create_revision = a,
                3 => r.max_create_revision = a,
                _ => (r.min_mod_revision, r.max_create_revision) = (a.min(b), a.max(b)),
            }
        }
        r
    }

    /// Mostly without the options that a stream refuses. A sort target without an order is not refused by etcd, but each
    /// chunk is sorted for itself and the next one starts behind the last key *of that order*, so that keys come twice or
    /// never: that is not asked for.
    fn stream_range(&mut self) -> pb::RangeRequest {
        let mut r = self.range();
        if r.sort_order() == SortOrder::None {
            r.sort_target = SortTarget::Key.into();
        }
        if self.rng.random_bool(0.2) {
            return r;
        }
        let pb::RangeRequest { key, range_end, limit, revision, serializable, keys_only, count_only, .. } = r;
        pb::RangeRequest { key, range_end, limit, revision, serializable, keys_only, count_only, ..Default::default() }
    }

    /// A revision to read at: mostly the current one, else any, the edges of what is allowed among them.
    fn read_revision(&mut self) -> i64 {
        let oldest = self.compacted.max(1);
        match self.rng.random_range(0..200) {
            0..130 => 0,
            130..180 => self.rng.random_range(oldest..=self.revision.max(oldest)),
            180..188 => self.revision,
            188..193 => self.compacted,
            193..196 => self.compacted - 1,
            196..198 => self.revision + 1,
            198 => self.revision + 1000,
            _ => -1,
        }
    }

    pub(super) fn put(&mut self) -> pb::PutRequest {
        let key = self.keys.key_or_empty(&mut self.rng);
        let mut r = pb::PutRequest { key, value: self.value(), ..Default::default() };
        if self.rng.random_bool(0.25) {
            r.lease = self.lease_id();
        }
        r.prev_kv = self.rng.random_bool(0.3);
        if self.rng.random_bool(0.06) {
            r.ignore_value = true;
            if self.rng.random_bool(0.9) {
                r.value = Bytes::new();
            }
        }
        if self.rng.random_bool(0.06) {
            r.ignore_lease = true;
            if self.rng.random_bool(0.9) {
                r.lease = 0;
            }
        }
        r
    }

    /// One key only, so that the store stays small.
    fn huge(&mut self, size: usize) -> pb::PutRequest {
        pb::PutRequest { key: "huge".into(), value: vec![b'h'; size].into(), ..Default::default() }
    }

    pub(super) fn value(&mut self) -> Bytes {
        let len = match self.rng.random_range(0..100) {
            0..5 => 0,
            5..60 => 1,
            60..98 => self.rng.random_range(1..48),
            _ => self.rng.random_range(48..8192),
        };
        // Few distinct bytes, so that values and comparisons of values meet.
        (0..len).map(|_| self.rng.random_range(b'a'..b'd')).collect()
    }

    pub(super) fn delete_range(&mut self) -> pb::DeleteRangeRequest {
        let key = self.keys.key_or_empty(&mut self.rng);
        let mut range_end = self.keys.range_end(&mut self.rng, &key);
        // A deletion of everything is good now and then; more often there would be nothing left to look at.
        if range_end == b"\0"[..] && self.rng.random_bool(0.9) {
            range_end = Bytes::new();
        }
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.rng.random_bool(0.4) }
    }

    fn compact(&mut self) -> pb::CompactionRequest {
        let oldest = self.compacted.max(0);
        let revision = match self.rng.random_range(0..20) {
            0 => self.revision + 1,
            1 => self.compacted,
            2 => self.compacted - 1,
            3 => self.revision,
            4 => 0,
            // Not far ahead, so that reads at past revisions keep a past.
            _ => self.rng.random_range(oldest..=oldest + (self.revision - oldest).max(0) / 2),
        };
        pb::CompactionRequest { revision, physical: self.rng.random_bool(0.5) }
    }

    pub(super) fn lease_id(&mut self) -> i64 {
        self.rng.random_range(1..=LEASES)
    }

    fn lease(&mut self) -> Op {
        let id = self.lease_id();
        match self.rng.random_range(0..100) {
            0..30 => {
                // Hours apart from each other, so that the order by expiry does not depend on the time of the grant.
                let ttl = if self.rng.random_bool(0.05) { TTL_TOO_LARGE } else { 10_000 * id };
                Op::LeaseGrant(pb::LeaseGrantRequest { ttl, id })
            }
            30..45 => Op::LeaseRevoke(pb::LeaseRevokeRequest { id }),
            45..60 => Op::LeaseKeepAlive(id),
            60..80 => Op::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys: self.rng.random_bool(0.6) }),
            80..93 => Op::LeaseLeases,
            _ => {
                let ttl = [0, 1, 2, 3, -1, -100, 60][self.rng.random_range(0..7)];
                Op::ShortLease { ttl, key: self.keys.key(&mut self.rng) }
            }
        }
    }

    fn watch(&mut self, watchers: &[Option<Vec<i64>>; STREAMS]) -> WatchOp {
        let stream = self.rng.random_range(0..STREAMS);
        let live = watchers[stream].as_deref().unwrap_or_default();
        match self.rng.random_range(0..1000) {
            0..550 if live.len() < WATCHERS => WatchOp::Create { stream, request: self.watch_create(live) },
            0..700 => {
                let known = live.get(self.rng.random_range(0..WATCHERS)).copied();
                WatchOp::Cancel { stream, id: known.unwrap_or(12_345) }
            }
            700..770 => WatchOp::Progress { stream },
            770..790 => WatchOp::Close { stream },
            790..796 => WatchOp::Wide { fragment: true },
            796..800 => WatchOp::Wide { fragment: false },
            800..804 if self.expiries > 0 => {
                self.expiries -= 1;
                WatchOp::Expire
            }
            _ => WatchOp::Settle,
        }
    }

    fn watch_create(&mut self, live: &[i64]) -> pb::WatchCreateRequest {
        let key = if self.rng.random_bool(0.03) { Bytes::new() } else { self.keys.key(&mut self.rng) };
        let range_end = self.keys.range_end(&mut self.rng, &key);
        let mut r = pb::WatchCreateRequest { key, range_end, ..Default::default() };
        let rng = &mut self.rng;
        let oldest = self.compacted.max(1);
        r.start_revision = match rng.random_range(0..100) {
            0..45 => 0,
            45..80 => rng.random_range(oldest..=self.revision.max(oldest)),
            80..84 => self.compacted.max(1),
            84..88 => self.compacted.max(2) - 1,
            88..92 => self.revision,
            92..95 => self.revision + 1,
            95..98 => self.revision + rng.random_range(2..120),
            _ => -1,
        };
        r.progress_notify = rng.random_bool(0.2);
        r.prev_kv = rng.random_bool(0.4);
        r.fragment = rng.random_bool(0.2);
        match rng.random_range(0..20) {
            0..2 => r.filters.push(FilterType::Noput.into()),
            2..4 => r.filters.push(FilterType::Nodelete.into()),
            4 => {
                r.filters.extend([i32::from(FilterType::Noput), FilterType::Nodelete.into()]);
                // Nothing will ever show how far it is, so it must not have to catch up.
                r.start_revision = 0;
            }
            _ => {}
        }
        r.watch_id = match rng.random_range(0..20) {
            0 => live.first().copied().unwrap_or(3),
            1..4 => rng.random_range(1..10),
            _ => 0,
        };
        r
    }
}
