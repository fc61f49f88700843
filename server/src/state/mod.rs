//! The replicated state machine. (door essay to be written by the room's builder)

mod apply;
mod guard;
mod requests;
mod txn;

use std::sync::Arc;

use conclave_proto::{conclave::raft::v1 as entry, etcdserverpb as pb};

use crate::{
    engine::Engine,
    error::Error,
    mvcc::{Change, ReadView},
    types::{LeaseId, LogIndex, Revision, Term},
};

/// The highest feature level this program understands.
pub const LEVEL: u32 = 1;

/// One committed entry, decoded.
#[derive(Clone, Debug)]
pub struct Committed {
    pub index: LogIndex,
    pub term: Term,
    pub entry: Option<entry::Entry>, /* None: a new leader's empty entry */
}

/// What applying one entry did: pure data.
#[derive(Clone, Debug)]
pub struct Applied {
    pub index: LogIndex,
    pub request: Option<entry::RequestId>,
    pub reply: Result<Reply, Error>,
    pub revision: Revision,
    pub effects: Effects,
}

/// What a member must do beside answering.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub events: Events,
    pub leases: Vec<LeaseEffect>,
    pub compacted: Option<Revision>,
}

#[derive(Clone, Debug, Default)]
pub enum Events {
    #[default]
    None,
    Changes(Arc<[Change]>),
    /// Too many to hold: who watches reads them from the change log.
    TooMany,
}
#[derive(Clone, Copy, Debug)]
pub enum LeaseEffect {
    Granted { id: LeaseId, ttl_ms: i64 },
    Revoked { id: LeaseId },
}

/// Replies as etcd's messages; headers carry only the revision (the api adds the rest).
#[derive(Clone, Debug)]
pub enum Reply {
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    Done,
}

/// The state machine over an engine.
pub struct State {
    /* engine, position, applied, conf_state bytes, … */ _engine: Engine,
    _s: std::marker::PhantomData<Term>,
}

impl State {
    /// Opens the state that the engine holds; `None` in `applied` terms: a fresh store is revision 1, applied 0.
    pub fn open(_engine: Engine) -> Self {
        todo!()
    }
    pub fn read_view(&self) -> Arc<ReadView> {
        todo!()
    }
    pub fn applied(&self) -> (LogIndex, Term) {
        todo!()
    }
    /// Raft's membership as of the applied index: opaque bytes of raft's ConfState, kept in the same batch as `applied`.
    pub fn conf_state(&self) -> &[u8] {
        todo!()
    }
    /// First start only: writes initial members and ConfState, flushes.
    pub fn bootstrap(&mut self, _members: &[crate::members::Member], _conf_state: Vec<u8>) {
        todo!()
    }
    /// Applies committed entries in order in one engine write (more where an entry is too wide), and publishes the view.
    pub fn apply(&mut self, _entries: Vec<Committed>) -> Vec<Applied> {
        todo!()
    }
    /// What of it a crash now would leave: (applied index, compacted revision).
    pub fn persisted(engine: &Engine) -> (LogIndex, Revision) {
        let _ = engine;
        todo!()
    }
}

/// Stateless checks that need no key space, as etcd makes them before it proposes (order of etcd's checkers).
pub fn check_put(_r: &pb::PutRequest) -> Result<(), Error> {
    todo!()
}
pub fn check_range(_r: &pb::RangeRequest) -> Result<(), Error> {
    todo!()
}
pub fn check_delete_range(_r: &pb::DeleteRangeRequest) -> Result<(), Error> {
    todo!()
}
pub fn check_txn(_r: &pb::TxnRequest, _max_ops: usize) -> Result<(), Error> {
    todo!()
}
/// A txn whose every op is a Range never goes through the log; answered from a view.
pub fn is_read_only(_r: &pb::TxnRequest) -> bool {
    todo!()
}
pub fn read_txn(_view: &ReadView, _r: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
    todo!()
}
/// etcd's RangeRequest as a query.
pub fn query(_r: &pb::RangeRequest) -> Result<crate::mvcc::Query, Error> {
    todo!()
}
