//! Watch streams on both servers at once.
//!
//! When an event arrives is a matter of timing; which events a watcher gets, and in which order, is not. So events are
//! collected per watcher, and compared when both sides are *settled*: every watcher's first key is put and deleted, and
//! both sides are read until each watcher has seen that. Watchers are settled before a compaction (which decides what a
//! lagging watcher still gets) and before a cancel (after which events may or may not come).
//!
//! Each stream has a connection of its own, which is read only when something is awaited: between two settlings the
//! servers run into flow control, as they would with a slow client.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use conclave_proto::{
    etcdserverpb::{self as pb, watch_create_request::FilterType, watch_request::RequestUnion},
    mvccpb,
};
use tokio::sync::mpsc;

use super::{
    call::{Reply, neutral},
    run::{Difference, Pair},
    script::{Op, STREAMS, WATCHERS, WatchOp},
};
use crate::client::{Client, WatchResponses, in_time};

/// Values of [`WatchOp::Wide`]: six of them pass the 2 MiB above which a response is cut into fragments.
const WIDE_VALUE: usize = 450 << 10;
const WIDE_KEYS: usize = 6;
/// Not one of the script's lease ids.
const EXPIRING: i64 = 100;

/// What one watcher has been sent by one server.
#[derive(Debug, Default)]
struct Log {
    request: pb::WatchCreateRequest,
    events: Vec<mvccpb::Event>,
    /// Mod revision of the last event.
    last: i64,
    /// The last response was a fragment with more to come.
    open_fragment: bool,
    /// All events up to here were said to have been sent.
    progress: i64,
    canceled: Option<pb::WatchResponse>,
}

/// One server's end of a stream.
#[derive(Debug)]
struct Side {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: WatchResponses,
    logs: BTreeMap<i64, Log>,
    /// The request whose answer is awaited: a server answers creations in order.
    creating: Option<pb::WatchCreateRequest>,
    created: Vec<pb::WatchResponse>,
    progress: Vec<pb::WatchResponse>,
    counts: BTreeMap<&'static str, u64>,
}

impl Side {
    async fn open(url: &str) -> Result<Self> {
        let (requests, responses) = Client::connect(url).await?.watch_stream();
        Ok(Self {
            requests,
            responses,
            logs: BTreeMap::new(),
            creating: None,
            created: Vec::new(),
            progress: Vec::new(),
            counts: BTreeMap::new(),
        })
    }

    async fn send(&mut self, request: RequestUnion) -> Result<()> {
        if let RequestUnion::CreateRequest(create) = &request {
            self.creating = Some(create.clone());
        }
        let request = pb::WatchRequest { request_union: Some(request) };
        in_time("room for a watch request", self.requests.send(request)).await??;
        Ok(())
    }

    /// Reads until the condition holds.
    async fn read_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        while !done(self) {
            let response = in_time(what, self.responses.message()).await??;
            let Some(response) = response else { bail!("the stream ended while {what} was awaited") };
            self.take(response)?;
        }
        Ok(())
    }

    fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    fn take(&mut self, mut response: pb::WatchResponse) -> Result<()> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        neutral(&mut response.header);
        if response.created {
            let request = self.creating.take();
            ensure!(request.is_some(), "a watcher was created that nobody asked for: {response:?}");
            if !response.canceled {
                let log = Log { request: request.unwrap_or_default(), ..Log::default() };
                self.logs.insert(response.watch_id, log);
            }
            self.created.push(response);
        } else if response.canceled {
            let Some(log) = self.logs.get_mut(&response.watch_id) else { bail!("cancel of no watcher: {response:?}") };
            ensure!(log.canceled.is_none(), "canceled twice: {response:?}");
            log.canceled = Some(response);
        } else if response.events.is_empty() {
            self.take_progress(response, revision)?;
        } else {
            self.take_events(response, revision)?;
        }
        Ok(())
    }

    fn take_progress(&mut self, response: pb::WatchResponse, revision: i64) -> Result<()> {
        if response.watch_id == -1 {
            self.progress.push(response);
            return Ok(());
        }
        let Some(log) = self.logs.get_mut(&response.watch_id) else { bail!("progress of no watcher: {response:?}") };
        ensure!(log.request.progress_notify, "progress that nobody asked for: {response:?}");
        ensure!(revision >= log.last, "progress below an event that was sent: {response:?}");
        ensure!(revision >= log.request.start_revision, "progress before the watcher's start: {response:?}");
        log.progress = revision;
        self.count("watch.progress_notify");
        Ok(())
    }

    fn take_events(&mut self, response: pb::WatchResponse, revision: i64) -> Result<()> {
        let id = response.watch_id;
        let Some(log) = self.logs.get_mut(&id) else { bail!("events of no watcher: {response:?}") };
        ensure!(log.canceled.is_none(), "events after a cancel: {response:?}");
        ensure!(log.request.fragment || !response.fragment, "a fragment that nobody asked for (watch {id})");
        let mods = || response.events.iter().map(|e| e.kv.as_ref().map_or(0, |kv| kv.mod_revision));
        ensure!(
            mods().is_sorted(),
            "events out of order in a response of watch {id}: {:?}",
            mods().collect::<Vec<_>>()
        );
        let (first, last) = (mods().next().unwrap_or(0), mods().next_back().unwrap_or(0));
        let split = first == log.last && log.open_fragment;
        ensure!(first > log.last || split, "watch {id} was sent {first} after {}, not as a fragment", log.last);
        ensure!(first > log.progress, "watch {id} was sent {first} after progress at {}", log.progress);
        ensure!(first >= log.request.start_revision, "watch {id} was sent {first}, before its start");
        ensure!(last <= revision, "a header below its events: {revision} < {last} (watch {id})");
        log.last = last;
        log.open_fragment = response.fragment;
        log.events.extend(response.events);
        if response.fragment {
            self.count("watch.fragment");
        }
        Ok(())
    }
}

