//! The table: member id to what is known of the member.
//!
//! Value, version 1: flags (bit 0: learner), then name, peer URLs and client URLs; a string is its length and its bytes,
//! a list is its length and its strings; lengths are varints.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};

use super::Member;
use crate::{
    engine::{self, Batch, Family, Key, Read},
    types::MemberId,
};

/// First byte of every value.
const VERSION: u8 = 1;
const LEARNER: u8 = 1;

pub fn put(batch: &mut Batch, member: &Member) {
    batch.put(&Key::Member(member.id), encode(member));
}

#[must_use]
pub fn get(read: &impl Read, id: MemberId) -> Option<Member> {
    read.get(&Key::Member(id)).map(|value| read_value(id, &value))
}

/// All members, by id.
#[must_use]
pub fn all(read: &impl Read) -> Vec<Member> {
    let mut found = Vec::new();
    let mut cursor = read.scan(Family::Members, &[], None);
    while cursor.valid() {
        let Ok(Key::Member(id)) = Key::decode(Family::Members, cursor.key()) else {
            engine::fatal("reading the table of members", "a key that is no member id")
        };
        found.push(read_value(id, cursor.value()));
        cursor.next();
    }
    found
}

fn read_value(id: MemberId, value: &[u8]) -> Member {
    decode(id, value).unwrap_or_else(|| {
        engine::fatal("reading the table of members", format!("the value of member {:x} cannot be read", id.0))
    })
}

pub(super) fn encode(member: &Member) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    out.put_u8(if member.learner { LEARNER } else { 0 });
    put_string(&mut out, &member.name);
    for list in [&member.peer_urls, &member.client_urls] {
        encode_varint(list.len() as u64, &mut out);
        list.iter().for_each(|url| put_string(&mut out, url));
    }
    out.freeze()
}

pub(super) fn decode(id: MemberId, mut value: &[u8]) -> Option<Member> {
    if value.len() < 2 || value.get_u8() != VERSION {
        return None;
    }
    let learner = match value.get_u8() {
        0 => false,
        LEARNER => true,
        _ => return None,
    };
    let name = take_string(&mut value)?;
    let peer_urls = take_list(&mut value)?;
    let client_urls = take_list(&mut value)?;
    value.is_empty().then_some(Member { id, name, peer_urls, client_urls, learner })
}

fn put_string(out: &mut BytesMut, text: &str) {
    encode_varint(text.len() as u64, out);
    out.put_slice(text.as_bytes());
}

fn take_string(value: &mut &[u8]) -> Option<String> {
    let len = usize::try_from(decode_varint(value).ok()?).ok()?;
    let (text, rest) = value.split_at_checked(len)?;
    *value = rest;
    String::from_utf8(text.to_vec()).ok()
}

fn take_list(value: &mut &[u8]) -> Option<Vec<String>> {
    let len = decode_varint(value).ok()?;
    // No room is set aside by a length that may be rot: each string takes at least a byte, so this ends with the value.
    (0..len).map(|_| take_string(value)).collect()
}
