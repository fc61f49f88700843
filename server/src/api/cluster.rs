//! Cluster: MemberList. Changes of membership are not built yet.

use bytes::Bytes;
use conclave_proto::etcdserverpb as pb;

use super::{Api, frame, status::Status};
use crate::{members, types::Revision};

pub(super) async fn member_list(api: &Api, message: Bytes) -> Result<Bytes, Status> {
    let request: pb::MemberListRequest = frame::decode(message)?;
    let view = if request.linearizable { api.handle.linearizable().await? } else { api.handle.read_view() };
    let members = members::all(&view.view).into_iter().map(|member| pb::Member {
        id: member.id.0,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.learner,
    });
    let response = pb::MemberListResponse {
        // etcd reports no revision here.
        header: Some(api.header(Revision(0), api.handle.status().term)),
        members: members.collect(),
    };
    Ok(frame::encode(&response))
}
