//! Put, DeleteRange, Txn and Compact.

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{Compact, command},
    etcdserverpb as pb,
};

use super::{Api, frame, range, status::Status};
use crate::{mvcc::ReadView, node::Answer, state, state::Reply};

/// Sets the header of a reply that came from apply, which knows the revision and nothing of this member.
macro_rules! answered {
    ($api:expr, $answer:expr, $variant:ident) => {{
        let Answer { reply: Reply::$variant(mut response), revision, term } = $answer else {
            unreachable!(concat!("apply answers a command with the reply of its kind: ", stringify!($variant)));
        };
        // A reply that names its revision keeps it: a txn that changed nothing reports the one it began at.
        let revision = response.header.as_ref().map_or(revision.0, |header| header.revision);
        response.header = Some($api.header(crate::types::Revision(revision), term));
        frame::encode(&response)
    }};
}
pub(super) use answered;

pub(super) async fn put(api: &Api, message: Bytes, idempotency: Bytes) -> Result<Bytes, Status> {
    let size = message.len();
    let request: pb::PutRequest = frame::decode(message)?;
    state::check_put(&request)?;
    api.check_size(size)?;
    let answer = api.handle.propose(command::Kind::Put(request), idempotency).await?;
    Ok(answered!(api, answer, Put))
}

pub(super) async fn delete_range(api: &Api, message: Bytes, idempotency: Bytes) -> Result<Bytes, Status> {
    let size = message.len();
    let request: pb::DeleteRangeRequest = frame::decode(message)?;
    state::check_delete_range(&request)?;
    api.check_size(size)?;
    let answer = api.handle.propose(command::Kind::DeleteRange(request), idempotency).await?;
    Ok(answered!(api, answer, DeleteRange))
}

pub(super) async fn txn(api: &Api, message: Bytes, idempotency: Bytes) -> Result<Bytes, Status> {
    let size = message.len();
    let request: pb::TxnRequest = frame::decode(message)?;
    state::check_txn(&request, api.limits.max_txn_ops)?;
    if state::is_read_only(&request) {
        return read_only(api, request).await;
    }
    api.check_size(size)?;
    let answer = api.handle.propose(command::Kind::Txn(request), idempotency).await?;
    Ok(answered!(api, answer, Txn))
}

async fn read_only(api: &Api, request: pb::TxnRequest) -> Result<Bytes, Status> {
    let view =
        if state::is_serializable(&request) { api.handle.read_view() } else { api.handle.linearizable().await? };
    let term = api.handle.status().term;
    let mut response = if is_short(&request, &view) {
        state::read_txn(api.handle.published(), &view, &request)?
    } else {
        let (published, view) = (api.handle.published().clone(), view.clone());
        api.readers.run(move || state::read_txn(&published, &view, &request)).await??
    };
    response.header = Some(api.header(view.position.revision, term));
    Ok(frame::encode(&response))
}

/// The ranges of both branches; a read-only txn holds nothing else.
fn ranges(request: &pb::TxnRequest) -> impl Iterator<Item = &pb::RangeRequest> {
    request.success.iter().chain(&request.failure).filter_map(|op| match &op.request {
        Some(pb::request_op::Request::RequestRange(range)) => Some(range),
        _ => None,
    })
}

fn is_short(request: &pb::TxnRequest, view: &ReadView) -> bool {
    // A compare over a range looks at every key in it.
    request.compare.iter().all(|compare| compare.range_end.is_empty())
        && ranges(request).all(|range| state::query(range).is_ok_and(|query| range::is_short(&query, view)))
}

/// etcd answers a `physical` compaction when the space is free. Here the compaction is complete, for every reader and
/// for every later hash, at the moment it is applied; the space follows in the background and changes no answer. So
/// both kinds are answered when applied.
pub(super) async fn compact(api: &Api, message: Bytes, idempotency: Bytes) -> Result<Bytes, Status> {
    let request: pb::CompactionRequest = frame::decode(message)?;
    let command = command::Kind::Compact(Compact { revision: request.revision });
    let answer = api.handle.propose(command, idempotency).await?;
    Ok(answered!(api, answer, Compact))
}
