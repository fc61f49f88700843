//! Sends one operation to one server and brings the reply into the form that is compared.

use conclave_proto::etcdserverpb as pb;
use tonic::{Request, Response, Status, metadata::AsciiMetadataValue};

use super::script::Op;
use crate::client::Client;

/// Not one of the script's lease ids.
const SHORT_LEASE: i64 = 200;

/// A reply without what may differ between two servers that agree.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    HashKv(pb::HashKvResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    LeaseKeepAlive(pb::LeaseKeepAliveResponse),
    LeaseTimeToLive(pb::LeaseTimeToLiveResponse),
    LeaseLeases(pb::LeaseLeasesResponse),
    /// The replies of an operation of several steps.
    Steps(Vec<Reply>),
    Failed {
        code: tonic::Code,
        message: String,
    },
    /// What no server may answer, whatever the other one says.
    Broken(String),
}

impl Reply {
    /// Its header, where it has one.
    pub(super) fn header(&self) -> Option<&pb::ResponseHeader> {
        match self {
            Self::Range(r) => r.header.as_ref(),
            Self::Put(r) => r.header.as_ref(),
            Self::DeleteRange(r) => r.header.as_ref(),
            Self::Txn(r) => r.header.as_ref(),
            Self::Compact(r) => r.header.as_ref(),
            Self::HashKv(r) => r.header.as_ref(),
            Self::LeaseGrant(r) => r.header.as_ref(),
            Self::LeaseRevoke(r) => r.header.as_ref(),
            Self::LeaseKeepAlive(r) => r.header.as_ref(),
            Self::LeaseTimeToLive(r) => r.header.as_ref(),
            Self::LeaseLeases(r) => r.header.as_ref(),
            Self::Steps(steps) => steps.iter().rev().find_map(Self::header),
            Self::Failed { .. } | Self::Broken(_) => None,
        }
    }

    fn failed(status: &Status) -> Self {
        Self::Failed { code: status.code(), message: status.message().to_owned() }
    }
}

/// Zeroes ids and term; says whether they were there, for a header without them is a difference too.
pub(super) fn neutral(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        header.cluster_id = u64::from(header.cluster_id != 0);
        header.member_id = u64::from(header.member_id != 0);
        header.raft_term = u64::from(header.raft_term != 0);
    }
}

macro_rules! reply {
    ($variant:ident, $call:expr) => {
        match $call.await.map(Response::into_inner) {
            Ok(mut response) => {
                neutral(&mut response.header);
                Reply::$variant(response)
            }
            Err(status) => Reply::failed(&status),
        }
    };
}

pub(super) async fn call(client: &mut Client, op: &Op) -> Reply {
    match op.clone() {
        Op::Range(r) => reply!(Range, client.kv.range(r)),
        Op::RangeStream(r) => range_stream(client, r).await,
        Op::Put(r) => reply!(Put, client.kv.put(r)),
        Op::DeleteRange(r) => reply!(DeleteRange, client.kv.delete_range(r)),
        Op::Txn(r) => reply!(Txn, client.kv.txn(r)),
        Op::Compact(r) => reply!(Compact, client.kv.compact(r)),
        Op::HashKv(r) => reply!(HashKv, client.maintenance.hash_kv(r)),
        Op::LeaseGrant(r) => reply!(LeaseGrant, client.lease.lease_grant(r)),
        Op::LeaseRevoke(r) => reply!(LeaseRevoke, client.lease.lease_revoke(r)),
        Op::LeaseKeepAlive(id) => keep_alive(client, id).await,
        Op::LeaseTimeToLive(r) => time_to_live(client, r).await,
        Op::LeaseLeases => reply!(LeaseLeases, client.lease.lease_leases(pb::LeaseLeasesRequest {})),
        Op::ShortLease { ttl, key } => short_lease(client, ttl, key).await,
        Op::BadClientVersion(r) => {
            let mut request = Request::new(r);
            let version =
                AsciiMetadataValue::try_from(&b"\xc3\x28"[..]).expect("bytes above 0x7f may stand in a header");
            request.metadata_mut().insert("client-api-version", version);
            reply!(Put, client.kv.put(request))
        }
        Op::Watch(_) => unreachable!("watch operations have no single reply; `watch` carries them out"),
    }
}

