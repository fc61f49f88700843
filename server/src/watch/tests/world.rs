//! A hub with a history to read and streams to look into.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use conclave_proto::{etcdserverpb::WatchResponse, mvccpb::KeyValue};
use prost::Message;

use crate::{
    error::Error,
    mvcc::{Change, FeedChunk, Kind, Position},
    types::{ClusterId, MemberId, Revision, Sub, Term},
    watch::{Frame, Hub, HubOptions, Inbox, Input, Outbox, Published, StreamId, Taken, lagging::Past},
};

/// A store that does what `mvcc` promises, as simply as can be.
#[derive(Debug)]
pub(super) struct Store {
    keys: BTreeMap<Bytes, KeyValue>,
    pub(super) log: BTreeMap<Revision, Vec<Change>>,
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    /// A compaction that comes in the middle of the next read.
    pub(super) trap: Option<Revision>,
    /// What a reader does not find any more, though `log` keeps it for the model.
    dropped: Revision,
    pub(super) reads: usize,
}

/// What one request changes: a key with its new value, or without one if it is deleted.
pub(super) type Ops<'a> = &'a [(&'a [u8], Option<&'a [u8]>)];

impl Store {
    fn new() -> Self {
        Self {
            keys: BTreeMap::new(),
            log: BTreeMap::new(),
            revision: Revision::FIRST,
            compacted: Revision::NEVER,
            trap: None,
            dropped: Revision::NEVER,
            reads: 0,
        }
    }

    /// None: nothing changed.
    pub(super) fn apply(&mut self, ops: Ops<'_>) -> Option<Vec<Change>> {
        let revision = self.revision.next();
        let mut changes = Vec::new();
        for (key, value) in ops {
            let key = Bytes::copy_from_slice(key);
            let prev = self.keys.get(&key).cloned();
            let sub = Sub(u32::try_from(changes.len()).unwrap());
            let kv = match value {
                Some(value) => KeyValue {
                    key: key.clone(),
                    create_revision: prev.as_ref().map_or(revision.0, |prev| prev.create_revision),
                    mod_revision: revision.0,
                    version: prev.as_ref().map_or(0, |prev| prev.version) + 1,
                    value: Bytes::copy_from_slice(value),
                    lease: 0,
                },
                None if prev.is_none() => continue,
                None => KeyValue { key: key.clone(), mod_revision: revision.0, ..KeyValue::default() },
            };
            let kind = if value.is_some() { Kind::Put } else { Kind::Delete };
            if kind == Kind::Put {
                self.keys.insert(key, kv.clone())
            } else {
                self.keys.remove(&key)
            };
            changes.push(Change { kind, sub, kv, prev });
        }
        if changes.is_empty() {
            return None;
        }
        self.revision = revision;
        self.log.insert(revision, changes.clone());
        Some(changes)
    }

    pub(super) fn compact(&mut self, at: Revision) {
        self.compacted = at;
        for change in self.log.get_mut(&at).into_iter().flatten() {
            change.prev = None;
        }
    }

    fn feed(&mut self, at: Position, from: Revision, max_bytes: usize) -> Result<FeedChunk, Error> {
        self.reads += 1;
        if from < at.compacted {
            return Err(Error::Compacted);
        }
        if let Some(trap) = self.trap.take() {
            self.compact(trap);
            self.dropped = trap;
        }
        // Who reads what is gone may notice it or not.
        if from < self.dropped && self.dropped.0 % 2 == 0 {
            return Err(Error::Compacted);
        }
        let mut chunk = FeedChunk { changes: Vec::new(), next: at.revision.next() };
        let mut bytes = 0;
        for (revision, changes) in self.log.range(from.max(self.dropped.min(at.revision))..=at.revision) {
            if bytes >= max_bytes {
                chunk.next = *revision;
                break;
            }
            bytes += changes.iter().map(|change| change.kv.encoded_len()).sum::<usize>();
            chunk.changes.push((*revision, changes.clone()));
        }
        Ok(chunk)
    }
}

pub(super) fn options() -> HubOptions {
    HubOptions {
        progress_interval_ms: 1000,
        max_watchers_per_stream: 20,
        max_watchers: 50,
        ..HubOptions::new(ClusterId(7), MemberId(8))
    }
}

pub(super) struct World {
    pub(super) hub: Hub,
    pub(super) inbox: Inbox,
    pub(super) store: Rc<RefCell<Store>>,
    pub(super) outboxes: BTreeMap<StreamId, Arc<Outbox>>,
    pub(super) now_ms: u64,
    unpublished: Vec<(Revision, Vec<Change>)>,
}

impl World {
    pub(super) fn new(options: HubOptions, inbox: Inbox) -> Self {
        let mut hub = Hub::at(options, Revision::FIRST);
        hub.set_term(Term(3));
        let store = Rc::new(RefCell::new(Store::new()));
        Self { hub, inbox, store, outboxes: BTreeMap::new(), now_ms: 0, unpublished: Vec::new() }
    }

    pub(super) fn open(&mut self, max_bytes: usize) -> StreamId {
        let stream = self.inbox.next_stream();
        let outbox = Outbox::new(max_bytes);
        assert!(self.inbox.send(Input::Open { stream, outbox: outbox.clone() }));
        self.outboxes.insert(stream, outbox);
        stream
    }

    pub(super) fn write(&mut self, ops: Ops<'_>) {
        self.write_only(ops);
        self.publish();
    }

    /// The store has it, the hub does not know yet.
    pub(super) fn write_only(&mut self, ops: Ops<'_>) {
        let Some(changes) = self.store.borrow_mut().apply(ops) else { return };
        let revision = self.store.borrow().revision;
        self.unpublished.push((revision, changes));
    }

    pub(super) fn publish(&mut self) {
        for (revision, changes) in self.unpublished.drain(..) {
            self.inbox.publish(revision, Published::Changes(changes.into()));
        }
    }

    pub(super) fn step(&mut self) -> bool {
        let store = &self.store;
        let past = || {
            let Store { revision, compacted, .. } = *store.borrow();
            let position = Position { revision, compacted };
            let store = store.clone();
            Past { position, feed: Box::new(move |from, max_bytes| store.borrow_mut().feed(position, from, max_bytes)) }
        };
        self.hub.step_over(&self.inbox, &past, self.now_ms)
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the hub finds no rest");
    }

    /// None: nothing to take.
    pub(super) fn take(&mut self, stream: StreamId) -> Option<(Vec<Frame>, Taken)> {
        let mut frames = Vec::new();
        match self.outboxes[&stream].poll_take(&mut Context::from_waker(Waker::noop()), &mut frames) {
            Poll::Ready(taken) => Some((frames, taken)),
            Poll::Pending => None,
        }
    }
}

pub(super) fn decode(frame: &Frame) -> WatchResponse {
    let mut message = BytesMut::new();
    frame.write(&mut message);
    assert_eq!(message.len(), frame.message_len());
    WatchResponse::decode(message.freeze()).expect("a frame is a WatchResponse")
}
