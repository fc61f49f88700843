//! What a key was at a past revision: the current version, unless it is younger; then what the first later change
//! replaced.
//!
//! A read of the past can lose a race: a compaction that was applied after the view was taken lets history go, and a
//! view does not keep it (see [`crate::engine::Engine::drop_history`]). It may then find an `idx` entry without its
//! change ([`Vanished`]) or, without noticing, no `idx` entry at all. That is why each past read is judged afterwards by
//! [`super::read_past`].

use std::ops::ControlFlow;

use super::{
    query::{KeyRange, Span},
    value::{Record, Stored, corrupt, decode_gone},
};
use crate::{
    engine::{Cursor, Family, Key, Read},
    types::{Revision, Sub},
};

/// History that `idx` names is not there: either it was dropped while it was read, or this member has lost data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vanished;

/// Called with each key and version in key order; breaks when it has enough.
pub(super) type Visit<'v> = dyn FnMut(&[u8], Stored<'_>) -> ControlFlow<()> + 'v;

/// All revisions and subs of a change lie below this.
const END: (Revision, Sub) = (Revision(i64::MAX), Sub(u32::MAX));

/// The keys of `range` that existed at `revision`, with what they were.
pub(super) fn walk(
    read: &impl Read,
    range: &KeyRange,
    revision: Revision,
    visit: &mut Visit<'_>,
) -> Result<(), Vanished> {
    let (from, to) = match range.span() {
        Span::Empty => return Ok(()),
        Span::One(key) => return walk_one(read, key, revision, visit),
        Span::List { from, to } => (from, to),
    };
    let mut history = History { read, changes: read.scan(Family::Idx, &idx_key(from, (Revision(0), Sub(0))), None) };
    let mut current = read.scan(Family::Cur, from, to);
    let mut gone = read.scan(Family::Gone, from, to);
    // A key may be in both: `gone` keeps its entry when the key is created again.
    while current.valid() || gone.valid() {
        if current.valid() && (!gone.valid() || current.key() <= gone.key()) {
            let twice = gone.valid() && current.key() == gone.key();
            let stored = Stored::decode(current.value());
            let flow = if stored.modified <= revision {
                visit(current.key(), stored)
            } else {
                history.visit(current.key(), revision, visit)?
            };
            if flow.is_break() {
                return Ok(());
            }
            current.next();
            if twice {
                gone.next();
            }
        } else {
            if decode_gone(gone.value()) > revision && history.visit(gone.key(), revision, visit)?.is_break() {
                return Ok(());
            }
            gone.next();
        }
    }
    Ok(())
}

fn walk_one(read: &impl Read, key: &[u8], revision: Revision, visit: &mut Visit<'_>) -> Result<(), Vanished> {
    if let Some(bytes) = read.get(&Key::Cur(key)) {
        let stored = Stored::decode(&bytes);
        if stored.modified <= revision {
            let _ = visit(key, stored);
            return Ok(());
        }
    }
    replaced(read, key, revision, visit)
}

/// What the first change of `key` after `revision` replaced, if that was valid at `revision`.
pub(super) fn replaced(
    read: &impl Read,
    key: &[u8],
    revision: Revision,
    visit: &mut Visit<'_>,
) -> Result<(), Vanished> {
    let changes = read.scan(Family::Idx, &idx_key(key, (revision.next(), Sub(0))), Some(&idx_key(key, END)));
    let _ = History { read, changes }.visit(key, revision, visit)?;
    Ok(())
}

/// The superseded versions. Asked for keys in ascending order, it only ever moves forward.
struct History<'r, R> {
    read: &'r R,
    changes: Cursor<'r>,
}

impl<R: Read> History<'_, R> {
    /// Visits the version of `key`, which is not the current one, that was valid at `revision`, if there was one.
    fn visit(&mut self, key: &[u8], revision: Revision, visit: &mut Visit<'_>) -> Result<ControlFlow<()>, Vanished> {
        self.changes.seek(&idx_key(key, (revision.next(), Sub(0))));
        if !self.changes.valid() || self.changes.key() >= idx_key(key, END).as_slice() {
            return Ok(ControlFlow::Continue(()));
        }
        let (by, sub) = superseded_by(self.changes.key());
        let bytes = self.read.get(&Key::Log { revision: by, sub }).ok_or(Vanished)?;
        let record = Record::decode(&bytes);
        match record.before {
            Some(before) if record.key == key => Ok(if before.modified <= revision {
                visit(key, before)
            } else {
                // Created and superseded after the revision that is read.
                ControlFlow::Continue(())
            }),
            _ => corrupt("superseding change", &bytes),
        }
    }
}

fn idx_key(key: &[u8], (revision, sub): (Revision, Sub)) -> Vec<u8> {
    Key::Idx { key: key.into(), revision, sub }.encode()
}

fn superseded_by(encoded: &[u8]) -> (Revision, Sub) {
    match Key::decode(Family::Idx, encoded) {
        Ok(Key::Idx { revision, sub, .. }) => (revision, sub),
        _ => corrupt("index key", encoded),
    }
}
