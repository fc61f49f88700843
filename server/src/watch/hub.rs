use super::Inbox;
use crate::mvcc::ReadView;

#[derive(Clone, Debug)]
pub struct HubOptions {
    pub progress_interval_ms: u64,
    pub max_fragment_bytes: usize,
    pub catch_up_bytes: usize,
    pub ring_bytes: usize,
}

pub struct Hub(());
impl Hub {
    pub fn new(_options: HubOptions, _view: &ReadView) -> Self {
        todo!()
    }
    /// Takes what has arrived, acts once, and does one bounded piece of catch-up. True: there is more to do at once.
    /// `view` must be at least as new as everything in the inbox, so it is read after taking: pass how to get it.
    pub fn step(&mut self, _inbox: &Inbox, _view: &dyn Fn() -> std::sync::Arc<ReadView>, _now_ms: u64) -> bool {
        todo!()
    }
}
