//! A member tells the others its name and where clients reach it, until the table says so.

use conclave_proto::conclave::raft::v1::{MemberPublish, command};

use crate::{members, mvcc::Published, types::MemberId};

/// A proposal may be lost with a leader; etcd waits its request timeout of 7 s before it tries again.
const RETRY_MS: u64 = 7_000;

#[derive(Debug)]
pub(super) struct Publisher {
    member: MemberId,
    name: String,
    client_urls: Vec<String>,
    done: bool,
    next_ms: u64,
}

impl Publisher {
    pub(super) fn new(member: MemberId, name: String, client_urls: Vec<String>) -> Self {
        Self { member, name, client_urls, done: false, next_ms: 0 }
    }

    /// The command, if the table does not say it yet and it was not proposed just now.
    pub(super) fn due(&mut self, now_ms: u64, published: &Published) -> Option<command::Kind> {
        if self.done {
            return None;
        }
        let known = members::get(&published.load().view, self.member);
        if known.is_some_and(|known| known.name == self.name && known.client_urls == self.client_urls) {
            self.done = true;
            return None;
        }
        if now_ms < self.next_ms {
            return None;
        }
        self.next_ms = now_ms + RETRY_MS;
        Some(command::Kind::MemberPublish(MemberPublish {
            id: self.member.0,
            name: self.name.clone(),
            client_urls: self.client_urls.clone(),
        }))
    }
}