/// One stream on both servers.
#[derive(Debug)]
struct Stream {
    sides: [Side; 2],
    live: BTreeMap<i64, pb::WatchCreateRequest>,
    /// Watchers that a compaction canceled. etcd lets them hold back every later progress answer of their stream.
    compacted: BTreeSet<i64>,
}

impl Stream {
    async fn open(pair: &Pair) -> Result<Self> {
        let sides = [Side::open(&pair.urls[0]).await?, Side::open(&pair.urls[1]).await?];
        Ok(Self { sides, live: BTreeMap::new(), compacted: BTreeSet::new() })
    }

    async fn send(&mut self, request: RequestUnion) -> Result<()> {
        for side in &mut self.sides {
            side.send(request.clone()).await?;
        }
        Ok(())
    }

    async fn read_until(&mut self, what: &str, done: impl Fn(&Side) -> bool) -> Result<()> {
        let [a, b] = &mut self.sides;
        a.read_until(what, &done).await.map_err(|e| e.context("first server"))?;
        b.read_until(what, &done).await.map_err(|e| e.context("second server"))
    }

    async fn create(&mut self, pair: &mut Pair, request: pb::WatchCreateRequest) -> Result<Option<i64>> {
        pair.note(format!("watch create {request:?}"));
        let answers = self.sides[0].created.len() + 1;
        self.send(RequestUnion::CreateRequest(request.clone())).await?;
        self.read_until("created response", |side| side.created.len() >= answers).await?;
        let [a, mut b] = [0, 1].map(|side| self.sides[side].created[answers - 1].clone());
        pair.planted.control(&mut b);
        Difference::check("watch created", &a, &b)?;
        pair.coverage.watch_created(&request, &a, pair.revision);
        if a.canceled {
            return Ok(None);
        }
        self.live.insert(a.watch_id, request);
        Ok(Some(a.watch_id))
    }

    /// Reads until each watcher has met its key's put or delete at the given revisions, and compares what all got.
    async fn settle(&mut self, pair: &mut Pair, markers: &BTreeMap<Bytes, (i64, i64)>) -> Result<()> {
        let targets = self.live.iter().filter_map(|(id, request)| Some((*id, target(request, markers)?)));
        let targets = targets.collect::<Vec<_>>();
        let seen = |side: &Side| {
            targets.iter().all(|(id, target)| {
                let log = &side.logs[id];
                log.canceled.is_some() || (log.last >= *target && !log.open_fragment)
            })
        };
        self.read_until("settling", seen).await?;
        for (id, request) in std::mem::take(&mut self.live) {
            let [a, b] = &mut self.sides;
            let (a, b) = (log_of(a, id), log_of(b, id));
            let (events, mut others) = (std::mem::take(&mut a.events), std::mem::take(&mut b.events));
            pair.planted.events(&mut others);
            pair.coverage.events(&events);
            Difference::check_events(id, &request, &events, &others)?;
            let mut canceled = [a.canceled.clone(), b.canceled.clone()];
            for canceled in canceled.iter_mut().flatten() {
                // The revision at which a server noticed is a matter of timing.
                canceled.header = None;
            }
            Difference::check("watch canceled", &canceled[0], &canceled[1])?;
            if let [Some(canceled), _] = &canceled {
                pair.coverage.watch_canceled(canceled);
                self.compacted.insert(id);
            } else {
                self.live.insert(id, request);
            }
        }
        self.collect_counts(pair);
        self.progress(pair).await
    }

