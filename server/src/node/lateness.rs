//! What a client is told whose proposal was not answered in time. Nobody knows whether it will be executed, unless nobody
//! was there to take it; what is told is why, as far as this member can see, and as etcd would say it
//! (`parseProposeCtxErr` in its server).

use crate::error::Error;

/// What this member knows of its leader, in ms of its own clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LeaderTimes {
    /// When the leader that is known, or was last, became known.
    pub(super) elected_ms: Option<u64>,
    /// Since when none is known.
    pub(super) lost_ms: Option<u64>,
    /// Since when the leader, or as leader a quorum, has been connected.
    pub(super) connected_since_ms: Option<u64>,
}

pub(super) fn why_late(began_ms: u64, election_ms: u64, times: LeaderTimes) -> Error {
    if times.lost_ms.is_some_and(|lost_ms| lost_ms <= began_ms) {
        // It waited for a leader all the time: nothing was proposed. etcd's raft blocks then, until the time is over.
        return Error::ContextDeadlineExceeded;
    }
    // A leader that was elected while the client waited was preceded by one that failed, two election timeouts before at
    // most.
    let by_failure = |elected_ms: u64| began_ms < elected_ms && began_ms > elected_ms.saturating_sub(2 * election_ms);
    if times.elected_ms.is_some_and(by_failure) {
        return Error::TimeoutDueToLeaderFail;
    }
    if times.lost_ms.is_none() && times.connected_since_ms.is_none_or(|since_ms| since_ms > began_ms) {
        return Error::TimeoutDueToConnectionLost;
    }
    Error::Timeout
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_etcd_says_it() {
        let why = |elected_ms, lost_ms, connected_since_ms| {
            why_late(10_000, 1_000, LeaderTimes { elected_ms, lost_ms, connected_since_ms })
        };
        // All is well, but there was no answer.
        assert_eq!(why(Some(500), None, Some(600)), Error::Timeout);
        // No leader since before; there never was one.
        assert_eq!(why(Some(500), Some(9_999), Some(600)), Error::ContextDeadlineExceeded);
        assert_eq!(why(None, Some(0), None), Error::ContextDeadlineExceeded);
        // The leader was lost while the client waited, and there is no other.
        assert_eq!(why(Some(500), Some(10_001), None), Error::Timeout);
        // Another leader was elected within two election timeouts.
        assert_eq!(why(Some(11_999), None, Some(11_999)), Error::TimeoutDueToLeaderFail);
        assert_eq!(why(Some(10_001), None, Some(10_001)), Error::TimeoutDueToLeaderFail);
        // A leader was elected, but long after.
        assert_eq!(why(Some(12_001), None, Some(600)), Error::Timeout);
        // The same leader all the time, and the connection broke, or is broken.
        assert_eq!(why(Some(500), None, Some(10_001)), Error::TimeoutDueToConnectionLost);
        assert_eq!(why(Some(500), None, None), Error::TimeoutDueToConnectionLost);
    }
}
