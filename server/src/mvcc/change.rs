use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;

use super::KeyRange;
use crate::{
    engine::Batch,
    types::{LeaseId, Revision, Sub},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Delete,
}

/// One change of one key, with what it replaced. Of a delete, `kv` holds only key and mod revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub kind: Kind,
    pub sub: Sub,
    pub kv: KeyValue,
    pub prev: Option<KeyValue>,
}

/// The changes of one revision, written into a batch as they are made.
///
/// Making a change whose key already carries this revision is a no-op, so that an entry that was written in pieces and
/// is applied again after a crash goes on where it stopped.
pub struct Changes<'b> {
    _batch: &'b mut Batch,
}

impl<'b> Changes<'b> {
    /// `revision`: the one these changes make (current + 1). `from`: the first free sub (0, or where a resumed entry stopped).
    pub fn new(_batch: &'b mut Batch, _revision: Revision, _from: Sub) -> Self {
        todo!()
    }
    pub fn put(&mut self, _key: &Bytes, _value: &Bytes, _lease: LeaseId) -> Option<KeyValue> {
        todo!()
    }
    /// Deletes the keys of the range that exist, at most `max_bytes` of pre-images at a time; returns them; `done` false: call again.
    pub fn delete(&mut self, _range: &KeyRange) -> (Vec<KeyValue>, bool) {
        todo!()
    }
    /// Changes so far (also those of earlier pieces).
    pub fn made(&self) -> Sub {
        todo!()
    }
    pub fn take(self) -> Vec<Change> {
        todo!()
    }
}