    /// Once all are settled, progress is answered at once, by the current revision.
    async fn progress(&mut self, pair: &mut Pair) -> Result<()> {
        let answered = !self.live.is_empty() && self.live.values().all(|r| r.start_revision <= pair.revision);
        if !answered || !self.compacted.is_empty() {
            return Ok(());
        }
        let answers = self.sides[0].progress.len() + 1;
        self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await?;
        self.read_until("progress", |side| side.progress.len() >= answers).await?;
        Difference::check("watch progress", &self.sides[0].progress, &self.sides[1].progress)?;
        pair.coverage.count("watch.progress");
        Ok(())
    }

    async fn cancel(&mut self, pair: &mut Pair, id: i64) -> Result<()> {
        if self.compacted.contains(&id) {
            // etcd acknowledges a second time what it has canceled itself: no client asks for that.
            return Ok(());
        }
        pair.note(format!("watch cancel {id}"));
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id })).await?;
        if self.live.remove(&id).is_none() {
            pair.coverage.count("watch.cancel_unknown");
            return Ok(());
        }
        self.read_until("cancel", |side| side.logs[&id].canceled.is_some()).await?;
        let [a, b] = &mut self.sides;
        let [a, mut b] = [a, b].map(|side| side.logs.remove(&id).expect("it was just read").canceled);
        if let Some(b) = &mut b {
            pair.planted.control(b);
        }
        Difference::check("watch cancel", &a, &b)?;
        pair.coverage.count("watch.cancel");
        Ok(())
    }

    fn collect_counts(&mut self, pair: &mut Pair) {
        for side in &mut self.sides {
            for (name, count) in std::mem::take(&mut side.counts) {
                pair.coverage.add(name, count);
            }
        }
    }
}

fn log_of(side: &mut Side, id: i64) -> &mut Log {
    side.logs.get_mut(&id).expect("both servers created it: that was compared")
}

/// The last event that settling makes for this watcher; none if it is never sent any.
fn target(request: &pb::WatchCreateRequest, markers: &BTreeMap<Bytes, (i64, i64)>) -> Option<i64> {
    let hides = |filter: FilterType| request.filters.contains(&filter.into());
    let mine = markers.iter().filter(|(key, _)| contains(request, key)).map(|(_, revisions)| revisions);
    let target = match (hides(FilterType::Noput), hides(FilterType::Nodelete)) {
        (true, true) => return None,
        (_, false) => mine.map(|(_, delete)| *delete).max()?,
        (false, true) => mine.map(|(put, _)| *put).max()?,
    };
    (request.start_revision <= target).then_some(target)
}

fn contains(request: &pb::WatchCreateRequest, key: &Bytes) -> bool {
    let start = marker(request);
    match &request.range_end[..] {
        b"" => *key == start,
        b"\0" => *key >= start,
        end => *key >= start && key[..] < *end,
    }
}

/// A key in the watcher's range.
fn marker(request: &pb::WatchCreateRequest) -> Bytes {
    if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key.clone() }
}

/// All streams of a run.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: [Option<Stream>; STREAMS],
}

impl Streams {
    /// The watchers of each stream, for the script.
    pub(super) fn watchers(&self) -> [Option<Vec<i64>>; STREAMS] {
        std::array::from_fn(|n| self.open[n].as_ref().map(|stream| stream.live.keys().copied().collect()))
    }

    pub(super) async fn step(&mut self, pair: &mut Pair, op: &WatchOp) -> Result<()> {
        match op {
            WatchOp::Create { stream, request } => {
                self.stream(pair, *stream).await?.create(pair, request.clone()).await?;
                Ok(())
            }
            WatchOp::Cancel { stream, id } => {
                self.settle(pair).await?;
                self.stream(pair, *stream).await?.cancel(pair, *id).await
            }
            WatchOp::Progress { stream } => self.unanswered_progress(pair, *stream).await,
            WatchOp::Close { stream } => {
                pair.note(format!("watch stream {stream} closed"));
                self.open[*stream] = None;
                pair.coverage.count("watch.close");
                Ok(())
            }
            WatchOp::Settle => self.settle(pair).await,
            WatchOp::Wide { fragment } => wide(pair, *fragment).await,
            WatchOp::Expire => expire(pair).await,
        }
    }

    async fn stream(&mut self, pair: &Pair, n: usize) -> Result<&mut Stream> {
        if self.open[n].is_none() {
            self.open[n] = Some(Stream::open(pair).await?);
        }
        Ok(self.open[n].as_mut().expect("just opened"))
    }

