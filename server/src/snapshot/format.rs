//! The bytes of an archive: a head, blocks of records, an end. `docs/disk-format.md` is the same in prose.
//!
//! ```text
//! head   8 magic, u32 version, u32 length of the ConfState, u64 cluster, u64 index, u64 term, u64 revision,
//!        ConfState, u32 crc32c of all in front
//! block  u32 length of the body, u32 family, u32 number of records, u32 crc32c of the 12 bytes in front and the body,
//!        body: for each record varint length of the key, key, varint length of the value, value
//! end    a block of family ffffffff without records; body: for each family u64 number of records, then the SHA-1 of
//!        everything in front of the end
//! ```
//! Little-endian. The digest is against accidents, as the checksums are; who may send an archive is decided elsewhere.

use bytes::{Buf, Bytes};
use prost::encoding::{decode_varint, encode_varint};
use sha1::{Digest, Sha1};

use super::ArchiveMeta;
use crate::{
    engine::Family,
    types::{ClusterId, LogIndex, Revision, Term},
};

pub(super) const MAGIC: &[u8; 8] = b"CNCLVARC";
pub(super) const VERSION: u32 = 1;
pub(super) const HEAD_FIXED: usize = 48;
/// In front of a block's body.
pub(super) const BLOCK_HEAD: usize = 16;

/// The piece in which an archive travels: large enough that its frame and its acknowledgement cost nothing beside it,
/// small enough that a slow link moves one in a second (2 Mbit/s).
pub const CHUNK_BYTES: usize = 256 << 10;
/// A block takes no further record once its body has this size: what a damaged bit costs at most to find.
pub(super) const BLOCK_TARGET: usize = 64 << 10;
/// The largest body that is believed. A single record makes a block of its own; one of `log` holds a key and two values,
/// each within the limit on requests, which a raft log segment bounds to less than 2 GiB together.
pub(super) const MAX_BLOCK: usize = 1 << 30;
/// Seven voters take 80 bytes.
pub const MAX_CONF_STATE_BYTES: usize = 64 << 10;

/// The number of the end among the families.
const END: u32 = u32::MAX;
const DIGEST: usize = 20;
const COUNTS: usize = 8 * Family::ALL.len();

/// Bytes that are not the archive they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("it is not an archive")]
    NotOne,
    #[error("it has version {0}, and this program reads version {VERSION}")]
    Version(u32),
    #[error("a checksum is wrong at byte {0}")]
    Checksum(u64),
    #[error("a block at byte {0} does not hold what its head says")]
    Block(u64),
    #[error("its records are not in order at byte {0}")]
    Order(u64),
    #[error("its end does not fit what is in front of it")]
    End,
    #[error("it is not the archive that was announced")]
    Another,
    #[error("it ends too early")]
    Short,
}

/// Disk values; never renumber.
pub(super) fn family_code(family: Family) -> u32 {
    match family {
        Family::Cur => 1,
        Family::Log => 2,
        Family::Idx => 3,
        Family::Gone => 4,
        Family::Count => 5,
        Family::Leases => 6,
        Family::LeaseKeys => 7,
        Family::Requests => 8,
        Family::Auth => 9,
        Family::Members => 10,
        Family::Meta => 11,
    }
}

fn family_of(code: u32) -> Option<Family> {
    Family::ALL.into_iter().find(|family| family_code(*family) == code)
}

pub(super) fn write_head(meta: &ArchiveMeta, out: &mut Vec<u8>) {
    let start = out.len();
    let length = u32::try_from(meta.conf_state.len()).expect("a ConfState is small");
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    let revision = u64::try_from(meta.revision.0).expect("revisions begin at 1");
    for number in [meta.cluster.0, meta.index.0, meta.term.0, revision] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&meta.conf_state);
    let crc = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// What the bytes begin with, and how many bytes that takes; None: more of them are needed.
