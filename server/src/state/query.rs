//! etcd's RangeRequest as a query, and small replies put together.

use bytes::Bytes;
use conclave_proto::{
    etcdserverpb::{
        self as pb,
        range_request::{SortOrder, SortTarget as Target},
    },
    mvccpb::KeyValue,
};

use crate::{
    engine::Read,
    error::Error,
    mvcc::{self, KeyRange, Position, Query, Sort, SortTarget, VersionRef},
    types::Revision,
};

/// etcd's RangeRequest as a query. Refuses what [`super::check_range`] refuses of its options.
///
/// A negative limit is none and a negative revision is the current one, as etcd has it.
pub fn query(r: &pb::RangeRequest) -> Result<Query, Error> {
    let order = SortOrder::try_from(r.sort_order).map_err(|_| Error::InvalidSortOption)?;
    let target = match Target::try_from(r.sort_target).map_err(|_| Error::InvalidSortOption)? {
        Target::Key => SortTarget::Key,
        Target::Version => SortTarget::Version,
        Target::Create => SortTarget::Create,
        Target::Mod => SortTarget::Mod,
        Target::Value => SortTarget::Value,
    };
    let by_key = target == SortTarget::Key && order != SortOrder::Descend;
    let sort = Sort { target, descending: order == SortOrder::Descend, after_limit: order == SortOrder::None };
    Ok(Query {
        range: KeyRange::parse(&r.key, &r.range_end),
        revision: Revision(r.revision.max(0)),
        limit: usize::try_from(r.limit.max(0)).unwrap_or(usize::MAX),
        sort: (!by_key).then_some(sort),
        keys_only: r.keys_only,
        count_only: r.count_only,
        min_mod: Revision(r.min_mod_revision),
        max_mod: Revision(r.max_mod_revision),
        min_create: Revision(r.min_create_revision),
        max_create: Revision(r.max_create_revision),
    })
}

/// The header of a reply made in the state: it knows the revision, the api adds who answers.
#[must_use]
pub fn header(revision: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: revision.0, ..Default::default() })
}

/// The whole reply to a query, in memory. For txns, and for replies that are known to be small.
pub fn range_reply(read: &impl Read, at: Position, query: &Query) -> Result<pb::RangeResponse, Error> {
    let mut kvs = Vec::new();
    let summary = mvcc::range(read, at, query, &mut |version| kvs.push(key_value(version)))?;
    Ok(pb::RangeResponse { header: header(at.revision), kvs, more: summary.more, count: summary.count })
}

fn key_value(version: VersionRef<'_>) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(version.key),
        create_revision: version.create.0,
        mod_revision: version.modified.0,
        version: version.version,
        value: Bytes::copy_from_slice(version.value),
        lease: version.lease.0,
    }
}
