//! Maintenance: Status, HashKV, and what can be answered of Alarm and Defragment. The others are not built yet.

use bytes::Bytes;
use conclave_proto::etcdserverpb as pb;

use super::{Api, frame, status::Status};
use crate::{
    mvcc,
    types::{MemberId, Revision},
};

/// The version of etcd whose contract is served; clients compare it to decide what they may ask for.
pub const ETCD_VERSION: &str = "3.7.1";
/// The version of etcd's storage schema and of the cluster, as clients see them.
pub const CLUSTER_VERSION: &str = "3.7.0";

pub(super) fn status(api: &Api, message: Bytes) -> Result<Bytes, Status> {
    let _: pb::StatusRequest = frame::decode(message)?;
    let status = api.handle.status();
    let size = api.handle.size();
    let mut errors = Vec::new();
    if status.leader.is_none() {
        errors.push("etcdserver: no leader".to_owned());
    }
    let response = pb::StatusResponse {
        header: Some(api.current_header()),
        version: ETCD_VERSION.to_owned(),
        db_size: i64::try_from(size.on_disk).unwrap_or(i64::MAX),
        db_size_in_use: i64::try_from(size.in_use).unwrap_or(i64::MAX),
        leader: status.leader.map_or(0, |leader| leader.0),
        raft_index: status.committed.0,
        raft_term: status.term.0,
        raft_applied_index: status.applied.0,
        errors,
        is_learner: status.learner,
        storage_version: CLUSTER_VERSION.to_owned(),
        db_size_quota: api.limits.quota_bytes,
        downgrade_info: Some(pb::DowngradeInfo::default()),
    };
    Ok(frame::encode(&response))
}

/// The client's own deadline may end it before; leadership moves all the same.
pub(super) async fn move_leader(api: &Api, message: Bytes) -> Result<Bytes, Status> {
    let request: pb::MoveLeaderRequest = frame::decode(message)?;
    api.handle.move_leader(MemberId(request.target_id)).await?;
    Ok(frame::encode(&pb::MoveLeaderResponse::default()))
}

pub(super) async fn hash_kv(api: &Api, message: Bytes) -> Result<Bytes, Status> {
    let request: pb::HashKvRequest = frame::decode(message)?;
    let revision = Revision(request.revision);
    let published = api.handle.published().clone();
    let (hash, current) = api.readers.run(move || mvcc::hash_published(&published, revision)).await??;
    let response = pb::HashKvResponse {
        header: Some(api.header(current, api.handle.status().term)),
        hash: hash.hash,
        compact_revision: hash.compacted.0,
        hash_revision: hash.revision.0,
    };
    Ok(frame::encode(&response))
}

/// Nothing raises alarms in this version, so none is listed and none is there to be disarmed. `etcdctl endpoint health`
/// asks for the list.
pub(super) fn alarm(api: &Api, message: Bytes) -> Result<Bytes, Status> {
    let request: pb::AlarmRequest = frame::decode(message)?;
    if request.action == pb::alarm_request::AlarmAction::Activate as i32 {
        return Err(Status::not_built("raising an alarm"));
    }
    Ok(frame::encode(&pb::AlarmResponse { header: Some(api.current_header()), alarms: Vec::new() }))
}

/// The store gives space back by itself and has nothing to defragment: done as soon as it is asked for.
pub(super) fn defragment(message: Bytes) -> Result<Bytes, Status> {
    let _: pb::DefragmentRequest = frame::decode(message)?;
    Ok(frame::encode(&pb::DefragmentResponse::default()))
}
