//! HashKV as etcd defines it (etcd-v3.md 5.5; `server/storage/mvcc/{hash,kvstore,key_index}.go`), so that members of both
//! kinds agree about the same history.
//!
//! CRC32-Castagnoli over the name of etcd's bucket, then over each record in the order of revisions: its key in that
//! bucket (revision, `_`, sub, and `t` on a deletion) and the marshalled `mvccpb.KeyValue` (of a deletion only the key).
//! Which records at a revision Q, with everything up to C compacted:
//!
//! - above C, up to Q: all changes;
//! - up to C: the versions that are still valid at Q. If no key exists at Q at all, etcd's set of revisions to keep is
//!   empty, which it takes for "keep everything", and so it hashes what its compaction has left: the versions that were
//!   valid at C. Deletions at C itself are left out, as older releases do not keep them.
//!
//! Changes above C are read in order from `log`. The versions up to C come in the order of keys and must be hashed in the
//! order of revisions; since CRCs combine, a pass needs to hold only a revision, a CRC and a length for each, and takes no
//! more than [`PASS`] of them: ten million keys are ten walks, not a gigabyte.
//!
//! etcd's compaction leaves what it has not reached yet in the hash, so its answers differ from ours (and from those of
//! its other members) while a compaction runs. It also remembers the hashes that its last ten compactions computed, and
//! answers with one of them when asked for exactly such a revision: that hash is what [`hash_kv`] says of the position
//! *before* that compaction.

use std::{collections::BinaryHeap, ops::ControlFlow};

use super::{
    Position, Published,
    combine::combine,
    feed::walk,
    past::Vanished,
    query::KeyRange,
    range::Moment,
    value::{New, Record, Stored},
};
use crate::{
    engine::Read,
    error::Error,
    types::{Revision, Sub},
};

/// etcd's name of the bucket that holds revisions.
const BUCKET: &[u8] = b"key";

/// Records held in one pass: 24 MB.
const PASS: usize = 1_000_000;

/// Compactions that may overtake a hash before it is given up: they come minutes apart.
const TRIES: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    pub compacted: Revision,
    pub revision: Revision,
}

/// etcd's HashKV, equal to etcd's for the same history. `revision` 0: current.
///
/// It reads all history above the compacted revision: right only if that is still the compacted revision afterwards, which
/// [`hash_published`] sees to.
pub fn hash_kv(read: &impl Read, at: Position, revision: Revision) -> Result<HashKv, Error> {
    hash_in_passes(read, at, revision, PASS)
}

/// [`hash_kv`] of what is published, again if a compaction overtook it. Also says what was current.
pub fn hash_published(published: &Published, revision: Revision) -> Result<(HashKv, Revision), Error> {
    for _ in 0..TRIES {
        let view = published.load_full();
        let hash = hash_kv(&view.view, view.position, revision);
        if published.load().position.compacted == view.position.compacted {
            let wanted = if revision.0 == 0 { view.position.revision } else { revision };
            if wanted >= view.position.compacted && hash == Err(Error::Compacted) {
                super::lost_history(view.position, wanted);
            }
            return hash.map(|hash| (hash, view.position.revision));
        }
    }
    Err(Error::Compacted)
}

pub(super) fn hash_in_passes(read: &impl Read, at: Position, asked: Revision, pass: usize) -> Result<HashKv, Error> {
    let compacted = at.compacted;
    if asked.0 > 0 && asked < compacted {
        return Err(Error::Compacted);
    }
    if asked > at.revision {
        return Err(Error::FutureRev);
    }
    let mut hash = crc32c::crc32c(BUCKET);
    // etcd takes a negative revision as it is, and finds nothing up to it.
    if asked.0 < 0 {
        return Ok(HashKv { hash, compacted, revision: asked });
    }
    let revision = if asked.0 == 0 { at.revision } else { asked };
    if compacted > Revision(0) {
        let valid_at = if has_keys(read, at, revision)? { revision } else { compacted };
        hash = append_versions(read, Moment::of(at, valid_at)?, compacted, pass, hash)?;
    }
    let mut records = Records::default();
    walk(read, compacted.max(Revision::FIRST).next(), revision, &mut |revision, sub, encoded| {
        hash = records.append_change(hash, revision, sub, &Record::decode(encoded));
        ControlFlow::Continue(())
    })?;
    Ok(HashKv { hash, compacted, revision })
}

fn everything() -> KeyRange {
    KeyRange::From(bytes::Bytes::from_static(&[0]))
}

