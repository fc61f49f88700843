//! The hub: who watches, and what reaches it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    Create, Frame, HubStats, Inbox, Input, Outbox, StreamId,
    encode::{Encoder, Shape},
    groups::{GroupId, Groups, Member, Wish},
    inbox::Arrival,
    lagging::Past,
    progress,
    ring::Ring,
    stream::{Flow, Stream, Watcher},
};
use crate::{
    error::Error,
    mvcc::{KeyRange, ReadView},
    types::{ClusterId, MemberId, Revision, Term},
};

/// Arrivals dealt with in one step. Enough that taking them costs little beside them, few enough that streams are woken
/// and lagging watchers get their piece about once a millisecond.
const ARRIVALS_PER_STEP: usize = 256;

/// Answers kept for a stream that does not take what it was sent. Its task stops reading requests while the outbox is
/// held, so only what was already under way can come; a client that gets here has its stream closed.
const MAX_HELD_ANSWERS: usize = 1024;

const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const STREAM_FULL: &str = "conclave: too many watchers on one stream";
const MEMBER_FULL: &str = "conclave: too many watchers on this member";

/// What a hub is told at the start.
#[derive(Clone, Debug)]
pub struct HubOptions {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// At least 100 ms, as in etcd.
    pub progress_interval_ms: u64,
    /// Responses that may be fragmented stay below this (etcd: the request limit and 512 KiB).
    pub max_fragment_bytes: usize,
    /// History read in one piece for lagging watchers; a single longer revision is still read whole.
    pub catch_up_bytes: usize,
    /// Newest changes kept in memory.
    pub ring_bytes: usize,
    pub max_watchers_per_stream: usize,
    pub max_watchers: usize,
}

impl HubOptions {
    /// What is right for a member with default flags.
    #[must_use]
    pub fn new(cluster: ClusterId, member: MemberId) -> Self {
        Self {
            cluster,
            member,
            // etcd's default.
            progress_interval_ms: 600_000,
            // etcd's default request limit of 1.5 MiB and its 512 KiB for what is around a request.
            max_fragment_bytes: 2 << 20,
            // About 1,000 changes of 256 B, or 1 ms: synced watchers wait no longer for their events.
            catch_up_bytes: 256 << 10,
            // A second of 20,000 puts of 256 B.
            ring_bytes: 8 << 20,
            // What one client may take of the member's bound, which bounds memory: up to about 600 B for a watcher with a
            // range of its own, so 60 MB.
            max_watchers_per_stream: 10_000,
            max_watchers: 100_000,
        }
    }
}

/// Owns all watchers and decides who is told what. A plain value: a thread, or a simulator, steps it.
#[derive(Debug)]
pub struct Hub {
    pub(super) options: HubOptions,
    pub(super) encoder: Encoder,
    /// The newest revision that reached the hub: synced watchers were told everything up to it.
    pub(super) revision: Revision,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    pub(super) groups: Groups,
    /// Lagging watchers of streams that flow, by what they need next.
    pub(super) behind: BTreeSet<(Revision, StreamId, i64)>,
    /// Watchers that start in the future, by their start.
    pub(super) future: BTreeSet<(Revision, StreamId, i64)>,
    /// Streams by when progress is due.
    pub(super) ticks: BTreeSet<(u64, StreamId)>,
    pub(super) ring: Ring,
    /// Outboxes that got frames and whose tasks are still to be woken.
    pub(super) owed: Vec<Arc<Outbox>>,
    pub(super) stats: Arc<HubStats>,
    /// Room for the groups that a revision concerns, kept between revisions.
    pub(super) touched: Vec<GroupId>,
    arrivals: Vec<Arrival>,
    watchers: usize,
    lagging: usize,
}

impl Hub {
    /// A hub for a store that stands where `view` stands.
    #[must_use]
    pub fn new(options: HubOptions, view: &ReadView) -> Self {
        Self::at(options, view.position.revision)
    }

    /// A hub for a store that has reached `revision`.
    pub(super) fn at(options: HubOptions, revision: Revision) -> Self {
        Self {
            encoder: Encoder::new(options.cluster, options.member, options.max_fragment_bytes),
            revision,
            streams: BTreeMap::new(),
            groups: Groups::default(),
            behind: BTreeSet::new(),
            future: BTreeSet::new(),
            ticks: BTreeSet::new(),
            ring: Ring::new(options.ring_bytes),
            owed: Vec::new(),
            stats: Arc::default(),
            touched: Vec::new(),
            arrivals: Vec::new(),
            watchers: 0,
            lagging: 0,
            options,
        }
    }

    /// Counts for the metrics endpoint.
    #[must_use]
    pub fn stats(&self) -> Arc<HubStats> {
        self.stats.clone()
    }

    /// The Raft term that headers carry from now on.
    pub fn set_term(&mut self, term: Term) {
        self.encoder.set_term(term);
    }

