//! From a command to the bytes of a log entry.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use conclave_proto::conclave::raft::v1 as entry;
use prost::Message as _;

use super::{mailbox::Ticket, shared::Identity};
use crate::types::Term;

/// The lowest level that has a command: a member below it stops before it applies the entry. All commands that exist
/// are of the first level.
fn required_level(_command: &entry::command::Kind) -> u32 {
    1
}

/// Milliseconds since 1970 by this machine's clock, for the header; nothing is decided by it.
fn wall_clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The entry that holds `command`, on behalf of who waits under `ticket`.
#[must_use]
pub fn entry(
    identity: Identity,
    ticket: Ticket,
    term: Term,
    idempotency: Bytes,
    command: entry::command::Kind,
) -> entry::Entry {
    entry::Entry {
        header: Some(entry::Header {
            required_level: required_level(&command),
            request_id: Some(entry::RequestId { member: identity.member.0, boot: identity.boot, sequence: ticket.0 }),
            idempotency_key: idempotency,
            caller: None,
            proposer_term: term.0,
            wall_clock_ms: wall_clock_ms(),
        }),
        command: Some(entry::Command { kind: Some(command) }),
    }
}

/// As [`entry`], in bytes.
pub(super) fn encode(
    identity: Identity,
    ticket: Ticket,
    term: Term,
    idempotency: Bytes,
    command: entry::command::Kind,
) -> Bytes {
    Bytes::from(entry(identity, ticket, term, idempotency, command).encode_to_vec())
}
