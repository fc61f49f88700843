//! Leases: grant, revoke, keep alive, time to live, list.

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{LeaseGrant, LeaseRevoke, command},
    etcdserverpb as pb,
};

use super::{Api, body::Outgoing, frame, frame::Messages, kv::answered, status::Status};
use crate::{lease, node::Answer, state::Reply, types::LeaseId};

pub(super) async fn grant(api: &Api, message: Bytes, idempotency: Bytes) -> Result<Bytes, Status> {
    let request: pb::LeaseGrantRequest = frame::decode(message)?;
    let election_ms = u64::try_from(api.limits.election_timeout.as_millis()).expect("election timeouts are below 50 s");
    let ttl_ms = lease::clamp_ttl(request.ttl, election_ms)?;
    // Chosen here and carried in the command, so that every member grants the same one.
    let id = if request.id == 0 { choose_id() } else { request.id };
    let command = command::Kind::LeaseGrant(LeaseGrant { id, ttl_ms });
    let answer = api.handle.propose(command, idempotency).await?;
    Ok(answered!(api, answer, LeaseGrant))
}

fn choose_id() -> i64 {
    loop {
        let id = rand::random::<i64>() & i64::MAX;
        if id != 0 {
            return id;
        }
    }
}

pub(super) async fn revoke(api: &Api, message: Bytes, idempotency: Bytes) -> Result<Bytes, Status> {
    let request: pb::LeaseRevokeRequest = frame::decode(message)?;
    let command = command::Kind::LeaseRevoke(LeaseRevoke { id: request.id, expired: false });
    let answer = api.handle.propose(command, idempotency).await?;
    Ok(answered!(api, answer, LeaseRevoke))
}

pub(super) async fn time_to_live(api: &Api, message: Bytes) -> Result<Bytes, Status> {
    let request: pb::LeaseTimeToLiveRequest = frame::decode(message)?;
    let id = LeaseId(request.id);
    let lease = api.handle.lease_remaining(id).await?;
    // The leader has applied what it tells of; this member may have to catch up before it knows the keys.
    let view = if request.keys { api.handle.linearizable().await? } else { api.handle.read_view() };
    let mut response = pb::LeaseTimeToLiveResponse {
        header: Some(api.header(view.position.revision, api.handle.status().term)),
        id: request.id,
        ttl: -1,
        ..Default::default()
    };
    if let Some(lease) = lease {
        response.ttl = lease.remaining_ms / 1000;
        response.granted_ttl = lease.granted_ms / 1000;
        if request.keys {
            response.keys = api.readers.run(move || lease::keys(&view.view, id)).await?;
        }
    }
    Ok(frame::encode(&response))
}

pub(super) async fn leases(api: &Api, message: Bytes) -> Result<Bytes, Status> {
    let _: pb::LeaseLeasesRequest = frame::decode(message)?;
    let view = api.handle.linearizable().await?;
    // Only the leader knows which runs out first; etcd's followers list them in no order.
    let ids = match api.handle.leases_by_time() {
        Some(ids) => ids,
        None => api.readers.run(move || lease::all(&view.view).into_iter().map(|(id, _)| id).collect()).await?,
    };
    let response = pb::LeaseLeasesResponse {
        header: Some(api.current_header()),
        leases: ids.into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect(),
    };
    Ok(frame::encode(&response))
}

/// Answers each renewal in turn, until the client has no more.
pub(super) async fn keep_alive<B>(api: &Api, mut messages: Messages<B>, out: &Outgoing) -> Result<(), Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    while let Some(message) = messages.next().await? {
        let request: pb::LeaseKeepAliveRequest = frame::decode_streamed(message)?;
        // The header is taken before the renewal: a client must not see a revision at which the lease was revoked
        // already together with the news that it was renewed.
        let header = api.current_header();
        let ttl_ms = api.handle.lease_renew(LeaseId(request.id)).await?;
        // A TTL of 0 says that there is no such lease.
        let ttl = ttl_ms.map_or(0, |ms| ms / 1000);
        out.send(frame::encode(&pb::LeaseKeepAliveResponse { header: Some(header), id: request.id, ttl })).await;
    }
    Ok(())
}
