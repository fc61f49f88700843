use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::conclave::raft::v1::command;

use super::{Answer, Status};
use crate::{engine::Size, error::Error, mvcc::ReadView, types::LeaseId, watch::Inbox};

/// The only async door to a member. One per api runtime (it owns that runtime's mailbox of answers).
#[derive(Clone)]
pub struct Handle(());
impl Handle {
    /// Proposes and waits for the outcome. `idempotency`: empty, or the client's key.
    pub async fn propose(&self, _command: command::Kind, _idempotency: Bytes) -> Result<Answer, Error> {
        todo!()
    }
    /// A view that holds everything that was acknowledged before the call.
    pub async fn linearizable(&self) -> Result<Arc<ReadView>, Error> {
        todo!()
    }
    /// The newest view, without asking anyone.
    pub fn read_view(&self) -> Arc<ReadView> {
        todo!()
    }
    pub fn status(&self) -> Status {
        todo!()
    }
    /// What the store takes on disk.
    pub fn size(&self) -> Size {
        todo!()
    }
    pub fn watch_inbox(&self) -> &Inbox {
        todo!()
    }
    /// Renews on the leader; the new TTL in ms, None: no such lease.
    pub async fn lease_renew(&self, _id: LeaseId) -> Result<Option<i64>, Error> {
        todo!()
    }
    /// (remaining ms, granted ms), None: no such lease.
    pub async fn lease_remaining(&self, _id: LeaseId) -> Result<Option<(i64, i64)>, Error> {
        todo!()
    }
    /// By remaining time.
    pub async fn lease_list(&self) -> Result<Vec<LeaseId>, Error> {
        todo!()
    }
}
