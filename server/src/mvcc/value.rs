//! The values of the key space's families, byte by byte. `docs/disk-format.md` says the same in prose.
//!
//! Each begins with a byte that names its layout; a later layout gets the next number, and this file keeps reading the
//! earlier ones. Numbers are LEB128 varints; leases are varints of their two's complement. Decoding borrows: nothing is
//! copied until someone needs to own it. What does not decode was never written by us: the engine has already proven the
//! checksum, so the only answer is to stop before it is served or built upon.

use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;

use super::Kind;
use crate::{
    engine::fatal,
    types::{LeaseId, Revision, Sub},
};

/// The only layout so far.
const V1: u8 = 1;

const CREATED: u8 = 0;
const OVERWRITTEN: u8 = 1;
const DELETED: u8 = 2;

/// One version of a key without the key, as `cur` and the pre-images of `log` hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored<'a> {
    pub(super) create: Revision,
    pub(super) modified: Revision,
    /// Place among the changes of `modified`: etcd's hash goes by it.
    pub(super) sub: Sub,
    pub(super) version: i64,
    pub(super) lease: LeaseId,
    pub(super) value: &'a [u8],
}

/// One change as `log` holds it. Of a delete there is nothing new; of a creation nothing before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) key: &'a [u8],
    pub(super) new: Option<New<'a>>,
    pub(super) before: Option<Stored<'a>>,
}

/// What a put made. Its revision and sub are those of the record's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct New<'a> {
    pub(super) create: Revision,
    pub(super) version: i64,
    pub(super) lease: LeaseId,
    pub(super) value: &'a [u8],
}

impl<'a> Stored<'a> {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(1 + self.len());
        out.push(V1);
        self.write(&mut out);
        out.into()
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Self {
        Self::try_decode(bytes).unwrap_or_else(|| corrupt("current version", bytes))
    }

    fn try_decode(bytes: &'a [u8]) -> Option<Self> {
        Reader::v1(bytes)?.stored()
    }

    fn numbers(&self) -> [u64; 5] {
        [
            positive(self.create.0),
            positive(self.modified.0),
            u64::from(self.sub.0),
            positive(self.version),
            self.lease.0 as u64,
        ]
    }

    fn len(&self) -> usize {
        self.numbers().into_iter().map(varint_len).sum::<usize>() + self.value.len()
    }

    fn write(&self, out: &mut Vec<u8>) {
        for number in self.numbers() {
            put_varint(out, number);
        }
        out.extend_from_slice(self.value);
    }

    /// An owned version that shares the memory of `holder`, which `self` was decoded from.
    pub(super) fn key_value(&self, key: Bytes, holder: &Bytes) -> KeyValue {
        self.with_value(key, share(holder, self.value))
    }

    /// An owned version, `value` being a copy of its value.
    pub(super) fn with_value(&self, key: Bytes, value: Bytes) -> KeyValue {
        KeyValue {
            key,
            create_revision: self.create.0,
            mod_revision: self.modified.0,
            version: self.version,
            value,
            lease: self.lease.0,
        }
    }
}

impl<'a> Record<'a> {
    pub(super) fn kind(&self) -> Kind {
        if self.new.is_some() { Kind::Put } else { Kind::Delete }
    }

    pub(super) fn encode(&self) -> Bytes {
        let new = self.new.as_ref();
        let numbers =
            new.map(|new| [positive(new.create.0), positive(new.version), new.lease.0 as u64, new.value.len() as u64]);
        let key_len = self.key.len() as u64;
        let len = 2
            + varint_len(key_len)
            + self.key.len()
            + numbers.iter().flatten().copied().map(varint_len).sum::<usize>()
            + new.map_or(0, |new| new.value.len())
            + self.before.as_ref().map_or(0, Stored::len);
        let mut out = Vec::with_capacity(len);
        out.push(V1);
        out.push(match (new, &self.before) {
            (Some(_), None) => CREATED,
            (Some(_), Some(_)) => OVERWRITTEN,
            (None, Some(_)) => DELETED,
            (None, None) => unreachable!("only what exists is deleted"),
        });
        put_varint(&mut out, key_len);
        out.extend_from_slice(self.key);
        for number in numbers.iter().flatten() {
            put_varint(&mut out, *number);
        }
        if let Some(new) = new {
            out.extend_from_slice(new.value);
        }
        if let Some(before) = &self.before {
            before.write(&mut out);
        }
        debug_assert_eq!(out.len(), len, "the vector becomes `Bytes` without another allocation");
        out.into()
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Self {
        Self::try_decode(bytes).unwrap_or_else(|| corrupt("change", bytes))
    }

    fn try_decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::v1(bytes)?;
        let kind = reader.byte()?;
        let key_len = usize::try_from(reader.varint()?).ok()?;
        let key = reader.take(key_len)?;
        let new = match kind {
            CREATED | OVERWRITTEN => {
                let (create, version, lease) = (reader.revision()?, reader.number()?, reader.lease()?);
                let len = usize::try_from(reader.varint()?).ok()?;
                Some(New { create, version, lease, value: reader.take(len)? })
            }
            DELETED => None,
            _ => return None,
        };
        let before = if kind == CREATED { reader.rest.is_empty().then_some(None)? } else { Some(reader.stored()?) };
        Some(Self { key, new, before })
    }
}

/// The value in `gone`: when its key was deleted.
pub(super) fn encode_gone(deleted: Revision) -> Bytes {
    encode_number(positive(deleted.0))
}

pub(super) fn decode_gone(bytes: &[u8]) -> Revision {
    decode_number(bytes).and_then(revision).unwrap_or_else(|| corrupt("deletion", bytes))
}