    /// Puts and deletes a key of every watcher, then settles every stream.
    pub(super) async fn settle(&mut self, pair: &mut Pair) -> Result<()> {
        let watchers = self.open.iter().flatten().flat_map(|stream| stream.live.values());
        let keys = watchers.map(marker).collect::<BTreeSet<_>>();
        let mut markers = BTreeMap::new();
        for key in keys {
            let put = pb::PutRequest { key: key.clone(), value: "marker".into(), ..Default::default() };
            pair.call(&Op::Put(put)).await?;
            let put = pair.revision;
            pair.call(&Op::DeleteRange(pb::DeleteRangeRequest { key: key.clone(), ..Default::default() })).await?;
            markers.insert(key, (put, pair.revision));
        }
        for stream in self.open.iter_mut().flatten() {
            stream.settle(pair, &markers).await?;
        }
        pair.coverage.count("watch.settle");
        Ok(())
    }

    /// Asks where etcd does not answer: without a watcher, or with one that starts in the future. An answer would show as
    /// one progress response too many at the next settling.
    async fn unanswered_progress(&mut self, pair: &mut Pair, n: usize) -> Result<()> {
        let revision = pair.revision;
        let stream = self.stream(pair, n).await?;
        if !stream.live.is_empty() && stream.live.len() < WATCHERS {
            let key = Bytes::from_static(b"k/001");
            let later = pb::WatchCreateRequest { key, start_revision: revision + 50, ..Default::default() };
            stream.create(pair, later).await?;
        }
        let future = stream.live.values().any(|r| r.start_revision > revision + 1);
        if stream.live.is_empty() || future {
            pair.coverage.count(if future { "watch.progress_future" } else { "watch.progress_empty" });
            stream.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await?;
            // The request must have been looked at before the watcher's start comes: a cancel of nobody and a creation
            // are handled after it.
            let probe = pb::WatchCreateRequest { key: "fence".into(), watch_id: 77, ..Default::default() };
            stream.create(pair, probe).await?;
            stream.cancel(pair, 77).await?;
        }
        Ok(())
    }
}

/// More than one response's worth of events in a single revision, on a stream of its own.
async fn wide(pair: &mut Pair, fragment: bool) -> Result<()> {
    let mut stream = Stream::open(pair).await?;
    let request = pb::WatchCreateRequest {
        key: "w/".into(),
        range_end: "w0".into(),
        prev_kv: true,
        fragment,
        ..Default::default()
    };
    let Some(id) = stream.create(pair, request.clone()).await? else { bail!("a plain watch was refused") };
    for n in 0..WIDE_KEYS {
        let value = Bytes::from(vec![b'a' + u8::try_from(n).expect("few keys"); WIDE_VALUE]);
        pair.call(&Op::Put(pb::PutRequest { key: format!("w/{n}").into(), value, ..Default::default() })).await?;
    }
    let all = pb::DeleteRangeRequest { key: "w/".into(), range_end: "w0".into(), prev_kv: false };
    pair.call(&Op::DeleteRange(all)).await?;
    stream.read_until("wide events", |side| side.logs[&id].events.len() >= 2 * WIDE_KEYS).await?;
    let [a, b] = &stream.sides;
    Difference::check_events(id, &request, &a.logs[&id].events, &b.logs[&id].events)?;
    let fragments = [a, b].map(|side| side.counts.contains_key("watch.fragment"));
    Difference::check("events in fragments", &fragments[0], &fragments[1])?;
    stream.collect_counts(pair);
    pair.coverage.count(if fragment { "watch.wide_fragment" } else { "watch.wide_whole" });
    Ok(())
}

/// A lease that nobody renews: its keys go in one revision, and only its keys.
async fn expire(pair: &mut Pair) -> Result<()> {
    let mut stream = Stream::open(pair).await?;
    let request = pb::WatchCreateRequest { key: "e/".into(), range_end: "e0".into(), ..Default::default() };
    let Some(id) = stream.create(pair, request.clone()).await? else { bail!("a plain watch was refused") };
    let grant = pair.call(&Op::LeaseGrant(pb::LeaseGrantRequest { ttl: 1, id: EXPIRING })).await?;
    ensure!(matches!(grant, Reply::LeaseGrant(_)), "the lease was not granted: {grant:?}");
    for n in 0..3 {
        let key = Bytes::from(format!("e/{n}"));
        let put = pb::PutRequest { key, value: "gone soon".into(), lease: EXPIRING, ..Default::default() };
        pair.call(&Op::Put(put)).await?;
    }
    stream.read_until("the end of a lease", |side| side.logs[&id].events.len() >= 6).await?;
    let [a, b] = &stream.sides;
    Difference::check_events(id, &request, &a.logs[&id].events, &b.logs[&id].events)?;
    pair.call(&Op::LeaseLeases).await?;
    pair.call(&Op::Range(pb::RangeRequest { key: "e/".into(), range_end: "e0".into(), ..Default::default() })).await?;
    pair.coverage.count("lease.expired");
    Ok(())
}
