//! Since when each other member has been heard of without a break: what a client whose time ran out is told depends on
//! it, and who may be asked to lead.
//!
//! Raft's own messages are the evidence: members that can reach each other exchange heartbeats several times in an
//! election timeout.

use std::collections::BTreeMap;

use crate::types::MemberId;

#[derive(Clone, Copy, Debug)]
struct Heard {
    since_ms: u64,
    last_ms: u64,
}

/// One entry a member that raft knows.
#[derive(Debug)]
pub(super) struct Links {
    /// A silence of so long is a break.
    break_ms: u64,
    heard: BTreeMap<MemberId, Heard>,
}

impl Links {
    pub(super) fn new(election_ms: u64) -> Self {
        Self { break_ms: election_ms, heard: BTreeMap::new() }
    }

    pub(super) fn heard(&mut self, from: MemberId, now_ms: u64) {
        let heard = self.heard.entry(from).or_insert(Heard { since_ms: now_ms, last_ms: now_ms });
        if now_ms > heard.last_ms + self.break_ms {
            heard.since_ms = now_ms;
        }
        heard.last_ms = now_ms;
    }

    /// None: it has not been heard of for too long, or ever.
    pub(super) fn since_ms(&self, member: MemberId, now_ms: u64) -> Option<u64> {
        let heard = self.heard.get(&member)?;
        (now_ms <= heard.last_ms + self.break_ms).then_some(heard.since_ms)
    }

    /// Since when a quorum of the voters, this one included, has been connected. `others`: the other voters.
    pub(super) fn quorum_since_ms(&self, others: impl Iterator<Item = MemberId>, now_ms: u64) -> Option<u64> {
        let mut voters = 1;
        let mut since: Vec<u64> =
            others.inspect(|_| voters += 1).filter_map(|member| self.since_ms(member, now_ms)).collect();
        since.sort_unstable();
        match voters / 2 {
            0 => Some(0),
            needed => since.get(needed - 1).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_breaks_a_link() {
        let mut links = Links::new(1_000);
        let member = MemberId(2);
        assert_eq!(links.since_ms(member, 0), None);
        for now_ms in (100..3_000).step_by(100) {
            links.heard(member, now_ms);
        }
        assert_eq!(links.since_ms(member, 3_900), Some(100));
        assert_eq!(links.since_ms(member, 3_901), None);
        links.heard(member, 3_901);
        assert_eq!(links.since_ms(member, 3_901), Some(3_901));
    }

    #[test]
    fn a_quorum_is_as_old_as_the_last_that_it_needs() {
        let mut links = Links::new(1_000);
        let others = || [2, 3, 4, 5].map(MemberId).into_iter();
        links.heard(MemberId(3), 10);
        assert_eq!(links.quorum_since_ms(others(), 20), None);
        links.heard(MemberId(2), 30);
        assert_eq!(links.quorum_since_ms(others(), 40), Some(30));
        links.heard(MemberId(5), 50);
        assert_eq!(links.quorum_since_ms(others(), 60), Some(30));
        assert_eq!(links.quorum_since_ms(std::iter::empty(), 9_000), Some(0), "a sole voter is its own quorum");
    }
}
