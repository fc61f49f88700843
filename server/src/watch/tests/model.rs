//! Random clients against a naive model: a watcher is owed every change of its range from its start on, in order, none
//! twice, none missing, whole revisions at a time, whatever fills up, compacts or closes meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use conclave_proto::{etcdserverpb::WatchResponse, mvccpb::event::EventType};
use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::world::{Store, World, decode, options};
use crate::{
    mvcc::{Change, KeyRange, Kind},
    types::Revision,
    watch::{Create, HubOptions, Inbox, Input, Published, StreamId, Taken},
};

/// What a client asked for and was not answered yet. Answers come in the order of questions.
#[derive(Clone, Debug)]
enum Asked {
    Create(Create),
    Refuse,
    Cancel(i64),
}

/// A watcher as its client knows it.
#[derive(Debug)]
struct Known {
    create: Create,
    /// The last event it was told: its revision, and its place among the changes of that revision.
    last: Option<(Revision, usize)>,
    /// Everything below is told or not of its concern.
    from: Revision,
    /// The highest revision that a header carried.
    header: i64,
    ended: bool,
}

#[derive(Debug, Default)]
struct Client {
    asked: VecDeque<Asked>,
    watchers: BTreeMap<i64, Known>,
    /// The watch id whose response is not complete.
    fragment: Option<i64>,
    owes_drained: bool,
}

#[derive(Debug, Default)]
struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

struct Model {
    rng: ChaCha8Rng,
    world: World,
    clients: BTreeMap<StreamId, Client>,
    seen: Seen,
}

const KEYS: [&[u8]; 8] = [b"a", b"aa", b"ab", b"b", b"ba", b"c", b"ca", b"d"];

fn holds(range: &KeyRange, key: &[u8]) -> bool {
    match range {
        KeyRange::One(one) => one == key,
        KeyRange::Between { from, to } => from.as_ref() <= key && key < to.as_ref(),
        KeyRange::From(from) => from.as_ref() <= key,
    }
}

fn concerns(create: &Create, change: &Change) -> bool {
    holds(&create.range, &change.kv.key)
        && match change.kind {
            Kind::Put => !create.no_put,
            Kind::Delete => !create.no_delete,
        }
}

impl Known {
    /// The first change that it is owed at or below `to`.
    fn owed<'s>(&self, store: &'s Store, to: Revision) -> Option<(Revision, usize, &'s Change)> {
        let first = self.last.map_or(self.from, |(revision, _)| revision.max(self.from));
        if first > to {
            return None;
        }
        store.log.range(first..=to).find_map(|(revision, changes)| {
            changes
                .iter()
                .enumerate()
                .find(|(at, change)| {
                    self.last.is_none_or(|last| (*revision, *at) > last) && concerns(&self.create, change)
                })
                .map(|(at, change)| (*revision, at, change))
        })
    }
}

impl Client {
    /// Takes one response apart, and complains about whatever is not as the model has it.
    fn hear(&mut self, response: &WatchResponse, store: &Store, seen: &mut Seen) {
        let header = response.header.as_ref().expect("every response has a header");
        assert_eq!((header.cluster_id, header.member_id, header.raft_term), (7, 8, 3));
        assert!(header.revision <= store.revision.0);
        if let Some(id) = self.fragment {
            assert!(id == response.watch_id && !response.events.is_empty(), "fragments follow each other");
        }
        if response.created {
            self.hear_created(response, seen);
        } else if response.canceled {
            self.hear_canceled(response, store, seen);
        } else if response.events.is_empty() {
            self.hear_progress(response, store, seen);
        } else {
            self.hear_events(response, store, seen);
        }
    }

    fn hear_created(&mut self, response: &WatchResponse, seen: &mut Seen) {
        let revision = Revision(response.header.as_ref().unwrap().revision);
        match self.asked.pop_front().expect("an answer has its question") {
            Asked::Create(create) if !response.canceled => {
                assert!(response.cancel_reason.is_empty());
                let id = response.watch_id;
                assert!(!self.watchers.contains_key(&id), "an id is given once");
                assert!(create.watch_id == 0 || create.watch_id == id);
                assert!(create.start.0 >= 0);
                let from = if create.start.0 == 0 { revision.next() } else { create.start };
                seen.note(if create.start.0 == 0 {
                    "created now"
                } else if create.start > revision {
                    "created in the future"
                } else {
                    "created in the past"
                });
                self.watchers.insert(id, Known { create, last: None, from, header: 0, ended: false });
            }
            Asked::Create(create) => {
                assert_eq!(response.watch_id, -1);
                match response.cancel_reason.as_str() {
                    "etcdserver: mvcc: required revision has been compacted" => assert!(create.start.0 < 0),
                    "mvcc: watcher range is empty" => {
                        assert!(matches!(create.range, KeyRange::Between { from, to } if from >= to));
                    }
                    "mvcc: duplicate watch ID provided on the WatchStream" => {
                        assert!(self.watchers.contains_key(&create.watch_id));
                    }
                    "conclave: too many watchers on one stream" => assert_eq!(self.watchers.len(), 20),
                    "conclave: too many watchers on this member" => {}
                    other => panic!("refused: {other}"),
                }
                seen.note("refused");
            }
            Asked::Refuse => {
                assert!(response.canceled && response.watch_id == -1 && response.cancel_reason == "no");
            }
            Asked::Cancel(id) => panic!("a question to cancel {id} was passed over"),
        }
    }

