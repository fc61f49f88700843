//! Watch: a client's requests go to the hub, and what the hub has for the client comes back.
//!
//! The handler runs inside the body of its reply, so it looks at requests and frames only as fast as the client reads.
//! A client that stops reading is then held by flow control in both directions; what the hub has for it stays in the
//! outbox, whose bound turns its watchers into lagging ones.

use std::{mem, sync::Arc, task::Poll};

use bytes::{Bytes, BytesMut};
use conclave_proto::etcdserverpb::{self as pb, watch_create_request::FilterType, watch_request::RequestUnion};

use super::{Api, body::Outgoing, frame, frame::Messages, status::Status};
use crate::{
    error::Error,
    mvcc::KeyRange,
    types::Revision,
    watch::{Create, Frame, Inbox, Input, Outbox, StreamId, Taken},
};

/// Frames are gathered into chunks of about this size (measured: a quarter less CPU an event than one by one).
const CHUNK: usize = 64 * 1024;

/// A body this large is sent as it is instead of being copied into a chunk: several watchers may share it.
const COPY_BELOW: usize = 16 * 1024;

/// One stream as the hub knows it. Whatever ends the handler, the hub is told.
struct Stream<'a> {
    inbox: &'a Inbox,
    id: StreamId,
    outbox: Arc<Outbox>,
}

impl<'a> Stream<'a> {
    fn open(inbox: &'a Inbox, outbox_bytes: usize) -> Result<Self, Error> {
        let stream = Self { inbox, id: inbox.next_stream(), outbox: Outbox::new(outbox_bytes) };
        stream.send(Input::Open { stream: stream.id, outbox: Arc::clone(&stream.outbox) })?;
        Ok(stream)
    }

    /// The hub being so far behind that it takes no more requests ends the stream; the client opens another.
    fn send(&self, input: Input) -> Result<(), Error> {
        if self.inbox.send(input) { Ok(()) } else { Err(Error::RequestTooManyRequests) }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        assert!(self.inbox.send(Input::Close { stream: self.id }), "the inbox always takes a Close");
    }
}

enum Step {
    Frames(Taken),
    Request(Bytes),
    /// The client closed its side. As with etcd, its watchers stay.
    HalfClosed,
}

pub(super) async fn watch<B>(api: &Api, mut messages: Messages<B>, out: &Outgoing) -> Result<(), Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let stream = Stream::open(api.handle.watch_inbox(), api.limits.watch_outbox_bytes)?;
    let mut frames = Vec::new();
    let mut listening = true;
    loop {
        let step = std::future::poll_fn(|cx| {
            // Requests first, so that a cancel is not kept waiting behind a long backlog. While the hub keeps frames
            // back for this stream no more requests are taken: their answers would have nowhere to go.
            if listening && !stream.outbox.is_held() {
                match messages.poll_next(cx) {
                    Poll::Ready(Ok(Some(message))) => return Poll::Ready(Ok(Step::Request(message))),
                    Poll::Ready(Ok(None)) => return Poll::Ready(Ok(Step::HalfClosed)),
                    Poll::Ready(Err(status)) => return Poll::Ready(Err(status)),
                    Poll::Pending => {}
                }
            }
            stream.outbox.poll_take(cx, &mut frames).map(|taken| Ok(Step::Frames(taken)))
        })
        .await?;
        match step {
            Step::Request(message) => request(&stream, frame::decode_streamed(message)?)?,
            Step::HalfClosed => listening = false,
            Step::Frames(taken) => {
                send(&mut frames, out).await;
                match taken {
                    Taken::All => {}
                    Taken::AllSendDrained => stream.send(Input::Drained { stream: stream.id })?,
                    Taken::Closed => return Err(Error::RequestTooManyRequests.into()),
                }
            }
        }
    }
}

fn request(stream: &Stream<'_>, request: pb::WatchRequest) -> Result<(), Error> {
    let id = stream.id;
    match request.request_union {
        Some(RequestUnion::CreateRequest(create)) => stream.send(Input::Create { stream: id, create: parse(create) }),
        Some(RequestUnion::CancelRequest(cancel)) => {
            stream.send(Input::Cancel { stream: id, watch_id: cancel.watch_id })
        }
        Some(RequestUnion::ProgressRequest(_)) => stream.send(Input::Progress { stream: id }),
        // As etcd: what it does not know it passes over.
        None => Ok(()),
    }
}

fn parse(create: pb::WatchCreateRequest) -> Create {
    // An empty key means from the smallest one.
    let key = if create.key.is_empty() { Bytes::from_static(&[0]) } else { create.key };
    let filtered = |filter: FilterType| create.filters.contains(&(filter as i32));
    Create {
        watch_id: create.watch_id,
        range: KeyRange::parse(&key, &create.range_end),
        start: Revision(create.start_revision),
        progress_notify: create.progress_notify,
        no_put: filtered(FilterType::Noput),
        no_delete: filtered(FilterType::Nodelete),
        prev_kv: create.prev_kv,
        fragment: create.fragment,
    }
}

/// Sends the frames as framed messages, in chunks.
async fn send(frames: &mut Vec<Frame>, out: &Outgoing) {
    let waiting: usize = frames.iter().map(|frame| frame::PREFIX + frame.message_len()).sum();
    let mut left = waiting;
    let mut chunk = BytesMut::with_capacity(left.min(CHUNK));
    for response in frames.drain(..) {
        let whole = frame::PREFIX + response.message_len();
        frame::put_prefix(&mut chunk, response.message_len());
        if response.body.len() < COPY_BELOW {
            response.write(&mut chunk);
        } else {
            // The watch id alone, which is what differs between the watchers that share the body.
            Frame { watch_id: response.watch_id, body: Bytes::new() }.write(&mut chunk);
            out.send(mem::take(&mut chunk).freeze()).await;
            out.send(response.body).await;
        }
        left -= whole;
        if chunk.len() >= CHUNK - COPY_BELOW {
            out.send(mem::replace(&mut chunk, BytesMut::with_capacity(left.min(CHUNK))).freeze()).await;
        }
    }
    if !chunk.is_empty() {
        out.send(chunk.freeze()).await;
    }
}
