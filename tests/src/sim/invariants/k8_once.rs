//! K8: no request executes twice, whoever forwarded or repeated it, and one that was refused does not execute at all.
//! Requests are known by their id, and their effect by a value that is written once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use conclave_proto::conclave::raft::v1::RequestId;
use conclave_server::types::LogIndex;

use super::{Invariant, Seen, Truth, Verdict, must};
use crate::sim::seen::{Call, Op};

#[derive(Default)]
pub(super) struct Once {
    executed: BTreeMap<(u64, u64, u64), LogIndex>,
    /// By the value that a request writes: where it was written.
    written: BTreeMap<Bytes, LogIndex>,
    open: BTreeMap<Op, Bytes>,
    refused: BTreeSet<Bytes>,
}

/// The part of a value by which it is known: up to the first dot.
pub(crate) fn unique_of(value: &[u8]) -> Bytes {
    let end = value.iter().position(|byte| *byte == b'.').unwrap_or(value.len());
    Bytes::copy_from_slice(&value[..end])
}

impl Invariant for Once {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        match seen {
            Seen::Called(op, Call::Write { unique: Some(unique) }) => drop(self.open.insert(*op, unique.clone())),
            Seen::Answered(op, _) | Seen::Lost(op) => drop(self.open.remove(op)),
            Seen::Refused(op) => {
                if let Some(unique) = self.open.remove(op) {
                    must(!self.written.contains_key(&unique), || format!("op {op} was refused, and executed"))?;
                    self.refused.insert(unique);
                }
            }
            Seen::Decided(decided) if !decided.changes.is_empty() => {
                let index = decided.slot.index;
                let entry = truth.at(index).and_then(|known| known.entry.as_ref());
                let id = entry.and_then(|entry| entry.header.as_ref()?.request_id);
                if let Some(RequestId { member, boot, sequence }) = id.filter(|id| id.sequence != 0) {
                    let first = *self.executed.entry((member, boot, sequence)).or_insert(index);
                    must(first == index, || {
                        format!("request {sequence} of m{member} executes at {first} and {index}")
                    })?;
                }
                for change in decided.changes.iter().filter(|change| !change.kv.value.is_empty()) {
                    let unique = unique_of(&change.kv.value);
                    must(!self.refused.contains(&unique), || format!("a refused request executes at {index}"))?;
                    let first = *self.written.entry(unique).or_insert(index);
                    must(first == index, || format!("one value is written at {first} and at {index}"))?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
