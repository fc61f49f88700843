use super::Position;
use crate::{engine::Read, error::Error, types::Revision};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    pub compacted: Revision,
    pub revision: Revision,
}

/// etcd's HashKV (etcd-v3.md 5.5), equal to etcd's for the same history, in passes of bounded memory. `revision` 0: current.
pub fn hash_kv(_read: &impl Read, _at: Position, _revision: Revision) -> Result<HashKv, Error> {
    todo!()
}