    fn hear_canceled(&mut self, response: &WatchResponse, store: &Store, seen: &mut Seen) {
        assert!(response.events.is_empty() && response.cancel_reason.is_empty());
        if response.compact_revision == 0 {
            let Some(Asked::Cancel(id)) = self.asked.pop_front() else { panic!("nobody asked to cancel") };
            assert_eq!(id, response.watch_id);
            self.watchers.remove(&id).expect("only a known watcher is canceled");
            return seen.note("canceled");
        }
        let known = self.watchers.get_mut(&response.watch_id).expect("only a known watcher is canceled");
        assert!(!known.ended);
        assert!(response.compact_revision <= store.compacted.0);
        assert_eq!(response.header.as_ref().unwrap().revision, 0);
        // It had not been told all that was compacted: a header at or above would have been a promise.
        assert!(known.create.start.0 < response.compact_revision);
        assert!(known.last.is_none_or(|(revision, _)| revision.0 < response.compact_revision));
        known.ended = true;
        seen.note("ended by compaction");
    }

    fn hear_progress(&mut self, response: &WatchResponse, store: &Store, seen: &mut Seen) {
        let revision = Revision(response.header.as_ref().unwrap().revision);
        let all = response.watch_id == -1;
        let mut spoken_for = 0;
        for (id, known) in &mut self.watchers {
            if known.ended || !(all || *id == response.watch_id) {
                continue;
            }
            spoken_for += 1;
            assert!(known.create.start <= revision, "progress before the start");
            assert!(known.owed(store, revision).is_none(), "progress at {revision} passes an event of {id}");
            assert!(all || known.create.progress_notify);
            // Bookmarkable: from here on nothing at or below may come.
            known.from = known.from.max(revision.next());
        }
        assert!(spoken_for > 0);
        seen.note(if all { "progress asked for" } else { "progress at an interval" });
    }

    fn hear_events(&mut self, response: &WatchResponse, store: &Store, seen: &mut Seen) {
        let header = response.header.as_ref().unwrap().revision;
        let known = self.watchers.get_mut(&response.watch_id).expect("events are for a known watcher");
        assert!(!known.ended && header >= known.header);
        known.header = header;
        let mut revisions = BTreeSet::new();
        for event in &response.events {
            let (revision, at, change) = known.owed(store, Revision(header)).expect("an event that is not owed");
            assert_eq!(event.kv.as_ref(), Some(&change.kv), "watch {} of {:?}", response.watch_id, known.create);
            assert_eq!(event.r#type() == EventType::Delete, change.kind == Kind::Delete);
            match &event.prev_kv {
                Some(_) => {
                    assert!(known.create.prev_kv);
                    let before = if revision > store.compacted { change.prev.as_ref() } else { event.prev_kv.as_ref() };
                    assert_eq!(event.prev_kv.as_ref(), before);
                    seen.note("with what was replaced");
                }
                None => {
                    // A compaction takes what its own revision replaced.
                    assert!(!known.create.prev_kv || change.prev.is_none() || revision <= store.compacted);
                }
            }
            known.last = Some((revision, at));
            revisions.insert(revision);
        }
        if revisions.len() > 1 {
            seen.note("several revisions in one response");
        }
        if response.fragment {
            assert!(known.create.fragment);
            seen.note("fragments");
            self.fragment = Some(response.watch_id);
        } else {
            self.fragment = None;
            let (last, _) = known.last.unwrap();
            assert!(known.owed(store, last).is_none(), "a revision was split");
        }
        seen.note("events");
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let options = HubOptions {
            max_fragment_bytes: *[60, 150, 1 << 20].choose(&mut rng).unwrap(),
            catch_up_bytes: *[1, 100, 1000].choose(&mut rng).unwrap(),
            ring_bytes: *[0, 1000, 5000].choose(&mut rng).unwrap(),
            ..options()
        };
        let inbox = Inbox::new(*[3, 40].choose(&mut rng).unwrap(), *[300, 2000, 20_000].choose(&mut rng).unwrap());
        let world = World::new(options, inbox);
        Self { rng, world, clients: BTreeMap::new(), seen: Seen::default() }
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.rng.random_range(0..100) {
                0..30 => self.write(),
                30..45 => self.ask(),
                45..65 => self.take_one(),
                65..72 => self.pay_drained(),
                72..92 => self.step(),
                92..94 => self.open_or_close(),
                94..97 => self.world.now_ms += self.rng.random_range(0..900),
                97 => self.compact(),
                98 => self.lose(),
                _ => self.world.settle(),
            }
        }
        self.finish();
    }

