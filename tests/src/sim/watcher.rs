//! A client that watches, and remembers what it is owed.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use conclave_proto::{etcdserverpb::WatchResponse, mvccpb};
use conclave_server::{
    mvcc::{KeyRange, Kind},
    types::Revision,
    watch::{Create, Frame, Inbox, Input, Outbox, StreamId, Taken},
};
use prost::Message as _;

use super::oracle::Oracle;

/// Small, so that most watchers lag now and then.
const OUTBOX_BYTES: usize = 2_000;

/// One stream with one watcher.
pub(super) struct Watcher {
    range: KeyRange,
    prev_kv: bool,
    /// The first revision that it was not told of; 0 before the first answer.
    next: Revision,
    stream: Option<(StreamId, Arc<Outbox>)>,
    pub(super) events: u64,
    pub(super) compacted: u64,
}

impl Watcher {
    pub(super) fn new(range: KeyRange, prev_kv: bool) -> Self {
        Self { range, prev_kv, next: Revision(0), stream: None, events: 0, compacted: 0 }
    }

    /// The member died: what was in its queues is gone.
    pub(super) fn cut_off(&mut self) {
        self.stream = None;
    }

    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Asks for what it was not told yet.
    pub(super) fn open(&mut self, inbox: &Inbox) {
        let stream = inbox.next_stream();
        let outbox = Outbox::new(OUTBOX_BYTES);
        let create = Create {
            watch_id: 0,
            range: self.range.clone(),
            start: self.next,
            progress_notify: false,
            no_put: false,
            no_delete: false,
            prev_kv: self.prev_kv,
            fragment: false,
        };
        self.stream = Some((stream, Arc::clone(&outbox)));
        let sent = inbox.send(Input::Open { stream, outbox }) && inbox.send(Input::Create { stream, create });
        assert!(sent, "a few watchers do not fill the inbox");
    }

    /// Takes what its outbox holds and checks it.
    ///
    /// # Panics
    /// If something is missing, came twice, or is not what was written.
    pub(super) fn take(&mut self, inbox: &Inbox, oracle: &Oracle) {
        let Some((stream, outbox)) = self.stream.clone() else { return };
        let mut frames: Vec<Frame> = Vec::new();
        let taken = outbox.poll_take(&mut Context::from_waker(Waker::noop()), &mut frames);
        for frame in frames {
            let mut bytes = Vec::new();
            frame.write(&mut bytes);
            let response = WatchResponse::decode(bytes.as_slice()).expect("the hub writes messages");
            self.told(&response, inbox, oracle);
        }
        if taken == Poll::Ready(Taken::AllSendDrained) {
            assert!(inbox.send(Input::Drained { stream }), "a few watchers do not fill the inbox");
        }
    }

    fn told(&mut self, response: &WatchResponse, inbox: &Inbox, oracle: &Oracle) {
        let revision = Revision(response.header.as_ref().expect("a header").revision);
        if response.canceled {
            assert_eq!(response.cancel_reason, "", "nothing but a compaction ends a watcher here");
            let compacted = Revision(response.compact_revision);
            assert!(self.next < compacted, "told of a compaction at {compacted} that does not concern {}", self.next);
            self.compacted += 1;
            self.next = compacted;
            if let Some((stream, _)) = self.stream.take() {
                assert!(inbox.send(Input::Close { stream }));
            }
            return;
        }
        if response.created {
            if self.next == Revision(0) {
                self.next = revision.next();
            }
            return;
        }
        let mut events = response.events.iter();
        let Some(last) = response.events.last() else { return };
        let last = Revision(last.kv.as_ref().expect("an event has a key").mod_revision);
        for (at, changes) in oracle.changes(&self.range, self.next).take_while(|(at, _)| *at <= last) {
            for change in changes {
                let event = events.next().unwrap_or_else(|| panic!("an event of revision {at} is missing"));
                assert_eq!(event.kv.as_ref(), Some(&change.kv), "events of {:?} from {} on", self.range, self.next);
                assert_eq!(event.r#type() == mvccpb::event::EventType::Delete, change.kind == Kind::Delete);
                let at_compaction = event.prev_kv.is_none() && at <= oracle.position().compacted;
                let prev = if self.prev_kv && !at_compaction { change.prev.clone() } else { None };
                assert_eq!(event.prev_kv, prev, "what revision {at} replaced");
                self.events += 1;
            }
        }
        assert_eq!(events.next(), None, "an event came that is not owed, or came twice");
        assert!(last <= revision, "a header at {revision} for events up to {last}");
        self.next = last.next();
    }

    /// Whether it was told of everything up to now.
    pub(super) fn is_at_head(&self, oracle: &Oracle) -> bool {
        self.is_open() && self.next > Revision(0) && oracle.changes(&self.range, self.next).next().is_none()
    }
}
