//! The change feed: what happened, in order, whole revisions at a time.

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;

use super::{
    Change, Position,
    past::Vanished,
    value::{Record, corrupt, share},
};
use crate::{
    engine::{Family, Key, Read},
    error::Error,
    types::{Revision, Sub},
};

/// A run of whole revisions from the change log.
#[derive(Debug, Default)]
pub struct FeedChunk {
    pub changes: Vec<(Revision, Vec<Change>)>,
    /// First revision not in the chunk.
    pub next: Revision,
}

/// Reads changes from revision `from` on, at most about `max_bytes` but at least one whole revision, if there is one.
///
/// `Err(Compacted)` if `from` is below the compacted revision. Changes of the compacted revision itself carry no prev,
/// as etcd has no older version of their keys left.
///
/// Like every read of the past it may come too late for history that a newer compaction let go, and then a gap is
/// reported as `Err(Compacted)` too: use [`super::read_past`].
pub fn feed(read: &impl Read, at: Position, from: Revision, max_bytes: usize) -> Result<FeedChunk, Error> {
    if from < at.compacted {
        return Err(Error::Compacted);
    }
    // Nothing ever changed in the first revision.
    let first = from.max(Revision::FIRST.next());
    let mut chunk = FeedChunk { changes: Vec::new(), next: first };
    let mut bytes = 0;
    walk(read, first, at.revision, &mut |revision, sub, encoded| {
        if chunk.next <= revision {
            if let Some((_, whole)) = chunk.changes.last_mut() {
                tell_what_was_before(whole);
            }
            if bytes >= max_bytes && bytes > 0 {
                return ControlFlow::Break(());
            }
            chunk.changes.push((revision, Vec::new()));
            chunk.next = revision.next();
        }
        bytes += encoded.len();
        let holder = Bytes::copy_from_slice(encoded);
        let change = change(revision, sub, &holder, revision > at.compacted);
        chunk.changes.last_mut().expect("a revision was begun above").1.push(change);
        ControlFlow::Continue(())
    })?;
    if let Some((_, whole)) = chunk.changes.last_mut() {
        tell_what_was_before(whole);
    }
    chunk.next = chunk.next.max(from);
    Ok(chunk)
}

/// Of a key that one revision changed more than once, watchers are told each time what was there before the revision,
/// except where it is created.
fn tell_what_was_before(changes: &mut [Change]) {
    let replaces_own =
        |change: &Change| change.prev.as_ref().is_some_and(|prev| prev.mod_revision == change.kv.mod_revision);
    if !changes.iter().any(replaces_own) {
        return;
    }
    let mut before: BTreeMap<Bytes, Option<KeyValue>> = BTreeMap::new();
    for change in changes {
        let first = before.entry(change.kv.key.clone()).or_insert_with(|| change.prev.clone());
        let creates = change.kv.create_revision == change.kv.mod_revision;
        change.prev = first.clone().filter(|_| !creates);
    }
}

fn change(revision: Revision, sub: Sub, holder: &Bytes, with_prev: bool) -> Change {
    let record = Record::decode(holder);
    let key = share(holder, record.key);
    let prev = record.before.filter(|_| with_prev).map(|before| before.key_value(key.clone(), holder));
    let mut kv = KeyValue { key, mod_revision: revision.0, ..KeyValue::default() };
    if let Some(new) = &record.new {
        kv.create_revision = new.create.0;
        kv.version = new.version;
        kv.lease = new.lease.0;
        kv.value = share(holder, new.value);
    }
    Change { kind: record.kind(), sub, kv, prev }
}

/// Called with revision, sub and the encoded [`Record`].
pub(super) type VisitChange<'v> = dyn FnMut(Revision, Sub, &[u8]) -> ControlFlow<()> + 'v;

/// Visits all changes of the revisions `from..=to`, `from` above the first. Each of these revisions has changes, numbered
/// without gap from 0, so that it is noticed if some are missing before the last that is there.
pub(super) fn walk(
    read: &impl Read,
    from: Revision,
    to: Revision,
    visit: &mut VisitChange<'_>,
) -> Result<(), Vanished> {
    if from > to {
        return Ok(());
    }
    let bound = |revision| Key::Log { revision, sub: Sub(0) }.encode();
    let mut log = read.scan(Family::Log, &bound(from), Some(&bound(to.next())));
    let mut expected = (from, Sub(0));
    while log.valid() {
        let Ok(Key::Log { revision, sub }) = Key::decode(Family::Log, log.key()) else {
            corrupt("change's key", log.key())
        };
        let begins_next = expected.1 > Sub(0) && (revision, sub) == (expected.0.next(), Sub(0));
        if (revision, sub) != expected && !begins_next {
            return Err(Vanished);
        }
        expected = (revision, sub.next());
        if visit(revision, sub, log.value()).is_break() {
            return Ok(());
        }
        log.next();
    }
    // The last revision must have been reached, and with it all before it.
    if expected.0 == to && expected.1 > Sub(0) { Ok(()) } else { Err(Vanished) }
}
