//! A RangeResponse written as it is read: each value is copied once, from the store's block into the reply.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use conclave_proto::etcdserverpb as pb;
use prost::{
    Message,
    encoding::{encode_varint, encoded_len_varint},
};

use super::{
    frame::{self, Framed},
    status::Status,
};
use crate::{
    error::Code,
    mvcc::{Summary, VersionRef},
};

/// The largest message that clients take (etcd's `maxSendBytes`, the largest signed 32-bit number).
const MAX_SEND: usize = i32::MAX as usize;

/// Bytes of a piece, more or less: small enough that it is never moved far to grow and that the allocator has one at hand,
/// large enough to fill several DATA frames.
const PIECE: usize = 64 * 1024;

/// A header of four large numbers, one key's numbers, count and more.
const NUMBERS: usize = 128;

/// Room before a message for what can be known only when it is whole: gRPC's prefix, and the tag and length of the
/// field that wraps it in a stream.
const RESERVE: usize = frame::PREFIX + 1 + 5;

// Tags: field number and wire type, from rpc.proto and kv.proto.
const RESPONSE_HEADER: u8 = 1 << 3 | 2;
const RESPONSE_KVS: u8 = 2 << 3 | 2;
const RESPONSE_MORE: u8 = 3 << 3;
const RESPONSE_COUNT: u8 = 4 << 3;
const STREAM_RANGE_RESPONSE: u8 = 1 << 3 | 2;
const KV_KEY: u8 = 1 << 3 | 2;
const KV_CREATE: u8 = 2 << 3;
const KV_MOD: u8 = 3 << 3;
const KV_VERSION: u8 = 4 << 3;
const KV_VALUE: u8 = 5 << 3 | 2;
const KV_LEASE: u8 = 6 << 3;

/// A RangeResponse that grows, piece by piece: what was written is never moved. Fields of value zero are left out, as
/// proto3 wants.
pub(super) struct RangeReply {
    /// The message's beginning, once the piece that is written is another.
    first: Option<BytesMut>,
    /// The pieces between the two.
    full: Vec<Bytes>,
    full_bytes: usize,
    buffer: BytesMut,
    /// Bytes that were not written because the message is too large for any client; it ends in an error.
    dropped: usize,
    keys: usize,
}

impl RangeReply {
    /// `expected` bytes of keys and values are likely to come.
    pub(super) fn new(expected: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(RESERVE + NUMBERS + expected);
        buffer.put_bytes(0, RESERVE);
        Self { first: None, full: Vec::new(), full_bytes: 0, buffer, dropped: 0, keys: 0 }
    }

    pub(super) fn header(&mut self, header: &pb::ResponseHeader) {
        self.buffer.put_u8(RESPONSE_HEADER);
        encode_varint(header.encoded_len() as u64, &mut self.buffer);
        header.encode_raw(&mut self.buffer);
    }

    pub(super) fn push(&mut self, version: VersionRef<'_>) {
        let (value, lease) = (version.value, version.lease.0);
        let length = bytes_len(version.key)
            + number_len(version.create.0)
            + number_len(version.modified.0)
            + number_len(version.version)
            + bytes_len(value)
            + number_len(lease);
        let whole = 1 + encoded_len_varint(length as u64) + length;
        if self.dropped > 0 || self.len() + whole > MAX_SEND {
            self.dropped += whole;
            return;
        }
        self.keys += 1;
        self.make_room(whole);
        self.buffer.put_u8(RESPONSE_KVS);
        encode_varint(length as u64, &mut self.buffer);
        put_bytes(&mut self.buffer, KV_KEY, version.key);
        put_number(&mut self.buffer, KV_CREATE, version.create.0);
        put_number(&mut self.buffer, KV_MOD, version.modified.0);
        put_number(&mut self.buffer, KV_VERSION, version.version);
        put_bytes(&mut self.buffer, KV_VALUE, value);
        put_number(&mut self.buffer, KV_LEASE, lease);
    }

    /// For so many bytes in a row, in this piece or a new one.
    fn make_room(&mut self, bytes: usize) {
        if self.buffer.len() + bytes <= PIECE {
            // Short replies are most: they begin small.
            self.buffer.reserve(bytes);
            return;
        }
        let next = BytesMut::with_capacity(bytes.max(PIECE) + NUMBERS);
        let full = std::mem::replace(&mut self.buffer, next);
        self.full_bytes += full.len();
        match self.first {
            None => self.first = Some(full),
            Some(_) => self.full.push(full.freeze()),
        }
    }

    pub(super) fn summary(&mut self, summary: Summary) {
        put_number(&mut self.buffer, RESPONSE_MORE, i64::from(summary.more));
        put_number(&mut self.buffer, RESPONSE_COUNT, summary.count);
    }

    pub(super) fn keys(&self) -> usize {
        self.keys
    }

    /// Bytes of the message so far.
    pub(super) fn len(&self) -> usize {
        self.full_bytes + self.buffer.len() - RESERVE
    }

    /// The framed RangeResponse.
    pub(super) fn finish(mut self) -> Result<Framed, Status> {
        let length = self.check_size()?;
        let first = self.first();
        first.advance(RESERVE - frame::PREFIX);
        write_prefix(first, length);
        Ok(self.freeze())
    }

    /// The framed RangeStreamResponse around it.
    pub(super) fn finish_streamed(mut self) -> Result<Framed, Status> {
        let inner = self.check_size()?;
        let wrapper = 1 + encoded_len_varint(inner as u64);
        let first = self.first();
        first.advance(RESERVE - frame::PREFIX - wrapper);
        write_prefix(first, wrapper + inner);
        first[frame::PREFIX] = STREAM_RANGE_RESPONSE;
        encode_varint(inner as u64, &mut &mut first[frame::PREFIX + 1..]);
        Ok(self.freeze())
    }

    fn first(&mut self) -> &mut BytesMut {
        self.first.as_mut().unwrap_or(&mut self.buffer)
    }

    fn freeze(mut self) -> Framed {
        match self.first {
            None => Framed::from(self.buffer.freeze()),
            Some(first) => {
                self.full.push(self.buffer.freeze());
                Framed::new(first.freeze(), self.full)
            }
        }
    }

    fn check_size(&self) -> Result<usize, Status> {
        let length = self.len();
        if self.dropped > 0 || length > MAX_SEND {
            let text =
                format!("grpc: trying to send message larger than max ({} vs. {MAX_SEND})", length + self.dropped);
            return Err(Status::with(Code::ResourceExhausted, text));
        }
        Ok(length)
    }
}

fn write_prefix(buffer: &mut BytesMut, length: usize) {
    let length = u32::try_from(length).expect("check_size keeps messages below MAX_SEND");
    buffer[1..frame::PREFIX].copy_from_slice(&length.to_be_bytes());
}

fn bytes_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + encoded_len_varint(bytes.len() as u64) + bytes.len() }
}

#[expect(clippy::cast_sign_loss, reason = "proto3 writes a negative int64 as its two's complement in 64 bits")]
fn number_len(number: i64) -> usize {
    if number == 0 { 0 } else { 1 + encoded_len_varint(number as u64) }
}

fn put_bytes(buffer: &mut BytesMut, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        buffer.put_u8(tag);
        encode_varint(bytes.len() as u64, buffer);
        buffer.put_slice(bytes);
    }
}

#[expect(clippy::cast_sign_loss, reason = "proto3 writes a negative int64 as its two's complement in 64 bits")]
fn put_number(buffer: &mut BytesMut, tag: u8, number: i64) {
    if number != 0 {
        buffer.put_u8(tag);
        encode_varint(number as u64, buffer);
    }
}