/// Merges the parts as a client would, and checks what must hold of them.
async fn range_stream(client: &mut Client, request: pb::RangeRequest) -> Reply {
    let mut parts = match client.kv.range_stream(request).await {
        Ok(parts) => parts.into_inner(),
        Err(status) => return Reply::failed(&status),
    };
    let mut whole: Option<pb::RangeResponse> = None;
    loop {
        let part = match parts.message().await {
            Ok(Some(part)) => part.range_response,
            Ok(None) => break,
            Err(status) => return Reply::failed(&status),
        };
        let Some(part) = part else { return Reply::Broken("a part without a range response".into()) };
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => {
                if whole.header.is_some() || whole.more || whole.count != 0 {
                    return Reply::Broken("header, more or count before the last part".into());
                }
                whole.kvs.extend(part.kvs);
                (whole.header, whole.more, whole.count) = (part.header, part.more, part.count);
            }
        }
    }
    let Some(mut whole) = whole else { return Reply::Broken("a stream without a part".into()) };
    neutral(&mut whole.header);
    Reply::Range(whole)
}

async fn keep_alive(client: &mut Client, id: i64) -> Reply {
    match client.keep_alive(id).await {
        Ok(mut response) => {
            neutral(&mut response.header);
            Reply::LeaseKeepAlive(response)
        }
        Err(status) => Reply::failed(&status),
    }
}

/// The remaining time is a matter of time: checked against the granted one, then forgotten. Keys come in any order.
async fn time_to_live(client: &mut Client, request: pb::LeaseTimeToLiveRequest) -> Reply {
    match client.lease.lease_time_to_live(request).await.map(Response::into_inner) {
        Ok(mut response) => {
            if response.ttl > response.granted_ttl {
                return Reply::Broken(format!("more time left than was granted: {response:?}"));
            }
            response.ttl = response.ttl.signum();
            response.keys.sort();
            neutral(&mut response.header);
            Reply::LeaseTimeToLive(response)
        }
        Err(status) => Reply::failed(&status),
    }
}

/// A lease whose id the server chooses, and one whose time is near the shortest: granted, used and revoked at once, so
/// that neither a random id nor an expiry reaches the rest of the script. (HashKV sees lease ids, so no key may ever hold
/// a random one.)
async fn short_lease(client: &mut Client, ttl: i64, key: bytes::Bytes) -> Reply {
    let granted = client.lease.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 }).await.map(Response::into_inner);
    let mut any = match granted {
        Ok(granted) => granted,
        Err(status) => return Reply::failed(&status),
    };
    let id = std::mem::replace(&mut any.id, 1);
    if id <= 0 {
        return Reply::Broken(format!("the server chose the lease id {id}"));
    }
    neutral(&mut any.header);
    let revoked = reply!(LeaseRevoke, client.lease.lease_revoke(pb::LeaseRevokeRequest { id }));

    let id = SHORT_LEASE;
    let granted = reply!(LeaseGrant, client.lease.lease_grant(pb::LeaseGrantRequest { ttl, id }));
    let put = pb::PutRequest { key: key.clone(), value: "leased".into(), lease: id, ..Default::default() };
    let put = reply!(Put, client.kv.put(put));
    let left = time_to_live(client, pb::LeaseTimeToLiveRequest { id, keys: true }).await;
    let deleted = reply!(LeaseRevoke, client.lease.lease_revoke(pb::LeaseRevokeRequest { id }));
    let gone = reply!(Range, client.kv.range(pb::RangeRequest { key, ..Default::default() }));
    Reply::Steps(vec![Reply::LeaseGrant(any), revoked, granted, put, left, deleted, gone])
}
