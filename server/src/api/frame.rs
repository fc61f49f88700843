//! gRPC's length-prefixed messages: out of a request body, and into a reply.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Body;
use prost::Message;

use super::status::Status;
use crate::error::Code;

/// A compression flag and the length in four bytes, big-endian (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(super) const PREFIX: usize = 5;

/// The messages of a request body, in order.
///
/// A message that lies whole in one DATA frame is handed on as a slice of that frame; one that does not is gathered in
/// a buffer of its own size. What is held is at most one message of the largest size allowed and one DATA frame.
pub(super) struct Messages<B> {
    body: B,
    /// What has come and was not taken, if nothing had to be gathered.
    chunk: Bytes,
    /// What has come and was not taken, once a message spans frames. Only one of the two holds anything.
    gathered: BytesMut,
    max: usize,
    encoding: Option<String>,
    ended: bool,
    streaming: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Messages<B> {
    /// `max` is the size of the largest message taken; `encoding` what the client said in `grpc-encoding`.
    pub(super) fn new(body: B, max: usize, encoding: Option<String>, streaming: bool) -> Self {
        Self { body, chunk: Bytes::new(), gathered: BytesMut::new(), max, encoding, ended: false, streaming }
    }

    /// The next message; nothing when the client closed its side.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(message) = self.take()? {
                return Poll::Ready(Ok(Some(message)));
            }
            if self.ended {
                return Poll::Ready(if self.chunk.is_empty() && self.gathered.is_empty() {
                    Ok(None)
                } else {
                    Err(self.cut_short())
                });
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => self.ended = true,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.push(data);
                    }
                }
                // The client reset the stream or the connection broke; nobody reads this answer.
                Some(Err(_)) => return Poll::Ready(Err(Status::new(Code::Canceled, "context canceled"))),
            }
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The one message of a unary call. As grpc-go, what follows it is not looked at; it is drained, so that the
    /// stream ends in order instead of by a reset.
    pub(super) async fn only(&mut self) -> Result<Bytes, Status> {
        let message = self.next().await?.ok_or(Status::new(Code::Unknown, "EOF"))?;
        self.chunk = Bytes::new();
        self.gathered = BytesMut::new();
        while !self.body.is_end_stream() {
            match std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {
                Some(Ok(_)) => {}
                _ => break,
            }
        }
        Ok(message)
    }

    fn push(&mut self, data: Bytes) {
        if self.chunk.is_empty() && self.gathered.is_empty() {
            self.chunk = data;
            return;
        }
        if self.gathered.is_empty() {
            // The length was checked against `max` if it is known by now, so this cannot be made to reserve more.
            let expected = length(&self.chunk).map_or(0, |len| PREFIX + len);
            self.gathered.reserve(expected.max(self.chunk.len() + data.len()));
            self.gathered.put_slice(&self.chunk);
            self.chunk = Bytes::new();
        }
        self.gathered.put_slice(&data);
    }

    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let held: &[u8] = if self.gathered.is_empty() { &self.chunk } else { &self.gathered };
        let Some(length) = length(held) else { return Ok(None) };
        let flag = held[0];
        let complete = held.len() >= PREFIX + length;
        if length > self.max {
            let text = format!("grpc: received message larger than max ({length} vs. {})", self.max);
            return Err(Status::with(Code::ResourceExhausted, text));
        }
        if !complete {
            return Ok(None);
        }
        self.check_flag(flag)?;
        Ok(Some(if self.gathered.is_empty() {
            self.chunk.advance(PREFIX);
            self.chunk.split_to(length)
        } else {
            self.gathered.advance(PREFIX);
            self.gathered.split_to(length).freeze()
        }))
    }

    fn check_flag(&self, flag: u8) -> Result<(), Status> {
        match flag {
            0 => Ok(()),
            1 => Err(match self.encoding.as_deref() {
                None | Some("" | "identity") => {
                    Status::new(Code::Internal, "grpc: compressed flag set with identity or empty encoding")
                }
                Some(encoding) => no_decompressor(encoding),
            }),
            other => Err(Status::with(Code::Internal, format!("grpc: received unexpected payload format {other}"))),
        }
    }

    fn cut_short(&self) -> Status {
        // grpc-go maps it for streams and lets it through raw for unary calls.
        Status::new(if self.streaming { Code::Internal } else { Code::Unknown }, "unexpected EOF")
    }
}

/// What grpc-go says when a client announces a compression that the server does not have.
pub(super) fn no_decompressor(encoding: &str) -> Status {
    let text = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
    Status::with(Code::Unimplemented, text)
}

fn length(held: &[u8]) -> Option<usize> {
    let prefix = held.first_chunk::<PREFIX>()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    Some(usize::try_from(length).expect("32 bits fit in usize on every platform that this builds for"))
}

/// A message with its prefix, on its way out: in pieces, since a long one is not gathered in one place first.
pub(super) struct Framed {
    /// Nothing when all is taken.
    next: Option<Bytes>,
    rest: std::vec::IntoIter<Bytes>,
}

impl Framed {
    pub(super) fn new(first: Bytes, rest: Vec<Bytes>) -> Self {
        Self { next: Some(first), rest: rest.into_iter() }
    }

    pub(super) fn next_piece(&mut self) -> Option<Bytes> {
        let piece = self.next.take();
        self.next = self.rest.next();
        piece
    }

    /// Bytes of all pieces that are left.
    pub(super) fn len(&self) -> usize {
        self.next.iter().chain(self.rest.as_slice()).map(Bytes::len).sum()
    }
}

impl From<Bytes> for Framed {
    fn from(whole: Bytes) -> Self {
        Self::new(whole, Vec::new())
    }
}

/// One message with its prefix.
pub(super) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    put_prefix(&mut buffer, length);
    message.encode(&mut buffer).expect("the buffer grows");
    buffer.freeze()
}

pub(super) fn put_prefix(buffer: &mut BytesMut, length: usize) {
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).expect("replies are kept below MAX_SEND, which 32 bits hold"));
}

/// A message of a unary call.
pub(super) fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|_| {
        let text = "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
        Status::new(Code::Internal, text)
    })
}

/// A message of a stream.
pub(super) fn decode_streamed<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|_| {
        let text = "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data";
        Status::new(Code::Internal, text)
    })
}