    fn step(&mut self) {
        let reads = self.world.store.borrow().reads;
        let chunks = self.world.hub.stats().catch_up_chunks();
        self.world.step();
        if self.world.store.borrow().reads > reads {
            self.seen.note("store read");
        } else if self.world.hub.stats().catch_up_chunks() > chunks {
            self.seen.note("ring read");
        }
        if self.world.hub.streams.values().any(|stream| !stream.is_free()) {
            self.seen.note("held");
        }
        assert!(self.world.hub.stats().watchers() <= 50);
    }

    fn write(&mut self) {
        let many = if self.rng.random_bool(0.1) { 8 } else { 2 };
        let mut keys: Vec<&[u8]> = KEYS.to_vec();
        let mut ops: Vec<(&[u8], Option<Vec<u8>>)> = Vec::new();
        for _ in 0..self.rng.random_range(1..=many) {
            let key = keys.swap_remove(self.rng.random_range(0..keys.len()));
            let put = self.rng.random_bool(0.7).then(|| vec![b'v'; self.rng.random_range(0..40)]);
            ops.push((key, put));
        }
        let ops: Vec<(&[u8], Option<&[u8]>)> = ops.iter().map(|(key, put)| (*key, put.as_deref())).collect();
        self.world.write_only(&ops);
        if self.rng.random_bool(0.7) {
            self.world.publish();
        }
    }

    fn lose(&mut self) {
        self.world.publish();
        if self.world.store.borrow_mut().apply(&[(b"a", Some(b"lost"))]).is_some() {
            let revision = self.world.store.borrow().revision;
            self.world.inbox.publish(revision, Published::TooMany);
        }
    }

    fn compact(&mut self) {
        let mut store = self.world.store.borrow_mut();
        let (low, high) = (store.compacted.0.max(1) + 1, store.revision.0);
        if low <= high {
            // Mostly far behind, as in life; sometimes all there is.
            let at = if self.rng.random_bool(0.2) { high } else { self.rng.random_range(low..=low.midpoint(high)) };
            let at = Revision(at);
            // In the middle of a read, if there is one before the next compaction.
            if self.rng.random_bool(0.3) && store.trap.is_none() {
                store.trap = Some(at);
            } else if store.trap.is_none_or(|trap| trap < at) {
                store.trap = None;
                store.compact(at);
            }
        }
    }

    fn open_or_close(&mut self) {
        if self.clients.len() < 4 {
            let bytes = *[1, 200, 600, 3000].choose(&mut self.rng).unwrap();
            let stream = self.world.inbox.next_stream();
            let outbox = crate::watch::Outbox::new(bytes);
            if self.world.inbox.send(Input::Open { stream, outbox: outbox.clone() }) {
                self.world.outboxes.insert(stream, outbox);
                self.clients.insert(stream, Client::default());
            } else {
                self.seen.note("inbox full");
            }
        } else if self.rng.random_bool(0.2) {
            let stream = self.pick().unwrap();
            assert!(self.world.inbox.send(Input::Close { stream }));
            self.clients.remove(&stream);
        }
    }

    fn pick(&mut self) -> Option<StreamId> {
        let ids: Vec<StreamId> = self.clients.keys().copied().collect();
        ids.choose(&mut self.rng).copied()
    }

    fn ask(&mut self) {
        let Some(stream) = self.pick() else { return };
        let watching: Vec<i64> = self.clients[&stream].watchers.keys().copied().collect();
        let (input, asked) = match self.rng.random_range(0..10) {
            0..6 => {
                let create = self.wish();
                (Input::Create { stream, create: create.clone() }, Some(Asked::Create(create)))
            }
            6 => (Input::Refuse { stream, reason: "no".into() }, Some(Asked::Refuse)),
            7 => {
                let Some(&watch_id) = watching.choose(&mut self.rng) else { return };
                // A second question to cancel the same one would be passed over.
                let asked = &self.clients[&stream].asked;
                if asked.iter().any(|asked| matches!(asked, Asked::Cancel(id) if *id == watch_id)) {
                    return;
                }
                (Input::Cancel { stream, watch_id }, Some(Asked::Cancel(watch_id)))
            }
            _ => (Input::Progress { stream }, None),
        };
        // As the api: no requests are read while the outbox is held.
        if self.world.outboxes[&stream].is_held() {
            return;
        }
        if self.world.inbox.send(input) {
            self.clients.get_mut(&stream).unwrap().asked.extend(asked);
        } else {
            self.seen.note("inbox full");
        }
    }