/// The value in `count`: how many keys a piece holds.
pub(super) fn encode_count(keys: u64) -> Bytes {
    encode_number(keys)
}

pub(super) fn decode_count(bytes: &[u8]) -> u64 {
    decode_number(bytes).unwrap_or_else(|| corrupt("count", bytes))
}

/// A slice of `holder` that keeps it alive instead of copying.
pub(super) fn share(holder: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() { Bytes::new() } else { holder.slice_ref(part) }
}

fn encode_number(number: u64) -> Bytes {
    let mut out = Vec::with_capacity(1 + varint_len(number));
    out.push(V1);
    put_varint(&mut out, number);
    out.into()
}

fn decode_number(bytes: &[u8]) -> Option<u64> {
    let mut reader = Reader::v1(bytes)?;
    let number = reader.varint()?;
    reader.rest.is_empty().then_some(number)
}

/// Revisions and versions are stored unsigned, and only what was really made is stored.
fn positive(number: i64) -> u64 {
    u64::try_from(number).expect("revisions and versions of changes are above zero")
}

fn revision(number: u64) -> Option<Revision> {
    i64::try_from(number).ok().map(Revision)
}

fn varint_len(number: u64) -> usize {
    // Seven bits a byte; zero takes one byte too.
    (70 - (number | 1).leading_zeros() as usize) / 7
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn v1(bytes: &'a [u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        (*version == V1).then_some(Self { rest })
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<i64> {
        i64::try_from(self.varint()?).ok()
    }

    fn revision(&mut self) -> Option<Revision> {
        revision(self.varint()?)
    }

    fn lease(&mut self) -> Option<LeaseId> {
        Some(LeaseId(self.varint()? as i64))
    }

    /// A version that fills the rest.
    fn stored(mut self) -> Option<Stored<'a>> {
        Some(Stored {
            create: self.revision()?,
            modified: self.revision()?,
            sub: Sub(u32::try_from(self.varint()?).ok()?),
            version: self.number()?,
            lease: self.lease()?,
            value: self.rest,
        })
    }
}

/// Stops this member: what it holds is not what it wrote.
#[cold]
pub(super) fn corrupt(what: &str, bytes: &[u8]) -> ! {
    let shown = &bytes[..bytes.len().min(64)];
    fatal(&format!("a {what} does not decode"), format_args!("{} bytes, {shown:02x?}", bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(value: &[u8]) -> Stored<'_> {
        Stored { create: Revision(2), modified: Revision(300), sub: Sub(1), version: 7, lease: LeaseId(-1), value }
    }

    #[test]
    fn current_version_bytes() {
        let bytes = stored(b"hi").encode();
        assert_eq!(
            &bytes[..],
            [&[1, 2, 0xac, 2, 1, 7][..], &[0xff; 9], &[1], b"hi"].concat(),
            "layout 1 of `cur` must be readable for ever"
        );
        assert_eq!(Stored::decode(&bytes), stored(b"hi"));
    }

    #[test]
    fn change_bytes() {
        let new = New { create: Revision(2), version: 8, lease: LeaseId(5), value: b"new" };
        let before = Stored { lease: LeaseId::NONE, ..stored(b"old") };
        let cases: [(Record<'_>, &[u8]); 3] = [
            (Record { key: b"k", new: Some(new), before: None }, b"\x01\x00\x01k\x02\x08\x05\x03new"),
            (
                Record { key: b"k", new: Some(new), before: Some(before) },
                b"\x01\x01\x01k\x02\x08\x05\x03new\x02\xac\x02\x01\x07\x00old",
            ),
            (Record { key: b"k", new: None, before: Some(before) }, b"\x01\x02\x01k\x02\xac\x02\x01\x07\x00old"),
        ];
        for (record, golden) in cases {
            assert_eq!(&record.encode()[..], golden, "layout 1 of `log` must be readable for ever");
            assert_eq!(Record::decode(golden), record);
        }
    }

    #[test]
    fn number_bytes() {
        assert_eq!(&encode_gone(Revision(300))[..], b"\x01\xac\x02");
        assert_eq!(decode_gone(b"\x01\xac\x02"), Revision(300));
        assert_eq!(&encode_count(0)[..], b"\x01\x00");
        assert_eq!(decode_count(b"\x01\xe8\x07"), 1000);
    }

    #[test]
    fn varints_use_the_length_that_was_foreseen() {
        for shift in 0..64 {
            for number in [1_u64 << shift, (1_u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_varint(&mut out, number);
                assert_eq!(out.len(), varint_len(number), "{number}");
                assert_eq!(Reader { rest: &out }.varint(), Some(number));
            }
        }
    }

    #[test]
    fn what_was_cut_or_is_of_another_layout_is_refused() {
        let new = New { create: Revision(2), version: 8, lease: LeaseId(5), value: b"" };
        let record = Record { key: b"key", new: Some(new), before: Some(stored(b"")) }.encode();
        for cut in 0..record.len() {
            assert_eq!(Record::try_decode(&record[..cut]), None, "cut at {cut}");
        }
        let current = stored(b"").encode();
        for cut in 0..current.len() {
            assert_eq!(Stored::try_decode(&current[..cut]), None, "cut at {cut}");
        }
        let mut later = current.to_vec();
        later[0] = 2;
        assert_eq!(Stored::try_decode(&later), None);
        assert_eq!(decode_number(b"\x01\x05\x00"), None, "nothing may follow a number");
        assert_eq!(Reader { rest: &[0xff; 11] }.varint(), None, "more than 64 bits");
    }
}
