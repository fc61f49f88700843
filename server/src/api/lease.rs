//! Leases: grant, revoke, keep alive, time to live, list.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{LeaseGrant, LeaseRevoke, command},
    etcdserverpb as pb,
};

use super::{Api, body::Outgoing, frame, frame::Messages, kv::answered, status::Status};
use crate::{lease, node::Answer, state::Reply, types::LeaseId};

/// Renewals of one stream that are asked together; each takes a slot of the mailbox.
const MAX_RENEWALS: usize = 256;

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
    let command = command::Kind::LeaseRevoke(LeaseRevoke { id: request.id, ..LeaseRevoke::default() });
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

/// Answers each renewal in turn, until the client has no more. What has arrived together is asked together: a client
/// renews all its leases on one stream, and each question takes a round among the members.
pub(super) async fn keep_alive<B>(api: &Api, mut messages: Messages<B>, out: &Outgoing) -> Result<(), Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    while let Some(message) = messages.next().await? {
        let mut ids = vec![requested(message)?];
        let mut end = Ok(());
        while ids.len() < MAX_RENEWALS && end.is_ok() {
            match poll_fn(|cx| Poll::Ready(messages.poll_next(cx))).await {
                Poll::Ready(Ok(Some(message))) => match requested(message) {
                    Ok(id) => ids.push(id),
                    Err(status) => end = Err(status),
                },
                Poll::Ready(Err(status)) => end = Err(status),
                Poll::Ready(Ok(None)) | Poll::Pending => break,
            }
        }
        // The header is taken before the renewal: a client must not see a revision at which the lease was revoked
        // already together with the news that it was renewed.
        let header = api.current_header();
        let renewals = ids.iter().map(|id| Box::pin(api.handle.lease_renew(LeaseId(*id)))).collect();
        for (id, ttl_ms) in ids.into_iter().zip(together(renewals).await) {
            // A TTL of 0 says that there is no such lease.
            let ttl = ttl_ms?.map_or(0, |ms| ms / 1000);
            out.send(frame::encode(&pb::LeaseKeepAliveResponse { header: Some(header), id, ttl })).await;
        }
        end?;
    }
    Ok(())
}

fn requested(message: Bytes) -> Result<i64, Status> {
    let request: pb::LeaseKeepAliveRequest = frame::decode_streamed(message)?;
    Ok(request.id)
}

/// All outcomes, in order.
async fn together<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut outcomes: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, outcome) in futures.iter_mut().zip(&mut outcomes) {
            if outcome.is_none()
                && let Poll::Ready(ready) = Pin::new(future).poll(cx)
            {
                *outcome = Some(ready);
            }
        }
        if outcomes.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outcomes.into_iter().flatten().collect()
}