    fn wish(&mut self) -> Create {
        let mut key = || Bytes::from_static(KEYS.choose(&mut self.rng).unwrap());
        let (from, to) = (key(), key());
        let range = match self.rng.random_range(0..10) {
            0..4 => KeyRange::One(from),
            4..8 => KeyRange::Between { from: from.clone().min(to.clone()), to: from.max(to) },
            8 => KeyRange::Between { from, to },
            _ => KeyRange::From(from),
        };
        let revision = self.world.store.borrow().revision.0;
        let start = match self.rng.random_range(0..10) {
            0..3 => 0,
            3..8 => self.rng.random_range(1..=revision),
            8 => revision + self.rng.random_range(1..30),
            _ => [revision + 1, -1][usize::from(self.rng.random_bool(0.2))],
        };
        let watch_id = if self.rng.random_bool(0.7) { 0 } else { self.rng.random_range(1..10) };
        let rng = &mut self.rng;
        Create {
            watch_id,
            range,
            start: Revision(start),
            progress_notify: rng.random_bool(0.5),
            no_put: rng.random_bool(0.15),
            no_delete: rng.random_bool(0.15),
            prev_kv: rng.random_bool(0.4),
            fragment: rng.random_bool(0.4),
        }
    }

    fn take_one(&mut self) {
        if let Some(stream) = self.pick() {
            self.take(stream);
        }
    }

    /// False: there was nothing.
    fn take(&mut self, stream: StreamId) -> bool {
        let Some((frames, taken)) = self.world.take(stream) else { return false };
        let client = self.clients.get_mut(&stream).unwrap();
        let store = self.world.store.borrow();
        for frame in &frames {
            client.hear(&decode(frame), &store, &mut self.seen);
        }
        match taken {
            Taken::All => {}
            Taken::AllSendDrained => client.owes_drained = true,
            Taken::Closed => panic!("a client that reads its answers is not cut off"),
        }
        true
    }

    fn pay_drained(&mut self) {
        for (&stream, client) in &mut self.clients {
            if std::mem::take(&mut client.owes_drained) {
                assert!(self.world.inbox.send(Input::Drained { stream }));
            }
        }
    }

    /// Everyone takes everything: then nothing may be owed, and everyone that lives is synced.
    fn finish(&mut self) {
        self.world.store.borrow_mut().trap = None;
        self.world.publish();
        for _ in 0..100_000 {
            self.pay_drained();
            self.world.settle();
            let streams: Vec<StreamId> = self.clients.keys().copied().collect();
            let mut quiet = true;
            for stream in streams {
                quiet &= !self.take(stream);
            }
            if quiet {
                break;
            }
        }
        let store = self.world.store.borrow();
        for client in self.clients.values() {
            assert!(client.asked.is_empty(), "unanswered: {:?}", client.asked);
            assert!(client.fragment.is_none());
            for (id, known) in &client.watchers {
                if !known.ended && known.owed(&store, store.revision).is_some() {
                    panic!("watch {id} was not told everything: {known:?}");
                }
            }
        }
        let stats = self.world.hub.stats();
        assert_eq!(stats.lagging(), 0);
        assert_eq!(stats.streams(), self.clients.len() as u64);
        assert_eq!(stats.watchers(), self.clients.values().map(|client| client.watchers.len() as u64).sum::<u64>());
    }
}

#[test]
fn everyone_is_told_everything_once_and_in_order() {
    let mut seen = BTreeMap::new();
    for seed in 0..300 {
        let mut model = Model::new(seed);
        model.run(600);
        for (what, count) in model.seen.0 {
            *seen.entry(what).or_insert(0) += count;
        }
    }
    println!("{seen:#?}");
    // A run that never came into a situation proves nothing about it.
    for what in [
        "canceled",
        "created in the future",
        "created in the past",
        "created now",
        "ended by compaction",
        "events",
        "fragments",
        "held",
        "inbox full",
        "progress asked for",
        "progress at an interval",
        "refused",
        "ring read",
        "several revisions in one response",
        "store read",
        "with what was replaced",
    ] {
        assert!(seen.get(what).is_some_and(|count| *count > 50), "{what} came too seldom: {seen:?}");
    }
}
