//! A client that watches: one stream with one watcher, at one member after the other. It tells what it was told, and
//! remembers only where to go on.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use conclave_proto::etcdserverpb::WatchResponse;
use conclave_server::{
    mvcc::KeyRange,
    types::Revision,
    watch::{Create, Frame, Inbox, Input, Outbox, StreamId, Taken},
};
use prost::Message as _;
use rand::{Rng, RngExt};

use super::{
    commands,
    seen::{Watch, event_revision},
};

/// Small, so that most watchers lag now and then.
const OUTBOX_BYTES: usize = 2_000;

pub(super) struct Watcher {
    pub(super) range: KeyRange,
    prev_kv: bool,
    /// The first revision that it was not told of; 0 before the first answer.
    pub(super) next: Revision,
    /// Where its stream is open.
    pub(super) member: Option<usize>,
    stream: Option<(StreamId, Arc<Outbox>)>,
}

impl Watcher {
    pub(super) fn random(rng: &mut impl Rng) -> Self {
        let (from, mut to) = (commands::key(rng), commands::range_end(rng));
        if to <= from {
            // To the end: an empty range is refused.
            to = Bytes::from_static(b"\0");
        }
        let range = KeyRange::parse(&from, &to);
        Self { range, prev_kv: rng.random(), next: Revision(0), member: None, stream: None }
    }

    /// Its member died, or was cut off: what was in the queues is gone.
    pub(super) fn cut_off(&mut self) {
        self.stream = None;
        self.member = None;
    }

    /// Asks for what it was not told yet.
    pub(super) fn open(&mut self, member: usize, inbox: &Inbox) -> Watch {
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
        self.member = Some(member);
        let sent = inbox.send(Input::Open { stream, outbox }) && inbox.send(Input::Create { stream, create });
        assert!(sent, "a few watchers do not fill the inbox");
        Watch::Opened { range: self.range.clone(), prev_kv: self.prev_kv, start: self.next }
    }

    pub(super) fn close(&mut self, inbox: &Inbox) {
        if let Some((stream, _)) = self.stream.take() {
            assert!(inbox.send(Input::Close { stream }), "a closing stream is always let in");
        }
        self.member = None;
    }

    pub(super) fn ask_progress(&self, inbox: &Inbox) {
        if let Some((stream, _)) = self.stream {
            assert!(inbox.send(Input::Progress { stream }), "a few watchers do not fill the inbox");
        }
    }

    /// Takes what its outbox holds.
    pub(super) fn take(&mut self, inbox: &Inbox) -> Vec<Watch> {
        let Some((stream, outbox)) = self.stream.clone() else { return Vec::new() };
        let mut frames: Vec<Frame> = Vec::new();
        let taken = outbox.poll_take(&mut Context::from_waker(Waker::noop()), &mut frames);
        let mut told = Vec::new();
        for frame in frames {
            let mut bytes = Vec::new();
            frame.write(&mut bytes);
            let response = WatchResponse::decode(bytes.as_slice()).expect("the hub writes messages");
            told.push(self.told(response, inbox));
        }
        if taken == Poll::Ready(Taken::AllSendDrained) {
            assert!(inbox.send(Input::Drained { stream }), "a draining stream is always let in");
        }
        told
    }

    fn told(&mut self, response: WatchResponse, inbox: &Inbox) -> Watch {
        let revision = Revision(response.header.as_ref().expect("a header").revision);
        if response.canceled {
            assert_eq!(response.cancel_reason, "", "nothing but a compaction ends a watcher here");
            let compacted = Revision(response.compact_revision);
            self.next = compacted;
            self.close(inbox);
            return Watch::Compacted { compacted };
        }
        if response.created {
            if self.next == Revision(0) {
                self.next = revision.next();
            }
            return Watch::Created { revision };
        }
        match response.events.last().map(event_revision) {
            None => Watch::Progress { revision },
            Some(last) => {
                self.next = last.next();
                Watch::Told { revision, events: response.events }
            }
        }
    }
}
