//! Bodies of WatchResponses: encoded once, shared by all watchers that are told the same.
//!
//! A body is a WatchResponse without its watch id: `header` (field 1), then `created` (3), `canceled` (4),
//! `compact_revision` (5) and `cancel_reason` (6) or, with events, `events` (11) and `fragment` (7) behind them. The
//! stream puts the watch id before it (see [`super::Frame`]).

use bytes::{BufMut, Bytes, BytesMut};
use conclave_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use prost::{
    Message,
    encoding::{encode_varint, encoded_len_varint},
};

use crate::{
    mvcc::{Change, Kind},
    types::{ClusterId, MemberId, Revision, Term},
};

// Tags of single fields: (field number << 3) | wire type, 0 a varint, 2 length-delimited (etcd's rpc.proto and kv.proto).
const RESPONSE_HEADER: u8 = 0x0a;
const RESPONSE_FRAGMENT: u8 = 0x38;
const RESPONSE_EVENTS: u8 = 0x5a;
const EVENT_TYPE: u8 = 0x08;
const EVENT_KV: u8 = 0x12;
const EVENT_PREV_KV: u8 = 0x1a;

/// `mvccpb.Event.EventType.DELETE`; PUT is 0 and is left out on the wire.
const DELETE: u8 = 1;

/// The most that a watch id adds to a message: a tag and a varint of 64 bits.
const MAX_WATCH_ID: usize = 11;

/// Who speaks: what all headers of this member have in common.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    cluster: ClusterId,
    member: MemberId,
    term: Term,
    /// A response that may be fragmented is cut where it would reach this size.
    max_fragment_bytes: usize,
}

impl Encoder {
    pub(super) fn new(cluster: ClusterId, member: MemberId, max_fragment_bytes: usize) -> Self {
        Self { cluster, member, term: Term(0), max_fragment_bytes }
    }

    pub(super) fn set_term(&mut self, term: Term) {
        self.term = term;
    }

    /// A watcher exists from now on.
    pub(super) fn created(&self, revision: Revision) -> Bytes {
        self.control(WatchResponse { created: true, ..self.response(revision) })
    }

    /// A watcher was refused: both created and canceled, with the reason.
    pub(super) fn refused(&self, revision: Revision, reason: &str) -> Bytes {
        let cancel_reason = reason.to_owned();
        self.control(WatchResponse { created: true, canceled: true, cancel_reason, ..self.response(revision) })
    }

    /// A watcher ended because its client asked for it.
    pub(super) fn canceled(&self, revision: Revision) -> Bytes {
        self.control(WatchResponse { canceled: true, ..self.response(revision) })
    }

    /// A watcher ended because what it needs is compacted. Its header carries no revision, as etcd's does not.
    pub(super) fn compacted(&self, compacted: Revision) -> Bytes {
        let response = self.response(Revision(0));
        self.control(WatchResponse { canceled: true, compact_revision: compacted.0, ..response })
    }

    /// Everything up to `revision` was told.
    pub(super) fn progress(&self, revision: Revision) -> Bytes {
        self.control(self.response(revision))
    }

    fn response(&self, revision: Revision) -> WatchResponse {
        WatchResponse { header: Some(self.header(revision)), ..WatchResponse::default() }
    }

    fn control(&self, response: WatchResponse) -> Bytes {
        debug_assert_eq!(response.watch_id, 0, "the stream writes the watch id");
        response.encode_to_vec().into()
    }

    fn header(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster.0,
            member_id: self.member.0,
            revision: revision.0,
            raft_term: self.term.0,
        }
    }

    /// The bodies of one response: one, or several if it may be fragmented and is too long. `revision`: what the hub has
    /// reached. A response with a single event is never cut.
    pub(super) fn events(&self, revision: Revision, events: &[&Change], how: Shape) -> Vec<Bytes> {
        let header = self.header(revision);
        let header_len = 1 + delimited_len(header.encoded_len());
        let total: usize = events.iter().map(|change| 1 + delimited_len(event_len(change, how.prev_kv))).sum();
        let whole = header_len + total + MAX_WATCH_ID;
        if !how.fragment || whole < self.max_fragment_bytes || events.len() < 2 {
            return vec![body(&header, header_len + total, events, how.prev_kv, false)];
        }
        let mut bodies = Vec::new();
        let mut rest = events;
        while !rest.is_empty() {
            // The fragment flag counts too: a tag and one byte.
            let mut len = header_len + MAX_WATCH_ID + 2;
            let mut count = 0;
            for change in rest {
                let event = 1 + delimited_len(event_len(change, how.prev_kv));
                if count > 0 && len + event >= self.max_fragment_bytes {
                    break;
                }
                len += event;
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            bodies.push(body(&header, len, now, how.prev_kv, !later.is_empty()));
            rest = later;
        }
        bodies
    }
}

/// What a watcher asked for beyond its range: watchers of one shape can share bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
}

fn body(header: &ResponseHeader, capacity: usize, events: &[&Change], prev_kv: bool, more: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(capacity);
    out.put_u8(RESPONSE_HEADER);
    encode_varint(header.encoded_len() as u64, &mut out);
    header.encode_raw(&mut out);
    for change in events {
        out.put_u8(RESPONSE_EVENTS);
        encode_varint(event_len(change, prev_kv) as u64, &mut out);
        write_event(change, prev_kv, &mut out);
    }
    if more {
        out.put_slice(&[RESPONSE_FRAGMENT, 1]);
    }
    out.freeze()
}

/// Length of an encoded `mvccpb.Event`.
fn event_len(change: &Change, prev_kv: bool) -> usize {
    let kind = if change.kind == Kind::Delete { 2 } else { 0 };
    let prev = match &change.prev {
        Some(prev) if prev_kv => 1 + delimited_len(prev.encoded_len()),
        _ => 0,
    };
    kind + 1 + delimited_len(change.kv.encoded_len()) + prev
}

fn write_event(change: &Change, prev_kv: bool, out: &mut BytesMut) {
    if change.kind == Kind::Delete {
        out.put_slice(&[EVENT_TYPE, DELETE]);
    }
    out.put_u8(EVENT_KV);
    encode_varint(change.kv.encoded_len() as u64, out);
    change.kv.encode_raw(out);
    if let (Some(prev), true) = (&change.prev, prev_kv) {
        out.put_u8(EVENT_PREV_KV);
        encode_varint(prev.encoded_len() as u64, out);
        prev.encode_raw(out);
    }
}

/// Length of a length-delimited field of `len` bytes without its tag.
fn delimited_len(len: usize) -> usize {
    encoded_len_varint(len as u64) + len
}