fn has_keys(read: &impl Read, at: Position, revision: Revision) -> Result<bool, Error> {
    let mut found = false;
    Moment::of(at, revision)?.walk(read, &everything(), &mut |_, _| {
        found = true;
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// One record's place in etcd's order, and its CRC and length: all that combining needs.
type Digest = ((Revision, Sub), u32, u32);

/// Appends the versions that are valid at `moment` and were made up to `compacted`.
fn append_versions(
    read: &impl Read,
    moment: Moment,
    compacted: Revision,
    pass: usize,
    mut hash: u32,
) -> Result<u32, Vanished> {
    let mut records = Records::default();
    let mut done = (Revision(0), Sub(0));
    loop {
        // The largest is on top, and makes way for smaller ones.
        let mut smallest: BinaryHeap<Digest> = BinaryHeap::new();
        moment.walk(read, &everything(), &mut |key, stored| {
            let place = (stored.modified, stored.sub);
            let wanted = place > done && stored.modified <= compacted;
            let full = smallest.len() == pass;
            if wanted && (!full || smallest.peek().is_some_and(|(largest, ..)| place < *largest)) {
                if full {
                    smallest.pop();
                }
                let (crc, len) = records.digest_version(key, &stored);
                smallest.push((place, crc, len));
            }
            ControlFlow::Continue(())
        })?;
        let full = smallest.len() == pass;
        for (place, crc, len) in smallest.into_sorted_vec() {
            hash = combine(hash, crc, len);
            done = place;
        }
        if !full {
            return Ok(hash);
        }
    }
}

/// Writes records as etcd stores them, a part at a time into one buffer that is used again and again.
#[derive(Default)]
struct Records {
    /// Everything before the value.
    head: Vec<u8>,
    /// Everything behind it.
    tail: Vec<u8>,
}

/// Tags of `mvccpb.KeyValue`: field number and wire type.
mod tag {
    pub(super) const KEY: u8 = 1 << 3 | 2;
    pub(super) const CREATE_REVISION: u8 = 2 << 3;
    pub(super) const MOD_REVISION: u8 = 3 << 3;
    pub(super) const VERSION: u8 = 4 << 3;
    pub(super) const VALUE: u8 = 5 << 3 | 2;
    pub(super) const LEASE: u8 = 6 << 3;
}

impl Records {
    fn append_change(&mut self, hash: u32, revision: Revision, sub: Sub, record: &Record<'_>) -> u32 {
        let value = match &record.new {
            Some(new) => self.put(record.key, revision, sub, new),
            None => {
                self.place(revision, sub);
                self.head.push(b't');
                self.key(record.key);
                &[]
            }
        };
        [&self.head, value, &self.tail].into_iter().fold(hash, crc32c_append)
    }

    fn digest_version(&mut self, key: &[u8], stored: &Stored<'_>) -> (u32, u32) {
        let Stored { create, modified, sub, version, lease, value } = *stored;
        self.put(key, modified, sub, &New { create, version, lease, value });
        let crc = [&self.head, value, &self.tail].into_iter().fold(0, crc32c_append);
        let len = self.head.len() + value.len() + self.tail.len();
        (crc, u32::try_from(len).expect("a request is far smaller than 4 GiB"))
    }

    /// Returns the value, which lies between head and tail.
    fn put<'v>(&mut self, key: &[u8], revision: Revision, sub: Sub, new: &New<'v>) -> &'v [u8] {
        self.place(revision, sub);
        self.key(key);
        number(&mut self.head, tag::CREATE_REVISION, new.create.0);
        number(&mut self.head, tag::MOD_REVISION, revision.0);
        number(&mut self.head, tag::VERSION, new.version);
        length(&mut self.head, tag::VALUE, new.value);
        number(&mut self.tail, tag::LEASE, new.lease.0);
        new.value
    }

    fn place(&mut self, revision: Revision, sub: Sub) {
        self.head.clear();
        self.tail.clear();
        self.head.extend_from_slice(&revision.0.to_be_bytes());
        self.head.push(b'_');
        self.head.extend_from_slice(&u64::from(sub.0).to_be_bytes());
    }

    fn key(&mut self, key: &[u8]) {
        length(&mut self.head, tag::KEY, key);
        self.head.extend_from_slice(key);
    }
}

fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    if bytes.is_empty() { crc } else { crc32c::crc32c_append(crc, bytes) }
}

/// A field of protobuf 3 that is zero is not written.
fn number(out: &mut Vec<u8>, tag: u8, number: i64) {
    if number != 0 {
        out.push(tag);
        super::value::put_varint(out, number as u64);
    }
}

fn length(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        super::value::put_varint(out, bytes.len() as u64);
    }
}
