//! What may go once the floor has risen above it. Both engines ask here, and whoever hands the store on.

use super::{Family, Key};
use crate::types::Revision;

/// Layout byte of the values in `gone` (`docs/disk-format.md`).
const GONE_V1: u8 = 1;

/// Whether an entry of `family` serves no read at or above `floor`, the compacted revision.
///
/// - `log` below the floor: compaction keeps the events of the floor itself for a watch that starts there.
/// - `idx` superseded at or below the floor: it leads only reads below its revision.
/// - `gone` deleted at or below the floor: who reads at the floor must not see the key anyway.
///
/// What does not decode stays: its reader stops the member and says so, while here it would vanish silently.
#[must_use]
pub fn droppable(family: Family, key: &[u8], value: &[u8], floor: Revision) -> bool {
    match family {
        Family::Log => matches!(Key::decode(family, key), Ok(Key::Log { revision, .. }) if revision < floor),
        Family::Idx => change_of_idx(key).is_some_and(|revision| revision <= floor),
        Family::Gone => deletion(value).is_some_and(|revision| revision <= floor),
        _ => false,
    }
}

/// The filter runs over millions of keys, so it reads only the end: 8 bytes of revision and 4 of sub.
fn change_of_idx(key: &[u8]) -> Option<Revision> {
    let (_, tail) = key.split_last_chunk::<12>()?;
    let (revision, _) = tail.split_first_chunk::<8>()?;
    i64::try_from(u64::from_be_bytes(*revision)).ok().map(Revision)
}

/// The deletion revision: a LEB128 varint behind the layout byte.
fn deletion(value: &[u8]) -> Option<Revision> {
    let (&GONE_V1, varint) = value.split_first()? else { return None };
    let mut revision = 0_i64;
    for (i, byte) in varint.iter().enumerate() {
        // 9 groups of 7 bits fill the 63 bits of a revision.
        if i == 9 {
            return None;
        }
        revision |= i64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return (i + 1 == varint.len()).then_some(Revision(revision));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Sub;

    #[test]
    fn each_family_has_its_bound() {
        let log = |revision| Key::Log { revision: Revision(revision), sub: Sub(0) }.encode();
        let idx = |revision| Key::Idx { key: b"k\0".into(), revision: Revision(revision), sub: Sub(9) }.encode();
        let floor = Revision(300);
        assert!(droppable(Family::Log, &log(299), b"", floor));
        assert!(!droppable(Family::Log, &log(300), b"", floor), "a watch may start at the compacted revision");
        assert!(droppable(Family::Idx, &idx(300), b"", floor));
        assert!(!droppable(Family::Idx, &idx(301), b"", floor));
        assert!(droppable(Family::Gone, b"k", b"\x01\xac\x02", floor));
        assert!(!droppable(Family::Gone, b"k", b"\x01\xad\x02", floor));
        assert!(!droppable(Family::Cur, b"k", b"\x01\x01", floor));
        assert!(!droppable(Family::Meta, b"applied", b"\x01\x01", floor));
    }

    #[test]
    fn what_does_not_decode_stays() {
        for value in [
            &b""[..],
            b"\x01",
            b"\x02\x01",
            b"\x01\x80",
            b"\x01\x01\x00",
            &[1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        ] {
            assert!(!droppable(Family::Gone, b"k", value, Revision(i64::MAX)), "{value:02x?}");
        }
        assert!(!droppable(Family::Idx, b"short", b"", Revision(i64::MAX)));
        assert!(!droppable(Family::Idx, &[0xff; 14], b"", Revision(i64::MAX)));
        assert!(!droppable(Family::Log, b"short", b"", Revision(i64::MAX)));
    }
}
