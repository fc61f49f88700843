use bytes::Bytes;
use std::{
    sync::Arc,
    task::{Context, Poll},
};

/// One WatchResponse but for its watch id: `body` is the encoded rest, shared between watchers.
#[derive(Clone, Debug)]
pub struct Frame {
    pub watch_id: i64,
    pub body: Bytes,
}

/// What the hub has for one stream, bounded in bytes.
#[derive(Debug)]
pub struct Outbox(());
impl Outbox {
    pub fn new(_max_bytes: usize) -> Arc<Self> {
        todo!()
    }
    /// False: full, nothing was queued.
    #[must_use]
    pub fn push(&self, _frame: Frame) -> bool {
        todo!()
    }
    /// Takes all frames. The flag says that the hub met a full outbox since the last take (answer with `Input::Drained`).
    pub fn poll_take(&self, _cx: &mut Context<'_>, _into: &mut Vec<Frame>) -> Poll<bool> {
        todo!()
    }
}
