//! Frames: what stands between the bytes of a connection and messages.
//!
//! ```text
//! connection: 8 bytes magic, then frames
//! frame:      u32 length of the payload, u32 CRC-32C of the payload (both little-endian), payload
//! payload:    Hello or HelloReply in the first frame of each direction, then Frame (conclave.peer.v1)
//! ```
//! What does not fit ends the connection. TCP's own checksum misses one damaged segment in some ten thousands, and what is
//! let through here becomes part of a log.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use conclave_proto::conclave::peer::v1::{self as pb, frame};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{convert, count};
use crate::node::{Message, MessageKind};

/// First bytes of a connection between members. No HTTP request begins with the first of them.
pub(super) const MAGIC: [u8; 8] = *b"\xc5CNCLVP\n";
const HEAD: usize = 8;
/// Largest payload. The largest entry is half a segment of the raft log, 32 MiB; the rest is room for what shares its
/// frame.
pub const MAX_FRAME: usize = 40 << 20;
/// Largest hello: its fields take less than 100 bytes.
const MAX_HELLO: usize = 1024;
/// Set aside for reading at once. A claimed length gets no more memory than this before its bytes come.
const READ_BYTES: usize = 64 << 10;
/// Entries of one forwarded message: what a leader takes in one step may come in several, and a frame holds one at least.
const SPLIT_BYTES: usize = 1 << 20;
/// What an entry takes beside its data, so that empty ones are counted too.
const ENTRY_BYTES: usize = 16;

/// What ends a connection.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the other end closed the connection")]
    Closed,
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    #[error("a frame came damaged: its checksum does not fit")]
    Checksum,
    #[error("a frame cannot be read: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("it sent what does not belong here: {0}")]
    Unexpected(&'static str),
    #[error("nothing was heard for too long")]
    Silence,
}

/// Cuts frames out of what is read.
pub(super) struct Reader<R> {
    from: R,
    buffer: BytesMut,
    received: u64,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: BytesMut::new(), received: 0 }
    }

    /// Bytes that came in since this was asked last.
    pub(super) fn received(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }

    /// The next frame's payload. It shares the memory that was read into. May be dropped while it waits.
    pub(super) async fn payload(&mut self, max: usize) -> Result<Bytes, WireError> {
        loop {
            if let Some(payload) = self.whole(max)? {
                return Ok(payload);
            }
            self.more().await?;
        }
    }

    /// A payload that was read already, if there is one.
    pub(super) fn whole(&mut self, max: usize) -> Result<Option<Bytes>, WireError> {
        if self.buffer.len() < HEAD {
            return Ok(None);
        }
        let (mut len, mut crc) = (&self.buffer[..4], &self.buffer[4..HEAD]);
        let (len, crc) = (len.get_u32_le() as usize, crc.get_u32_le());
        if len > max {
            return Err(WireError::TooLong(len));
        }
        if self.buffer.len() < HEAD + len {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let payload = self.buffer.split_to(len).freeze();
        if crc32c::crc32c(&payload) != crc {
            return Err(WireError::Checksum);
        }
        Ok(Some(payload))
    }

    async fn more(&mut self) -> Result<(), WireError> {
        // Grows with what has come, not with what was claimed.
        let room = READ_BYTES.max(self.buffer.len());
        self.buffer.reserve(room);
        match self.from.read_buf(&mut self.buffer).await? {
            0 => Err(WireError::Closed),
            read => {
                self.received += read as u64;
                Ok(())
            }
        }
    }

    pub(super) async fn magic(&mut self) -> Result<(), WireError> {
        while self.buffer.len() < MAGIC.len() {
            self.more().await?;
        }
        if self.buffer[..MAGIC.len()] != MAGIC {
            return Err(WireError::Unexpected("not our magic number"));
        }
        self.buffer.advance(MAGIC.len());
        Ok(())
    }

    pub(super) async fn hello<M: prost::Message + Default>(&mut self) -> Result<M, WireError> {
        Ok(M::decode(self.payload(MAX_HELLO).await?)?)
    }

    pub(super) async fn frame(&mut self) -> Result<frame::Kind, WireError> {
        let payload = self.payload(MAX_FRAME).await?;
        kind(payload)
    }

    /// As [`Reader::frame`], if it was read already.
    pub(super) fn ready_frame(&mut self) -> Result<Option<frame::Kind>, WireError> {
        self.whole(MAX_FRAME)?.map(kind).transpose()
    }
}

fn kind(payload: Bytes) -> Result<frame::Kind, WireError> {
    count::within_bounds(&payload)?;
    pb::Frame::decode(payload)?.kind.ok_or(WireError::Unexpected("a frame of no known kind"))
}

/// Appends one frame.
pub(super) fn put(out: &mut BytesMut, message: &impl prost::Message) {
    let len = message.encoded_len();
    out.reserve(HEAD + len);
    let at = out.len();
    out.put_u32_le(u32::try_from(len).expect("a frame is far below 4 GiB"));
    out.put_u32_le(0);
    message.encode(out).expect("a growing buffer has room");
    let crc = crc32c::crc32c(&out[at + HEAD..]);
    out[at + 4..at + HEAD].copy_from_slice(&crc.to_le_bytes());
}

pub(super) fn put_kind(out: &mut BytesMut, kind: frame::Kind) {
    put(out, &pb::Frame { kind: Some(kind) });
}

/// Appends messages as frames, each within [`MAX_FRAME`], and leaves `messages` empty.
pub(super) fn put_messages(out: &mut BytesMut, messages: &mut Vec<Message>) {
    let mut batch = pb::Messages::default();
    let mut bytes = 0;
    for message in messages.drain(..).flat_map(split) {
        let message = convert::message_out(message);
        bytes += message.encoded_len();
        batch.messages.push(message);
        if bytes >= SPLIT_BYTES {
            put_kind(out, frame::Kind::Messages(std::mem::take(&mut batch)));
            bytes = 0;
        }
    }
    if !batch.messages.is_empty() {
        put_kind(out, frame::Kind::Messages(batch));
    }
}

/// An append with many entries as several with fewer: raft does not bound the appends that it joins for a follower that
/// is far behind. One that is cut is two appends, the second of which follows on the last entry of the first. Messages
/// with proposals are never cut: each has a number under which its leader takes it once, and is bounded where it is made.
fn split(message: Message) -> impl Iterator<Item = Message> {
    let mut rest = Some(message);
    std::iter::from_fn(move || {
        let mut message = rest.take()?;
        let mut bytes = 0;
        let end = message.entries.iter().position(|entry| {
            let over = bytes >= SPLIT_BYTES;
            bytes += ENTRY_BYTES + entry.data.len();
            over
        });
        if let Some(end) = end
            && message.kind == MessageKind::Append
        {
            let entries = message.entries.split_off(end);
            let last = message.entries.last().expect("it was cut behind an entry");
            let (index, log_term) = (last.index, last.term);
            rest = Some(Message { entries, index, log_term, ..message.clone_head() });
        }
        Some(message)
    })
}
