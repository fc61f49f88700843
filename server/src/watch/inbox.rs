use super::{Input, Published};
use crate::types::Revision;

/// The one ordered, bounded way into the hub.
pub struct Inbox(());
impl Inbox {
    pub fn new(_max_inputs: usize, _max_publish_bytes: usize) -> Self {
        todo!()
    }
    /// From apply. Never blocks: over the bound it notes the first missed revision instead.
    pub fn publish(&self, _revision: Revision, _changes: Published) {
        todo!()
    }
    /// From a stream. False: the hub is `max_inputs` behind, the stream must be refused.
    #[must_use]
    pub fn send(&self, _input: Input) -> bool {
        todo!()
    }
    /// Blocks until something arrived, `stop` was called, or the time is over. True while not stopped.
    pub fn wait(&self, _timeout: std::time::Duration) -> bool {
        todo!()
    }
    pub fn stop(&self) {
        todo!()
    }
}
