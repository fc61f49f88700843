//! Which entries are history that nobody needs any more: one rule for both engines.

use super::{Family, Key};
use crate::types::Revision;

/// Whether an entry may go once no read needs what lies at or below `floor`.
///
/// Of `log` the changes of the floor itself stay, for a watch that starts there.
pub(super) fn droppable(family: Family, key: &[u8], value: &[u8], floor: Revision) -> bool {
    match family {
        Family::Log => matches!(Key::decode(family, key), Ok(Key::Log { revision, .. }) if revision < floor),
        Family::Idx => superseded_at(key).is_some_and(|revision| revision <= floor),
        Family::Gone => gone_revision(value).is_some_and(|revision| revision <= floor),
        _ => false,
    }
}

/// The revision in an `idx` key, without reading the user key before it.
fn superseded_at(key: &[u8]) -> Option<Revision> {
    let (rest, _sub) = key.split_last_chunk::<4>()?;
    let (_, revision) = rest.split_last_chunk::<8>()?;
    Some(Revision(i64::from_be_bytes(*revision)))
}

/// The value of a `gone` key: version 1, and the revision of the delete, big endian.
#[must_use]
pub fn gone_value(deleted: Revision) -> [u8; 9] {
    let mut value = [1; 9];
    value[1..].copy_from_slice(&deleted.0.to_be_bytes());
    value
}

/// Reads it back; `None` if it is not of a version that this program knows.
#[must_use]
pub fn gone_revision(value: &[u8]) -> Option<Revision> {
    let (1, revision) = value.split_first().map(|(version, rest)| (*version, rest))? else { return None };
    revision.try_into().ok().map(|revision| Revision(i64::from_be_bytes(revision)))
}