    /// When a step is needed even if nothing arrives, in ms on the clock that `step` is given.
    #[must_use]
    pub fn next_tick_ms(&self) -> Option<u64> {
        self.ticks.first().map(|(due_ms, _)| *due_ms)
    }

    /// Takes what has arrived, acts once, and does one bounded piece of catch-up. True: there is more to do at once.
    ///
    /// `view` must give a view at least as new as everything in the inbox: apply makes its view known before it
    /// publishes. `now_ms` comes from a clock that never goes back.
    pub fn step(&mut self, inbox: &Inbox, view: &dyn Fn() -> Arc<ReadView>, now_ms: u64) -> bool {
        self.step_over(inbox, &|| Past::of(view()), now_ms)
    }

    /// As `step`, over any history.
    pub(super) fn step_over(&mut self, inbox: &Inbox, past: &dyn Fn() -> Past, now_ms: u64) -> bool {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        let mut more = inbox.take(ARRIVALS_PER_STEP, &mut arrivals);
        for arrival in arrivals.drain(..) {
            match arrival {
                Arrival::Changes { revision, changes, bytes } => self.publish(revision, changes, bytes),
                Arrival::Missed { to } => self.miss(to),
                Arrival::Input(input) => self.input(input, now_ms),
            }
        }
        self.arrivals = arrivals;
        more |= self.tick(now_ms);
        // Those who are synced need not wait for the reading below.
        self.wake();
        if !self.behind.is_empty() {
            self.catch_up(past);
            self.wake();
        }
        if self.watchers == 0 {
            self.ring.clear();
            inbox.set_idle();
        }
        self.stats.set(self.streams.len(), self.watchers, self.lagging);
        more || !self.behind.is_empty()
    }

    fn input(&mut self, input: Input, now_ms: u64) {
        match input {
            Input::Open { stream, outbox } => self.open(stream, outbox, now_ms),
            Input::Create { stream, create } => self.create(stream, create),
            Input::Refuse { stream, reason } => self.refuse(stream, &reason),
            Input::Cancel { stream, watch_id } => self.cancel(stream, watch_id),
            Input::Progress { stream } => self.progress_all(stream),
            Input::Drained { stream } => self.drained(stream),
            Input::Close { stream } => self.close(stream),
        }
    }

    fn open(&mut self, id: StreamId, outbox: Arc<Outbox>, now_ms: u64) {
        let stream = Stream::new(outbox, now_ms, progress::period_ms(self.options.progress_interval_ms, id));
        self.ticks.insert((stream.due_ms, id));
        assert!(self.streams.insert(id, stream).is_none(), "the inbox numbers streams, each opens once");
    }

