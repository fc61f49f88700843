//! What was answered under a client's idempotency key, so that a retry gets the same answer and has no second effect.
//!
//! The window holds the last [`WINDOW_KEYS`] keys, whatever their age in time: a clock would not be deterministic. The
//! oldest goes when a new one comes, in the same batch. A repeat does not make a key younger.
//!
//! A key stands for one request. What is remembered of the request is a checksum over its bytes, so that a key that is
//! used for another request by mistake is refused rather than answered with a stranger's outcome.
//!
//! Values, version 1. By key: varints of applied index, revision and checksum, then a byte that says what follows: 0 an
//! outcome as in `meta`, 1 the text of an error (texts are the wire's and never change), 2 the first branch of an
//! outcome that was too long to keep. By age: the key.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use conclave_proto::conclave::raft::v1 as entry;
use prost::{
    Message,
    encoding::{decode_varint, encode_varint},
};

use super::meta::{Outcome, after_version};
use crate::{
    engine::{self, Batch, Key, Read},
    error::Error,
    types::{LogIndex, Revision},
};

/// Keys remembered. At the put rate of one busy client (about 10,000 a second) this is six seconds, longer than a
/// proposal's timeout; with [`OUTCOME_MAX_BYTES`] and the longest key it bounds the window's size on disk to 300 MB, and
/// to 20 MB for puts.
pub const WINDOW_KEYS: u64 = 65_536;

/// An outcome that is encoded in more than this is remembered by its first branch only. Enough for a thousand nested
/// operations, ten times what `--max-txn-ops` allows on one level.
const OUTCOME_MAX_BYTES: usize = 4_096;

const VERSION: u8 = 1;
const OUTCOME: u8 = 0;
const ERROR: u8 = 1;
const LONG: u8 = 2;

/// Ages in use: from `oldest` up to, not including, `next`; each has its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) oldest: u64,
    pub(super) next: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) index: LogIndex,
    /// The revision that the answer told.
    pub(super) revision: Revision,
    pub(super) checksum: u32,
    pub(super) result: Result<Told, Error>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Whole(Outcome),
    /// Only whether the compares of the outermost txn held.
    Long(bool),
}

/// Recognises a request that comes again. Not against malice: a client only ever meets its own keys.
pub(super) fn checksum(command: &entry::Command) -> u32 {
    crc32c::crc32c(&command.encode_to_vec())
}

pub(super) fn lookup(read: &impl Read, key: &[u8]) -> Option<Remembered> {
    let value = read.get(&Key::Request(key))?;
    Some(Remembered::decode(&value).unwrap_or_else(|| {
        engine::fatal("reading the table of remembered requests", format!("the value of key {key:?} cannot be read"))
    }))
}

impl Window {
    /// The key must not be in the window.
    pub(super) fn remember(&mut self, batch: &mut Batch, key: &[u8], remembered: &Remembered, keys: u64) {
        while self.next - self.oldest >= keys {
            let Some(oldest) = batch.get(&Key::RequestAge(self.oldest)).as_ref().and_then(after_version) else {
                engine::fatal("reading the table of remembered requests", format!("age {} has no key", self.oldest))
            };
            batch.delete(&Key::Request(&oldest));
            batch.delete(&Key::RequestAge(self.oldest));
            self.oldest += 1;
        }
        let mut by_age = BytesMut::with_capacity(1 + key.len());
        by_age.put_u8(VERSION);
        by_age.put_slice(key);
        batch.put(&Key::RequestAge(self.next), by_age.freeze());
        batch.put(&Key::Request(key), remembered.encode());
        self.next += 1;
    }
}

impl Remembered {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        encode_varint(self.index.0, &mut out);
        encode_varint(u64::try_from(self.revision.0).expect("revisions are not negative"), &mut out);
        encode_varint(u64::from(self.checksum), &mut out);
        match &self.result {
            Ok(Told::Whole(outcome)) => {
                let mut body = BytesMut::new();
                outcome.encode(&mut body);
                if body.len() <= OUTCOME_MAX_BYTES {
                    out.put_u8(OUTCOME);
                    out.put(body);
                } else {
                    put_long(&mut out, outcome.path.first().copied().unwrap_or_default());
                }
            }
            Ok(Told::Long(held)) => put_long(&mut out, *held),
            Err(error) => {
                out.put_u8(ERROR);
                out.put_slice(error.text().as_bytes());
            }
        }
        out.freeze()
    }

    pub(super) fn decode(value: &Bytes) -> Option<Self> {
        let mut rest = after_version(value)?;
        let mut number = || decode_varint(&mut rest).ok();
        let (index, revision) = (LogIndex(number()?), Revision(i64::try_from(number()?).ok()?));
        let checksum = u32::try_from(number()?).ok()?;
        let result = match rest.try_get_u8().ok()? {
            OUTCOME => Ok(Told::Whole(Outcome::decode(&mut rest)?)),
            LONG => Ok(Told::Long(rest.try_get_u8().ok()? == 1)),
            ERROR => {
                let text = std::mem::take(&mut rest);
                Err(*Error::ALL.iter().find(|error| error.text().as_bytes() == text)?)
            }
            _ => return None,
        };
        rest.is_empty().then_some(Self { index, revision, checksum, result })
    }
}

fn put_long(out: &mut BytesMut, held: bool) {
    out.put_u8(LONG);
    out.put_u8(u8::from(held));
}
