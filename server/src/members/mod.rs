//! Who belongs to the cluster: the replicated table of members.
use crate::{
    engine::{Batch, Read},
    types::{ClusterId, MemberId},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub learner: bool,
}

/// etcd's ids (etcd-v3.md 5.10): from sorted peer URLs and the cluster token.
pub fn member_id(_peer_urls: &[String], _token: &str) -> MemberId {
    todo!()
}
pub fn cluster_id(_members: &[MemberId]) -> ClusterId {
    todo!()
}
pub fn put(_batch: &mut Batch, _member: &Member) {
    todo!()
}
pub fn get(_read: &impl Read, _id: MemberId) -> Option<Member> {
    todo!()
}
pub fn all(_read: &impl Read) -> Vec<Member> {
    todo!()
}
