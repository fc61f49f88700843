//! A member that never crashes: a second state machine that is given each entry once. It tells what each entry does, and
//! what a store must look like in the end.

use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;
use conclave_server::{
    engine::{Engine, Read},
    error::Error,
    members::Member,
    mvcc::{self, KeyRange, Position, Query},
    node::{self, log::LogEntry},
    state::{Applied, Events, Reply, State},
    types::{MemberId, Revision},
};
use prost::Message as _;

use super::seen::{Restored, digest};

/// No member has this id.
pub(super) const ORACLE: MemberId = MemberId(0);

pub(super) struct Oracle {
    pub(super) state: State,
}

impl Oracle {
    pub(super) fn new(members: &[Member], conf_state: Vec<u8>) -> Self {
        let mut state = State::open(Engine::memory());
        state.bootstrap(members, conf_state);
        Self { state }
    }

    pub(super) fn apply(&mut self, entry: &LogEntry) -> Applied {
        let mut done = self.state.apply(vec![node::decode(entry.clone())]).expect("members applied it too");
        done.pop().expect("one entry, one outcome")
    }
}

/// What a client, a watcher or another member could tell apart.
pub(super) fn outcome(applied: &Applied) -> u32 {
    let mut out = Vec::new();
    out.extend(applied.revision.0.to_le_bytes());
    match &applied.reply {
        Err(error) => out.extend(error.text().as_bytes()),
        Ok(Reply::Done) => out.push(1),
        Ok(Reply::Put(reply)) => reply.encode(&mut out).expect("memory"),
        Ok(Reply::DeleteRange(reply)) => reply.encode(&mut out).expect("memory"),
        Ok(Reply::Txn(reply)) => reply.encode(&mut out).expect("memory"),
        Ok(Reply::Compact(reply)) => reply.encode(&mut out).expect("memory"),
        Ok(Reply::LeaseGrant(reply)) => reply.encode(&mut out).expect("memory"),
        Ok(Reply::LeaseRevoke(reply)) => reply.encode(&mut out).expect("memory"),
    }
    if let Events::Changes(changes) = &applied.effects.events {
        for change in changes.iter() {
            out.extend(change.sub.0.to_le_bytes());
            change.kv.encode(&mut out).expect("memory");
            out.push(u8::from(change.prev.is_some()));
            if let Some(prev) = &change.prev {
                prev.encode(&mut out).expect("memory");
            }
        }
    }
    out.extend(format!("{:?} {:?}", applied.effects.leases, applied.effects.compacted).as_bytes());
    digest(&out)
}

pub(super) fn everything() -> KeyRange {
    KeyRange::From(Bytes::from_static(b"\0"))
}

/// All that a store holds at its own revision.
pub(super) fn contents(member: MemberId, state: &State) -> Restored {
    let view = state.read_view();
    let kvs = collect(&view.view, view.position, everything(), Revision(0)).expect("the current revision");
    Restored {
        member,
        applied: view.applied,
        position: view.position,
        kvs,
        leases: conclave_server::lease::all(&view.view),
    }
}

pub(super) fn collect(
    read: &impl Read,
    at: Position,
    range: KeyRange,
    revision: Revision,
) -> Result<Vec<KeyValue>, Error> {
    let mut kvs = Vec::new();
    let query = Query { revision, ..Query::all(range) };
    mvcc::range(read, at, &query, &mut |version| {
        kvs.push(KeyValue {
            key: Bytes::copy_from_slice(version.key),
            value: Bytes::copy_from_slice(version.value),
            create_revision: version.create.0,
            mod_revision: version.modified.0,
            version: version.version,
            lease: version.lease.0,
        });
    })?;
    Ok(kvs)
}
