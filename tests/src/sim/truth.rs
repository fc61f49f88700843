//! What really happened: the entries that were applied anywhere, in their order, and what the model says they do.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_proto::{conclave::raft::v1 as entry, mvccpb::KeyValue};
use conclave_server::{
    lease::Grant,
    mvcc::{Change, KeyRange, Position},
    types::{LeaseId, LogIndex, Revision},
};
use prost::Message as _;

use super::{
    model::{Expected, Model},
    seen::{Decided, Slot},
};

/// One entry of the truth.
#[derive(Clone, Debug)]
pub struct True {
    pub slot: Slot,
    pub entry: Option<entry::Entry>,
    pub expected: Expected,
    /// Where the key space and the leases stand behind it.
    pub position: Position,
    pub leases: Vec<(LeaseId, Grant)>,
    /// Keys that hung on the lease that it revokes, in front of it.
    pub attached: Vec<Bytes>,
}

#[derive(Clone, Debug, Default)]
pub struct Truth {
    log: Vec<True>,
    model: Model,
    changes: BTreeMap<Revision, Vec<Change>>,
}

impl Truth {
    #[must_use]
    pub fn new() -> Self {
        Self { model: Model::new(), ..Self::default() }
    }

    /// # Errors
    /// If the entry is not the next one, or not readable.
    pub fn decide(&mut self, decided: &Decided) -> Result<(), String> {
        if decided.slot.index != self.applied().next() {
            return Err(format!("entry {} was applied after {}", decided.slot.index, self.applied()));
        }
        let entry = match &decided.data {
            data if data.is_empty() => None,
            data => Some(entry::Entry::decode(data.clone()).map_err(|error| error.to_string())?),
        };
        let attached = entry.as_ref().map(|entry| self.attached(entry)).unwrap_or_default();
        let nothing = |reply, revision| Expected { reply, changes: Vec::new(), revision, made: false, repeated: false };
        let expected = match &entry {
            Some(entry) => self.model.apply(entry, decided.slot),
            None => nothing(Ok(conclave_server::state::Reply::Done), self.model.position().revision),
        };
        if !expected.changes.is_empty() {
            self.changes.insert(expected.revision, expected.changes.clone());
        }
        let (position, leases) = (self.model.position(), self.model.leases());
        self.log.push(True { slot: decided.slot, entry, expected, position, leases, attached });
        Ok(())
    }

    fn attached(&self, entry: &entry::Entry) -> Vec<Bytes> {
        let kind = entry.command.as_ref().and_then(|command| command.kind.as_ref());
        let Some(entry::command::Kind::LeaseRevoke(revoke)) = kind else { return Vec::new() };
        let everything = KeyRange::From(Bytes::from_static(b"\0"));
        let now = self.model.read(&everything, self.model.position().revision);
        now.into_iter().filter(|kv| kv.lease == revoke.id).map(|kv| kv.key).collect()
    }

    /// The last index that was applied anywhere.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        LogIndex(self.log.len() as u64)
    }

    #[must_use]
    pub fn at(&self, index: LogIndex) -> Option<&True> {
        self.log.get(usize::try_from(index.0.checked_sub(1)?).ok()?)
    }

    #[must_use]
    pub fn last(&self) -> Option<&True> {
        self.log.last()
    }

    #[must_use]
    pub fn position(&self) -> Position {
        self.model.position()
    }

    /// The range as it was at `revision`, compacted or not.
    #[must_use]
    pub fn read(&self, range: &KeyRange, revision: Revision) -> Vec<KeyValue> {
        self.model.read(range, revision)
    }

    /// Changes of the range from `from` on.
    pub fn changes<'a>(
        &'a self,
        range: &'a KeyRange,
        from: Revision,
    ) -> impl Iterator<Item = (Revision, Vec<&'a Change>)> {
        self.changes.range(from..).filter_map(move |(revision, changes)| {
            let of_range: Vec<_> = changes.iter().filter(|change| range.contains(&change.kv.key)).collect();
            (!of_range.is_empty()).then_some((*revision, of_range))
        })
    }
}
