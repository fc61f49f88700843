//! Wrong replies, planted to see that they are found.

use bytes::Bytes;
use conclave_proto::{etcdserverpb as pb, mvccpb};

use super::call::Reply;

/// One way in which a server could be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutation {
    /// A header one revision behind.
    HeaderRevision,
    /// A header without member id.
    HeaderMember,
    LostKey,
    SwappedKeys,
    WrongValue,
    WrongVersion,
    WrongLease,
    More,
    Count,
    PrevKv,
    Deleted,
    TxnBranch,
    NestedRevision,
    ErrorText,
    ErrorCode,
    Hash,
    HashRevision,
    GrantedTtl,
    KeepAliveTtl,
    LeaseOrder,
    LostEvent,
    RepeatedEvent,
    SwappedEvents,
    EventPrevKv,
    WatchId,
    CancelReason,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::HeaderRevision,
        Self::HeaderMember,
        Self::LostKey,
        Self::SwappedKeys,
        Self::WrongValue,
        Self::WrongVersion,
        Self::WrongLease,
        Self::More,
        Self::Count,
        Self::PrevKv,
        Self::Deleted,
        Self::TxnBranch,
        Self::NestedRevision,
        Self::ErrorText,
        Self::ErrorCode,
        Self::Hash,
        Self::HashRevision,
        Self::GrantedTtl,
        Self::KeepAliveTtl,
        Self::LeaseOrder,
        Self::LostEvent,
        Self::RepeatedEvent,
        Self::SwappedEvents,
        Self::EventPrevKv,
        Self::WatchId,
        Self::CancelReason,
    ];
}

/// The mutation of a run: planted once, at the first reply that it fits, after the start-up phase.
#[derive(Debug)]
pub(super) struct Planted {
    waiting: Option<Mutation>,
    armed: bool,
}

impl Planted {
    pub(super) fn new(mutation: Option<Mutation>) -> Self {
        Self { waiting: mutation, armed: false }
    }

    pub(super) fn arm(&mut self) {
        self.armed = true;
    }

    fn plant(&mut self, change: impl FnOnce(Mutation) -> bool) {
        if let (true, Some(mutation)) = (self.armed, self.waiting)
            && change(mutation)
        {
            self.waiting = None;
        }
    }

    pub(super) fn reply(&mut self, reply: &mut Reply) {
        self.plant(|mutation| in_reply(mutation, reply).is_some());
    }

    pub(super) fn events(&mut self, events: &mut Vec<mvccpb::Event>) {
        self.plant(|mutation| in_events(mutation, events).is_some());
    }

    pub(super) fn control(&mut self, response: &mut pb::WatchResponse) {
        self.plant(|mutation| match mutation {
            Mutation::WatchId => {
                response.watch_id += 1;
                true
            }
            Mutation::CancelReason if response.canceled && !response.cancel_reason.is_empty() => {
                response.cancel_reason.pop();
                true
            }
            _ => false,
        });
    }
}

/// Makes the change if the reply has a place for it.
fn in_reply(mutation: Mutation, reply: &mut Reply) -> Option<()> {
    match (mutation, reply) {
        (Mutation::HeaderRevision, Reply::Put(r)) => r.header.as_mut()?.revision -= 1,
        (Mutation::HeaderMember, Reply::Put(r)) => r.header.as_mut()?.member_id = 0,
        (Mutation::LostKey, Reply::Range(r)) => drop(r.kvs.pop()?),
        (Mutation::SwappedKeys, Reply::Range(r)) if r.kvs.len() > 1 && unlike(&r.kvs[0], &r.kvs[1]) => r.kvs.swap(0, 1),
        (Mutation::WrongValue, Reply::Range(r)) => r.kvs.first_mut()?.value = Bytes::from_static(b"wrong"),
        (Mutation::WrongVersion, Reply::Range(r)) => r.kvs.first_mut()?.version += 1,
        (Mutation::WrongLease, Reply::Range(r)) => r.kvs.first_mut()?.lease += 1,
        (Mutation::More, Reply::Range(r)) => r.more = !r.more,
        (Mutation::Count, Reply::Range(r)) => r.count += 1,
        (Mutation::PrevKv, Reply::Put(r)) => drop(r.prev_kv.take()?),
        (Mutation::Deleted, Reply::DeleteRange(r)) => r.deleted += 1,
        (Mutation::TxnBranch, Reply::Txn(r)) => r.succeeded = !r.succeeded,
        (Mutation::NestedRevision, Reply::Txn(r)) => nested_header(r)?.revision += 1,
        (Mutation::ErrorText, Reply::Failed { message, .. }) => message.push('.'),
        (Mutation::ErrorCode, Reply::Failed { code, .. }) => *code = tonic::Code::Internal,
        (Mutation::Hash, Reply::HashKv(r)) => r.hash ^= 1,
        (Mutation::HashRevision, Reply::HashKv(r)) => r.hash_revision += 1,
        (Mutation::GrantedTtl, Reply::LeaseTimeToLive(r)) => r.granted_ttl += 1,
        (Mutation::KeepAliveTtl, Reply::LeaseKeepAlive(r)) => r.ttl += 1,
        (Mutation::LeaseOrder, Reply::LeaseLeases(r)) if r.leases.len() > 1 => r.leases.reverse(),
        _ => return None,
    }
    Some(())
}

/// Differing in all that a range can be sorted by, so that their order is never a matter of chance.
fn unlike(a: &mvccpb::KeyValue, b: &mvccpb::KeyValue) -> bool {
    a.version != b.version
        && a.create_revision != b.create_revision
        && a.mod_revision != b.mod_revision
        && a.value != b.value
}

fn nested_header(txn: &mut pb::TxnResponse) -> Option<&mut pb::ResponseHeader> {
    use pb::response_op::Response;
    txn.responses.iter_mut().find_map(|op| match op.response.as_mut()? {
        Response::ResponsePut(r) => r.header.as_mut(),
        Response::ResponseTxn(r) => r.header.as_mut(),
        _ => None,
    })
}

fn in_events(mutation: Mutation, events: &mut Vec<mvccpb::Event>) -> Option<()> {
    match mutation {
        Mutation::LostEvent => drop(events.pop()?),
        Mutation::RepeatedEvent => events.push(events.last()?.clone()),
        Mutation::SwappedEvents if events.len() > 1 => events.swap(0, 1),
        Mutation::EventPrevKv => drop(events.iter_mut().find_map(|event| event.prev_kv.take())?),
        _ => return None,
    }
    Some(())
}
