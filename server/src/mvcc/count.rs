//! How many keys there are, without walking them.
//!
//! The key space is cut into pieces, and `count` holds, under the smallest key that a piece may have, how many keys it
//! has now. Pieces join without gap: the first begins at the empty key, which no user key is; each other begins right
//! after a key that existed when it was split off (that key and a zero byte: the smallest that is greater), so that its
//! left neighbour is found by the greatest start at or below that key.
//!
//! Kept up to date in the batch that changes `cur`, so both always agree; the model test compares with a full walk.

use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;

use super::{
    query::{KeyRange, Span},
    value::{decode_count, encode_count},
};
use crate::engine::{Batch, Family, Key, Read};

/// Above this a piece is cut at its middle: a walk of half a piece is about what a list of 500 keys costs, and a
/// million keys are 2,000 pieces, which are added up in less than half a millisecond.
const MOST: u64 = 1000;
/// Neighbours with at most this many together become one. Below `MOST`, so that it takes a good number of creations
/// until they are cut again.
const JOINED: u64 = 750;
/// A piece with at most this many keys looks for a neighbour to join.
const SMALL: u64 = 192;
/// It looks only when its number of keys passes a multiple of this, so that most deletions do not.
const STEP: u64 = 64;

struct Piece {
    start: Vec<u8>,
    keys: u64,
}

/// How many keys of `range` exist now.
pub(super) fn count(read: &impl Read, range: &KeyRange) -> u64 {
    let (from, to) = match range.span() {
        Span::Empty => return 0,
        Span::One(key) => return u64::from(read.get(&Key::Cur(key)).is_some()),
        // No user key is empty, so all of them are as good as at or above the empty key, where the first piece begins.
        Span::List { from: [0], to } => (&[][..], to),
        Span::List { from, to } => (from, to),
    };
    let Some((start, _)) = read.last_at_or_below(Family::Count, from) else { return 0 };
    let mut pieces = read.scan(Family::Count, &start, to);
    let mut total = 0;
    while pieces.valid() {
        let keys = decode_count(pieces.value());
        let starts_inside = pieces.key() >= from;
        let start = pieces.key().max(from).to_vec();
        pieces.next();
        // The cursor ends at `to`; the last piece may go on behind it.
        let end = if pieces.valid() { Some(pieces.key()) } else { to };
        let ends_inside = pieces.valid() || to.is_none();
        total += if starts_inside && ends_inside { keys } else { walk(read, &start, end) };
    }
    total
}

fn walk(read: &impl Read, from: &[u8], to: Option<&[u8]>) -> u64 {
    let mut keys = read.scan(Family::Cur, from, to);
    let mut total = 0;
    while keys.valid() {
        total += 1;
        keys.next();
    }
    total
}

/// A key came into being; `cur` already has it.
pub(super) fn created(batch: &mut Batch, key: &[u8]) {
    let mut piece = find(batch, key).unwrap_or(Piece { start: Vec::new(), keys: 0 });
    piece.keys += 1;
    if piece.keys <= MOST {
        put(batch, &piece.start, piece.keys);
        return;
    }
    let left = piece.keys / 2;
    let mut start = key_number(batch, &piece.start, left);
    start.push(0);
    put(batch, &piece.start, left);
    put(batch, &start, piece.keys - left);
}

/// Keys, in ascending order, are no more; `cur` no longer has them.
pub(super) fn deleted(batch: &mut Batch, keys: &[KeyValue]) {
    let mut rest = keys;
    while let Some(first) = rest.first() {
        let piece = find(batch, &first.key).expect("a key that existed is counted in a piece");
        // One key alone needs not know where its piece ends.
        let here = match rest.len() {
            1 => 1,
            _ => right_of(batch, &piece.start)
                .map_or(rest.len(), |right| rest.partition_point(|kv| *kv.key < *right.start)),
        };
        shrink(batch, &piece, here as u64);
        rest = &rest[here..];
    }
}

fn shrink(batch: &mut Batch, piece: &Piece, by: u64) {
    let keys = piece.keys.checked_sub(by).expect("a piece counts every key that it holds");
    if keys > SMALL || keys / STEP == piece.keys / STEP {
        return put(batch, &piece.start, keys);
    }
    if let Some(left) = left_of(batch, &piece.start).filter(|left| left.keys + keys <= JOINED) {
        batch.delete(&Key::Count(&piece.start));
        put(batch, &left.start, left.keys + keys);
    } else if let Some(right) = right_of(batch, &piece.start).filter(|right| right.keys + keys <= JOINED) {
        batch.delete(&Key::Count(&right.start));
        put(batch, &piece.start, right.keys + keys);
    } else {
        put(batch, &piece.start, keys);
    }
}

fn put(batch: &mut Batch, start: &[u8], keys: u64) {
    batch.put(&Key::Count(start), encode_count(keys));
}

/// The piece that `key` belongs to. None only while nothing was ever written.
fn find(read: &impl Read, key: &[u8]) -> Option<Piece> {
    let (start, keys): (Vec<u8>, Bytes) = read.last_at_or_below(Family::Count, key)?;
    Some(Piece { start, keys: decode_count(&keys) })
}

fn left_of(read: &impl Read, start: &[u8]) -> Option<Piece> {
    let (last, before) = start.split_last()?;
    assert_eq!(*last, 0, "a piece begins right after a key");
    find(read, before)
}

fn right_of(read: &impl Read, start: &[u8]) -> Option<Piece> {
    let mut pieces = read.scan(Family::Count, start, None);
    assert!(pieces.valid() && pieces.key() == start, "a piece that was found is there");
    pieces.next();
    pieces.valid().then(|| Piece { start: pieces.key().to_vec(), keys: decode_count(pieces.value()) })
}

/// The `number`th key, from 1, at or above `from`.
fn key_number(read: &impl Read, from: &[u8], number: u64) -> Vec<u8> {
    let mut keys = read.scan(Family::Cur, from, None);
    for _ in 1..number {
        keys.next();
    }
    assert!(keys.valid(), "a piece holds the keys that it counts");
    keys.key().to_vec()
}
