//! The best of what was found: sorting, and cutting to a limit, without holding what the limit leaves out.

use std::cmp::Ordering;

use super::{
    query::{Query, Sort, SortTarget, VersionRef},
    value::Stored,
};
use crate::types::{LeaseId, Revision};

/// The first versions in some order, as many as the limit allows. It holds at most about twice as many, whatever is
/// offered, so that "the oldest of these keys" costs no memory.
pub(super) struct Best<'q> {
    query: &'q Query,
    sort: Option<Sort>,
    offered: usize,
    rows: Vec<Row>,
}

struct Row {
    /// Key, then value: one allocation for both.
    bytes: Vec<u8>,
    key_len: usize,
    create: Revision,
    modified: Revision,
    version: i64,
    lease: LeaseId,
}

impl Row {
    fn new(query: &Query, key: &[u8], stored: &Stored<'_>) -> Self {
        let value = if query.reads_values() { stored.value } else { &[] };
        let mut bytes = Vec::with_capacity(key.len() + value.len());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        let Stored { create, modified, version, lease, .. } = *stored;
        Self { bytes, key_len: key.len(), create, modified, version, lease }
    }

    fn key(&self) -> &[u8] {
        &self.bytes[..self.key_len]
    }

    fn value(&self) -> &[u8] {
        &self.bytes[self.key_len..]
    }
}

impl<'q> Best<'q> {
    /// Rows beyond the limit that are held before the worst are thrown out: small limits should not sort all the time.
    const SLACK: usize = 64;

    pub(super) fn new(query: &'q Query, sort: Option<Sort>) -> Self {
        Self { query, sort, offered: 0, rows: Vec::new() }
    }

    pub(super) fn offer(&mut self, key: &[u8], stored: Stored<'_>) {
        self.offered += 1;
        let limit = self.query.limit;
        if limit == 0 {
            self.rows.push(Row::new(self.query, key, &stored));
            return;
        }
        if self.sort.is_none() {
            // Offered in the order that is asked for: the first are the best.
            if self.rows.len() < limit {
                self.rows.push(Row::new(self.query, key, &stored));
            }
            return;
        }
        self.rows.push(Row::new(self.query, key, &stored));
        if self.rows.len() >= limit.saturating_mul(2).saturating_add(Self::SLACK) {
            self.order();
            self.rows.truncate(limit);
        }
    }

    /// Stable, and rows come ascending by key: what was thrown out can never have belonged to the answer.
    fn order(&mut self) {
        let Some(sort) = self.sort else { return };
        self.rows.sort_by(|a, b| {
            let ascending = compare(sort.target, a, b);
            if sort.descending { ascending.reverse() } else { ascending }
        });
    }

    /// Visits the answer; says whether the limit left something out.
    pub(super) fn emit(mut self, visit: &mut dyn FnMut(VersionRef<'_>)) -> bool {
        self.order();
        let limit = if self.query.limit == 0 { usize::MAX } else { self.query.limit };
        for row in self.rows.iter().take(limit) {
            visit(VersionRef {
                key: row.key(),
                create: row.create,
                modified: row.modified,
                version: row.version,
                lease: if self.query.shows_leases() { row.lease } else { LeaseId::NONE },
                value: if self.query.keys_only { &[] } else { row.value() },
            });
        }
        self.offered > limit
    }
}

fn compare(target: SortTarget, a: &Row, b: &Row) -> Ordering {
    match target {
        SortTarget::Key => a.key().cmp(b.key()),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create.cmp(&b.create),
        SortTarget::Mod => a.modified.cmp(&b.modified),
        SortTarget::Value => a.value().cmp(b.value()),
    }
}
