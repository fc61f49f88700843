//! How much a frame would become in memory, found out before it is decoded.
//!
//! An empty message takes two bytes of a frame and two hundred of memory, so a crafted frame of 40 MiB would become
//! gigabytes. What members send is far from that: a message has some ten bytes at least, and an entry as many.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::WireError;

/// Messages, entries and questions in one frame. `wire` cuts what is sent to about a mebibyte, which has at most half as
/// many of the smallest.
const MAX_PARTS: usize = 1 << 18;

/// What the bytes at hand are an encoding of.
#[derive(Clone, Copy)]
enum Level {
    Frame,
    Messages,
    Message,
    /// Questions or answers about leases.
    List,
}

impl Level {
    /// Whether a field counts, and what its bytes are if there is something to be counted in them. The numbers are those
    /// of `peer.proto`.
    fn field(self, tag: u32) -> (bool, Option<Self>) {
        match (self, tag) {
            (Self::Frame, 1) => (false, Some(Self::Messages)),
            (Self::Messages, 1) => (true, Some(Self::Message)),
            (Self::Message, 7) | (Self::List, 1) => (true, None),
            (Self::Message, 17 | 18) => (false, Some(Self::List)),
            _ => (false, None),
        }
    }
}

/// # Errors
/// If there are too many parts, or the frame cannot be read.
pub(super) fn within_bounds(frame: &[u8]) -> Result<(), WireError> {
    count(frame, Level::Frame, &mut 0)
}

fn count(mut bytes: &[u8], level: Level, parts: &mut usize) -> Result<(), WireError> {
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
            continue;
        }
        let len = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
        let (inner, rest) = bytes.split_at_checked(len).ok_or(WireError::Unexpected("a field that is cut short"))?;
        let (counts, inside) = level.field(tag);
        *parts += usize::from(counts);
        if *parts > MAX_PARTS {
            return Err(WireError::Unexpected("a frame of too many parts"));
        }
        if let Some(inside) = inside {
            count(inner, inside, parts)?;
        }
        bytes = rest;
    }
    Ok(())
}