    /// Refusals come in etcd's order, so that a request that is wrong twice gets etcd's answer.
    fn create(&mut self, id: StreamId, create: Create) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if create.start.0 < 0 {
            return self.refuse(id, Error::Compacted.text());
        }
        if matches!(&create.range, KeyRange::Between { from, to } if from >= to) {
            return self.refuse(id, EMPTY_RANGE);
        }
        if self.watchers >= self.options.max_watchers {
            return self.refuse(id, MEMBER_FULL);
        }
        if stream.watchers.len() >= self.options.max_watchers_per_stream {
            return self.refuse(id, STREAM_FULL);
        }
        let Some(watch_id) = stream.choose_id(create.watch_id) else {
            return self.refuse(id, DUPLICATE_ID);
        };
        // The answer first: nothing may come for a watcher that its client does not know yet.
        self.answer(id, Frame { watch_id, body: self.encoder.created(self.revision) });
        let Some(stream) = self.streams.get_mut(&id) else { return };
        self.watchers += 1;
        if create.progress_notify {
            stream.notify.insert(watch_id);
        }
        let group = self.groups.join(Wish {
            range: create.range,
            no_put: create.no_put,
            no_delete: create.no_delete,
            shape: Shape { prev_kv: create.prev_kv, fragment: create.fragment },
        });
        if create.start > self.revision {
            stream.watchers.insert(watch_id, Watcher::Future { group, start: create.start });
            stream.future += 1;
            self.future.insert((create.start, id, watch_id));
        } else if create.start.0 == 0 {
            stream.watchers.insert(watch_id, Watcher::Synced { group });
            self.groups.sync(group, id, &stream.outbox, Member { watch_id, told: false });
        } else {
            self.lag(id, group, create.start, Member { watch_id, told: false });
        }
    }

    /// The watcher needs what happened from `next` on. It must not be listed anywhere else.
    pub(super) fn lag(&mut self, id: StreamId, group: GroupId, next: Revision, member: Member) {
        debug_assert!(next <= self.revision, "who needs only what is to come does not lag");
        let Member { watch_id, told } = member;
        let stream = self.streams.get_mut(&id).expect("a watcher's stream is open");
        stream.watchers.insert(watch_id, Watcher::Lagging { group, next, told });
        if stream.lagging.insert(watch_id) {
            self.lagging += 1;
        }
        if stream.is_free() {
            self.behind.insert((next, id, watch_id));
        }
    }

    /// The watcher has been told everything up to the hub's revision. It was lagging.
    pub(super) fn settle(&mut self, id: StreamId, group: GroupId, member: Member) {
        let stream = self.streams.get_mut(&id).expect("a watcher's stream is open");
        assert!(stream.lagging.remove(&member.watch_id), "only a lagging watcher settles");
        self.lagging -= 1;
        stream.watchers.insert(member.watch_id, Watcher::Synced { group });
        self.groups.sync(group, id, &stream.outbox, member);
    }

    /// No watcher comes of this request. Clients know such an answer by its id, -1.
    fn refuse(&mut self, stream: StreamId, reason: &str) {
        self.answer(stream, Frame { watch_id: -1, body: self.encoder.refused(self.revision, reason) });
    }

    /// An id that is not in use is passed over in silence, as in etcd.
    fn cancel(&mut self, id: StreamId, watch_id: i64) {
        if self.remove(id, watch_id) {
            self.answer(id, Frame { watch_id, body: self.encoder.canceled(self.revision) });
        }
    }

    /// Forgets a watcher. False: there is none with this id.
    fn remove(&mut self, id: StreamId, watch_id: i64) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        if !stream.watchers.contains_key(&watch_id) {
            return false;
        }
        self.end(id, watch_id);
        let stream = self.streams.get_mut(&id).expect("it was just there");
        stream.watchers.remove(&watch_id);
        self.watchers -= 1;
        true
    }

    /// Takes a watcher off all lists and out of its group; its id stays taken.
    pub(super) fn end(&mut self, id: StreamId, watch_id: i64) {
        let stream = self.streams.get_mut(&id).expect("a watcher's stream is open");
        let watcher = stream.watchers.get_mut(&watch_id).expect("only a known watcher is ended");
        stream.notify.remove(&watch_id);
        let group = match std::mem::replace(watcher, Watcher::Ended) {
            Watcher::Ended => return,
            Watcher::Synced { group } => {
                self.groups.unsync(group, id, watch_id);
                group
            }
            Watcher::Lagging { group, next, .. } => {
                self.behind.remove(&(next, id, watch_id));
                stream.lagging.remove(&watch_id);
                self.lagging -= 1;
                group
            }
            Watcher::Future { group, start } => {
                self.future.remove(&(start, id, watch_id));
                stream.future -= 1;
                group
            }
        };
        self.groups.leave(group);
    }

    fn close(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let ids: Vec<i64> = stream.watchers.keys().copied().collect();
        for watch_id in ids {
            self.remove(id, watch_id);
        }
        let stream = self.streams.remove(&id).expect("it was just there");
        self.ticks.remove(&(stream.due_ms, id));
        // For the case that the hub ends it: the stream's task must hear of it.
        stream.outbox.close();
    }

    /// Sends what must not be lost. While the outbox is held it waits, and goes before anything else.
    pub(super) fn answer(&mut self, id: StreamId, frame: Frame) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match &mut stream.flow {
            Flow::Free => {
                let offered =
                    stream.outbox.offer_all(std::iter::once(frame.watch_id), std::slice::from_ref(&frame.body));
                if offered.owe_wake {
                    self.owed.push(stream.outbox.clone());
                }
                if offered.served == 0 {
                    self.hold(id, VecDeque::from([frame]));
                }
            }
            Flow::Held { back } if back.len() < MAX_HELD_ANSWERS => back.push_back(frame),
            Flow::Held { .. } => self.close(id),
        }
    }

    /// The outbox was full: nothing more goes to this stream until it has drained.
    pub(super) fn hold(&mut self, id: StreamId, back: VecDeque<Frame>) {
        let stream = self.streams.get_mut(&id).expect("only an open stream is offered frames");
        if !stream.is_free() {
            assert!(back.is_empty(), "what waits already would be lost");
            return;
        }
        stream.flow = Flow::Held { back };
        for watch_id in &stream.lagging {
            if let Some(Watcher::Lagging { next, .. }) = stream.watchers.get(watch_id) {
                self.behind.remove(&(*next, id, *watch_id));
            }
        }
    }

    /// The stream took everything: first what waited, then its lagging watchers are served again.
    fn drained(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.outbox.release();
        self.owed.push(stream.outbox.clone());
        let Flow::Held { back } = &mut stream.flow else { return };
        while let Some(frame) = back.front() {
            let offered = stream.outbox.offer_all(std::iter::once(frame.watch_id), std::slice::from_ref(&frame.body));
            if offered.owe_wake {
                self.owed.push(stream.outbox.clone());
            }
            if offered.served == 0 {
                return;
            }
            back.pop_front();
        }
        stream.flow = Flow::Free;
        for watch_id in &stream.lagging {
            if let Some(Watcher::Lagging { next, .. }) = stream.watchers.get(watch_id) {
                self.behind.insert((*next, id, *watch_id));
            }
        }
    }

    pub(super) fn wake(&mut self) {
        for outbox in self.owed.drain(..) {
            outbox.wake();
        }
    }
}