pub(super) fn read_head(bytes: &[u8]) -> Result<Option<(ArchiveMeta, usize)>, Broken> {
    if !bytes.starts_with(&MAGIC[..bytes.len().min(8)]) {
        return Err(Broken::NotOne);
    }
    if bytes.len() < HEAD_FIXED {
        return Ok(None);
    }
    let version = u32_at(bytes, 8);
    if version != VERSION {
        return Err(Broken::Version(version));
    }
    let conf_state = u32_at(bytes, 12) as usize;
    if conf_state > MAX_CONF_STATE_BYTES {
        return Err(Broken::NotOne);
    }
    let length = HEAD_FIXED + conf_state + 4;
    if bytes.len() < length {
        return Ok(None);
    }
    if crc32c::crc32c(&bytes[..length - 4]) != u32_at(bytes, length - 4) {
        return Err(Broken::Checksum(0));
    }
    let meta = ArchiveMeta {
        cluster: ClusterId(u64_at(bytes, 16)),
        index: LogIndex(u64_at(bytes, 24)),
        term: Term(u64_at(bytes, 32)),
        revision: Revision(i64::try_from(u64_at(bytes, 40)).map_err(|_| Broken::NotOne)?),
        conf_state: Bytes::copy_from_slice(&bytes[HEAD_FIXED..length - 4]),
    };
    Ok(Some((meta, length)))
}

/// Fills one block.
pub(super) struct BlockWriter {
    family: Family,
    count: u32,
    bytes: Vec<u8>,
}

impl BlockWriter {
    pub(super) fn new(family: Family) -> Self {
        Self { family, count: 0, bytes: vec![0; BLOCK_HEAD] }
    }

    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        for part in [key, value] {
            encode_varint(part.len() as u64, &mut self.bytes);
            self.bytes.extend_from_slice(part);
        }
        self.count += 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() - BLOCK_HEAD >= BLOCK_TARGET
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// # Panics
    /// If a single record is larger than a block may be, which the limit on requests excludes.
    pub(super) fn finish(self) -> Vec<u8> {
        seal(family_code(self.family), self.count, self.bytes)
    }
}

/// The end of an archive.
pub(super) fn write_end(counts: &[u64; Family::ALL.len()], digest: Sha1) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_HEAD];
    counts.iter().for_each(|count| bytes.extend_from_slice(&count.to_le_bytes()));
    bytes.extend_from_slice(&digest.finalize());
    seal(END, 0, bytes)
}

fn seal(code: u32, count: u32, mut bytes: Vec<u8>) -> Vec<u8> {
    let length = bytes.len() - BLOCK_HEAD;
    assert!(length <= MAX_BLOCK, "a record of {length} bytes is larger than any request may be");
    bytes[..4].copy_from_slice(&u32::try_from(length).expect("checked above").to_le_bytes());
    bytes[4..8].copy_from_slice(&code.to_le_bytes());
    bytes[8..12].copy_from_slice(&count.to_le_bytes());
    let crc = checksum(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn checksum(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[BLOCK_HEAD..])
}

/// A sound block.
pub(super) enum Block {
    Records { family: Family, count: u32, body: Bytes },
    End { counts: [u64; Family::ALL.len()], digest: [u8; DIGEST] },
}

/// The length of the block that begins here, head included; None: more bytes are needed. `at` is for messages.
pub(super) fn block_length(bytes: &[u8], at: u64) -> Result<Option<usize>, Broken> {
    if bytes.len() < BLOCK_HEAD {
        return Ok(None);
    }
    let (length, code) = (u32_at(bytes, 0) as usize, u32_at(bytes, 4));
    let fits = if code == END { length == COUNTS + DIGEST } else { length <= MAX_BLOCK && family_of(code).is_some() };
    if fits { Ok(Some(BLOCK_HEAD + length)) } else { Err(Broken::Block(at)) }
}

/// Reads the whole block that `bytes` are.
pub(super) fn read_block(bytes: &Bytes, at: u64) -> Result<Block, Broken> {
    if checksum(bytes) != u32_at(bytes, 12) {
        return Err(Broken::Checksum(at));
    }
    let (code, count) = (u32_at(bytes, 4), u32_at(bytes, 8));
    let body = bytes.slice(BLOCK_HEAD..);
    if code != END {
        let family = family_of(code).ok_or(Broken::Block(at))?;
        return if count > 0 { Ok(Block::Records { family, count, body }) } else { Err(Broken::Block(at)) };
    }
    if count != 0 || body.len() != COUNTS + DIGEST {
        return Err(Broken::Block(at));
    }
    let mut counts = [0; Family::ALL.len()];
    for (place, count) in counts.iter_mut().enumerate() {
        *count = u64_at(&body, 8 * place);
    }
    let digest = body[COUNTS..].try_into().expect("its length was checked");
    Ok(Block::End { counts, digest })
}

/// Takes the next record off a block's body.
pub(super) fn take_record(body: &mut Bytes) -> Option<(Bytes, Bytes)> {
    let mut part = || {
        let length = usize::try_from(decode_varint(body).ok()?).ok()?;
        (length <= body.remaining()).then(|| body.split_to(length))
    };
    Some((part()?, part()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
