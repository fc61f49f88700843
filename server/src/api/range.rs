//! Range.

use bytes::Bytes;
use conclave_proto::etcdserverpb as pb;

use super::{
    Api,
    encode::RangeReply,
    frame::{self, Framed},
    status::Status,
};
use crate::{
    error::Error,
    mvcc::{self, KeyRange, Published, Query, ReadView},
    state,
};

/// A list this long is read on the runtime: at about 0.2-0.3 µs a key it costs less than two hand-overs to a thread
/// would delay everybody else's calls. It is also the page size of kube-apiserver, twice.
const INLINE_LIMIT: usize = 1000;

pub(super) async fn range(api: &Api, message: Bytes) -> Result<Framed, Status> {
    let request: pb::RangeRequest = frame::decode(message)?;
    state::check_range(&request)?;
    let status = api.handle.status();
    if status.learner && !request.serializable {
        return Err(Error::NotSupportedForLearner.into());
    }
    let view = if request.serializable { api.handle.read_view() } else { api.handle.linearizable().await? };
    let query = state::query(&request)?;
    let header = api.header(view.position.revision, status.term);
    let reply = if is_short(&query, &view) {
        read(api.handle.published(), &view, &query, &header)?
    } else {
        let published = api.handle.published().clone();
        api.readers.run(move || read(&published, &view, &query, &header)).await??
    };
    reply.finish()
}

/// Whether a query is surely done in about the time that handing it to a thread would take.
pub(super) fn is_short(query: &Query, view: &ReadView) -> bool {
    let current = query.revision.0 == 0 || query.revision == view.position.revision;
    let filtered = query.sort.is_some()
        || [query.min_mod, query.max_mod, query.min_create, query.max_create].iter().any(|bound| bound.0 != 0);
    match &query.range {
        KeyRange::One(_) => true,
        // At the current revision the count index answers; at a past one every key is looked at.
        _ if !current || filtered => false,
        _ => query.count_only || (1..=INLINE_LIMIT).contains(&query.limit),
    }
}

fn read(
    published: &Published,
    view: &ReadView,
    query: &Query,
    header: &pb::ResponseHeader,
) -> Result<RangeReply, Error> {
    /// A key and a value of the sizes that services mostly keep (Kubernetes: about 1 KiB).
    const LIKELY: usize = 1024;
    let mut reply = RangeReply::new(LIKELY);
    reply.header(header);
    mvcc::read_past(published, view, query.revision, |view| {
        let summary = mvcc::range(&view.view, view.position, query, &mut |version| reply.push(version))?;
        reply.summary(summary);
        Ok(())
    })?;
    Ok(reply)
}
