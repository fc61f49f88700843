//! etcd's v3 services, over our own gRPC framing.
//!
//! One [`Api`] serves one runtime. It takes a request of any path and gives a reply whose shape and texts are those of
//! etcd 3.7 on grpc-go, to the letter where clients look: status codes, messages, header fields, order of checks. It
//! holds no state of the store; everything comes through [`crate::node::Handle`] and the views it hands out.
//!
//! *Invariants*
//! - Nothing a client sends can panic or be held beyond a bound: messages are cut at `max_request_bytes` plus 512 KiB,
//!   a stream handler runs only while flow control takes what it makes (`tests::framing::garbage`, `too_large`).
//! - A reply of a linearizable call comes from a view taken after the call came in (`Handle::linearizable`).
//! - A read that may be long never runs on a runtime: it goes to the bounded pool of [`readers`].
//! - Every call is counted once as started and once as handled, also when its client goes away (`services::streams_end`).
//!
//! *Life of a call*: [`call`] checks what grpc-go checks (method, content type, timeout, path), reads the metadata,
//! gathers the message ([`frame`]) and hands it to the file of its service. A unary handler gives one framed message; a
//! stream's handler runs inside its reply's body ([`body`]) and needs no task of its own.
//!
//! *Not here*: HTTP endpoints (`http`), who is told what (`watch`), the meaning of requests (`state`, `mvcc`), listeners
//! and connections (`server`). Authentication, locks and elections are not built yet and say so.
//!
//! References: `docs/etcd-compatibility.md`; gRPC's `PROTOCOL-HTTP2.md`; etcd `server/etcdserver/api/v3rpc`.

mod body;
mod call;
mod cluster;
mod encode;
mod frame;
mod health;
mod kv;
mod lease;
mod maintenance;
mod metadata;
mod method;
mod range;
mod range_stream;
mod readers;
mod status;
mod watch;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::{sync::Arc, time::Duration};

pub use body::Body;
pub use call::is_grpc;
pub use maintenance::{CLUSTER_VERSION, ETCD_VERSION};
pub use method::{Method, Shape};
pub use readers::Readers;

use conclave_proto::etcdserverpb as pb;
use tokio::sync::watch::Receiver;

use crate::{
    error::Error,
    metrics::Calls,
    node::Handle,
    types::{ClusterId, MemberId, Revision, Term},
};
use status::Status;

/// gRPC's own framing around the largest request (etcd's `grpcOverheadBytes`).
const OVERHEAD_BYTES: usize = 512 * 1024;

/// What the services need to know about their configuration.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_request_bytes: usize,
    pub max_txn_ops: usize,
    /// As reported by Maintenance.Status; 0 was already replaced by etcd's default.
    pub quota_bytes: i64,
    pub election_timeout: Duration,
    /// The largest backlog of one watch stream, on top of what HTTP/2 flow control lets out.
    pub watch_outbox_bytes: usize,
}

/// What changes while the services run, told to every stream.
#[derive(Clone)]
pub struct Signals {
    /// True once no leader has been known for three election timeouts (etcd's `maxNoLeaderCnt`).
    pub leader_lost: Receiver<bool>,
    /// True once the member stops serving.
    pub stopping: Receiver<bool>,
}

/// The services of one runtime.
pub struct Api {
    handle: Handle,
    cluster: ClusterId,
    member: MemberId,
    limits: Limits,
    readers: Arc<Readers>,
    calls: Arc<Calls>,
    signals: Signals,
}

impl Api {
    pub fn new(handle: Handle, limits: Limits, readers: Arc<Readers>, calls: Arc<Calls>, signals: Signals) -> Self {
        let status = handle.status();
        Self { cluster: status.cluster, member: status.member, handle, limits, readers, calls, signals }
    }

    fn max_message_bytes(&self) -> usize {
        self.limits.max_request_bytes.saturating_add(OVERHEAD_BYTES)
    }

    /// etcd measures the entry that it would propose: the request inside an envelope with the request's id.
    fn check_size(&self, message_bytes: usize) -> Result<(), Status> {
        /// Measured with etcd 3.7.1: a header with the id, and tag and length around a request of this size.
        const ENVELOPE: usize = 18;
        if message_bytes + ENVELOPE > self.limits.max_request_bytes {
            return Err(Error::RequestTooLarge.into());
        }
        Ok(())
    }

    fn header(&self, revision: Revision, term: Term) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.cluster.0,
            member_id: self.member.0,
            revision: revision.0,
            raft_term: term.0,
        }
    }

    /// The header of a reply that reports the newest revision of this member.
    fn current_header(&self) -> pb::ResponseHeader {
        self.header(self.handle.read_view().position.revision, self.handle.status().term)
    }
}
