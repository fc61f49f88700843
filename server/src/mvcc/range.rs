//! Reads: which versions of which keys, in which order, and how many there are (etcd-v3.md 5.2; behaviour of etcd 3.7's
//! `server/etcdserver/txn/range.go` and `server/storage/mvcc/kvstore_txn.go`).

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    Position, count,
    past::{self, Vanished, Visit},
    query::{KeyRange, Query, Sort, Span, Summary, Version, VersionRef},
    select::Best,
    value::Stored,
};
use crate::{
    engine::{Family, Key, Read},
    error::Error,
    types::{LeaseId, Revision},
};

/// Visits the versions that `query` asks for in the order that it asks for, and counts.
///
/// A read of a past revision may come too late for history that a newer compaction let go: use [`super::read_past`].
pub fn range(
    read: &impl Read,
    at: Position,
    query: &Query,
    visit: &mut dyn FnMut(VersionRef<'_>),
) -> Result<Summary, Error> {
    let at = Moment::of(at, query.revision)?;
    at.range(read, query, visit).map_err(Error::from)
}

/// Visits the first keys of a range, ascending, up to the limit of `query`, whose order and bounds must be none. Gives
/// the key after them, if there is one. Unlike [`range`] it counts nothing, so that a long range can be read piece by
/// piece at the cost of reading it once.
pub fn piece(
    read: &impl Read,
    at: Position,
    query: &Query,
    visit: &mut dyn FnMut(VersionRef<'_>),
) -> Result<Option<Bytes>, Error> {
    assert!(query.sort.is_none() && !query.is_filtered(), "pieces are made of a plain range");
    let (_, next) = Moment::of(at, query.revision)?.first(read, query, visit)?;
    Ok(next)
}

/// Current version of one key.
pub fn get(read: &impl Read, key: &[u8]) -> Option<Version> {
    let bytes = read.get(&Key::Cur(key))?;
    Some(Stored::decode(&bytes).key_value(Bytes::copy_from_slice(key), &bytes))
}

/// A revision that may be read.
#[derive(Clone, Copy)]
pub(super) enum Moment {
    /// `cur` alone answers.
    Current,
    Past(Revision),
}

impl Moment {
    pub(super) fn of(at: Position, asked: Revision) -> Result<Self, Error> {
        if asked > at.revision {
            return Err(Error::FutureRev);
        }
        if asked.0 <= 0 || asked == at.revision {
            return Ok(Self::Current);
        }
        if asked < at.compacted { Err(Error::Compacted) } else { Ok(Self::Past(asked)) }
    }

    /// The keys of a range with their versions, ascending by key.
    pub(super) fn walk(self, read: &impl Read, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), Vanished> {
        match self {
            Self::Past(revision) => past::walk(read, range, revision, visit),
            Self::Current => {
                walk_current(read, range, visit);
                Ok(())
            }
        }
    }

    fn count(self, read: &impl Read, range: &KeyRange) -> Result<u64, Vanished> {
        if let Self::Current = self {
            return Ok(count::count(read, range));
        }
        let mut keys = 0;
        self.walk(read, range, &mut |_, _| {
            keys += 1;
            ControlFlow::Continue(())
        })?;
        Ok(keys)
    }

    fn range(
        self,
        read: &impl Read,
        query: &Query,
        visit: &mut dyn FnMut(VersionRef<'_>),
    ) -> Result<Summary, Vanished> {
        if query.count_only {
            return Ok(summary(self.count(read, &query.range)?, false));
        }
        match query.sort {
            Some(sort) if sort.after_limit && !query.is_filtered() => self.sorted_page(read, query, sort, visit),
            None if !query.is_filtered() => self.page(read, query, visit),
            sort => self.selection(read, query, sort, visit),
        }
    }

    /// The first keys, and a count of the rest.
    fn page(self, read: &impl Read, query: &Query, visit: &mut dyn FnMut(VersionRef<'_>)) -> Result<Summary, Vanished> {
        match self.first(read, query, visit)? {
            (seen, None) => Ok(summary(seen as u64, false)),
            (seen, Some(next)) => {
                let rest = self.count(read, &query.range.at_or_above(next))?;
                Ok(summary(seen as u64 + rest, true))
            }
        }
    }

    /// The first keys: walks no further than the limit. How many they are, and the key after them.
    fn first(
        self,
        read: &impl Read,
        query: &Query,
        visit: &mut dyn FnMut(VersionRef<'_>),
    ) -> Result<(usize, Option<Bytes>), Vanished> {
        let mut seen = 0;
        let mut next = None;
        self.walk(read, &query.range, &mut |key, stored| {
            if seen == query.limit && query.limit > 0 {
                next = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            seen += 1;
            visit(shown(query, key, stored));
            ControlFlow::Continue(())
        })?;
        Ok((seen, next))
    }

    /// etcd takes one key more than the limit, sorts what it has, and only then cuts to the limit.
    fn sorted_page(
        self,
        read: &impl Read,
        query: &Query,
        sort: Sort,
        visit: &mut dyn FnMut(VersionRef<'_>),
    ) -> Result<Summary, Vanished> {
        let one_more = Query { limit: query.limit.saturating_add(usize::from(query.limit > 0)), ..query.clone() };
        let mut best = Best::new(query, Some(sort));
        let mut taken = 0;
        let mut next = None;
        self.walk(read, &query.range, &mut |key, stored| {
            if taken == one_more.limit && one_more.limit > 0 {
                next = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            taken += 1;
            best.offer(key, stored);
            ControlFlow::Continue(())
        })?;
        let rest = match next {
            None => 0,
            Some(key) => self.count(read, &query.range.at_or_above(key))?,
        };
        let more = best.emit(visit);
        Ok(summary(taken as u64 + rest, more))
    }

    /// Whatever lies within the bounds of revisions, sorted, then cut to the limit.
    fn selection(
        self,
        read: &impl Read,
        query: &Query,
        sort: Option<Sort>,
        visit: &mut dyn FnMut(VersionRef<'_>),
    ) -> Result<Summary, Vanished> {
        let mut best = Best::new(query, sort);
        let mut walked = 0;
        self.walk(read, &query.range, &mut |key, stored| {
            walked += 1;
            if query.admits(stored.create, stored.modified) {
                best.offer(key, stored);
            }
            ControlFlow::Continue(())
        })?;
        let more = best.emit(visit);
        Ok(summary(walked, more))
    }
}

fn walk_current(read: &impl Read, range: &KeyRange, visit: &mut Visit<'_>) {
    match range.span() {
        Span::Empty => {}
        Span::One(key) => {
            if let Some(bytes) = read.get(&Key::Cur(key)) {
                let _ = visit(key, Stored::decode(&bytes));
            }
        }
        Span::List { from, to } => {
            let mut current = read.scan(Family::Cur, from, to);
            while current.valid() {
                if visit(current.key(), Stored::decode(current.value())).is_break() {
                    return;
                }
                current.next();
            }
        }
    }
}

fn shown<'a>(query: &Query, key: &'a [u8], stored: Stored<'a>) -> VersionRef<'a> {
    VersionRef {
        key,
        create: stored.create,
        modified: stored.modified,
        version: stored.version,
        lease: if query.shows_leases() { stored.lease } else { LeaseId::NONE },
        value: if query.keys_only { &[] } else { stored.value },
    }
}

fn summary(count: u64, more: bool) -> Summary {
    Summary { count: i64::try_from(count).expect("fewer keys than revisions"), more }
}
