//! What the driver remembers of archives and of followers that trail: small states, each with one rule.

use std::collections::BTreeMap;

use crate::{
    snapshot::ArchiveMeta,
    types::{LogIndex, MemberId},
};

/// What raft made of an archive that was staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It will come as [`super::Effects::install`] once the log is durable that begins behind it.
    Accepted(ArchiveMeta),
    /// It is of no use any more, and can go.
    Ignored(ArchiveMeta),
}

/// The archive that raft took last, on its way into the state.
#[derive(Debug, Default)]
pub(super) enum Accepted {
    #[default]
    None,
    /// The step with this number, which begins the log anew, is not durable yet.
    Pending { number: u64, archive: ArchiveMeta },
    /// The log begins behind it; the apply thread is to be told.
    Durable { archive: ArchiveMeta },
    /// The apply thread puts it in, or has done so.
    Installing { up_to: LogIndex },
}

impl Accepted {
    pub(super) fn begin(&mut self, number: u64, archive: ArchiveMeta) {
        assert!(!matches!(self, Self::Pending { .. } | Self::Durable { .. }), "one archive at a time");
        *self = Self::Pending { number, archive };
    }

    pub(super) fn is_pending(&self) -> bool {
        matches!(self, Self::Pending { .. })
    }

    /// Whether an archive was taken that is not in the state yet, which has applied `applied`.
    pub(super) fn is_under_way(&self, applied: LogIndex) -> bool {
        match self {
            Self::None => false,
            Self::Pending { .. } | Self::Durable { .. } => true,
            Self::Installing { up_to } => applied < *up_to,
        }
    }

    /// What raft was told is applied, because an archive brought it.
    pub(super) fn up_to(&self) -> LogIndex {
        match self {
            Self::None => LogIndex(0),
            Self::Pending { archive, .. } | Self::Durable { archive } => archive.index,
            Self::Installing { up_to } => *up_to,
        }
    }

    /// All steps up to this one are durable. The archive's index, if its own step is now.
    pub(super) fn persisted(&mut self, durable: u64) -> Option<LogIndex> {
        let Self::Pending { number, archive } = self else { return None };
        if durable < *number {
            return None;
        }
        let (index, archive) = (archive.index, archive.clone());
        *self = Self::Durable { archive };
        Some(index)
    }

    pub(super) fn take_install(&mut self) -> Option<ArchiveMeta> {
        let Self::Durable { archive } = self else { return None };
        let archive = archive.clone();
        *self = Self::Installing { up_to: archive.index };
        Some(archive)
    }
}

/// A follower that was not heard of for so long gets an archive when it comes back: long enough for a machine to start
/// again, or for a member to be moved.
const ALIVE_MS: u64 = 120_000;
/// Senders that are remembered. More than any membership; a crowd of strangers only makes the log shorter.
const MAX_HEARD: usize = 64;

/// When each other member was heard of last.
#[derive(Debug, Default)]
pub(super) struct Followers(BTreeMap<MemberId, u64>);

impl Followers {
    pub(super) fn heard(&mut self, member: MemberId, now_ms: u64) {
        if self.0.len() < MAX_HEARD || self.0.contains_key(&member) {
            self.0.insert(member, now_ms);
        }
    }

    pub(super) fn needed_from(
        &self,
        matched: impl Iterator<Item = (MemberId, LogIndex)>,
        now_ms: u64,
    ) -> Option<LogIndex> {
        let alive = |member| self.0.get(&member).is_some_and(|heard_ms| now_ms < heard_ms + ALIVE_MS);
        // Of a follower that is not matched at all nothing is known yet.
        let known = matched.filter(|(member, matched)| alive(*member) && *matched > LogIndex(0));
        known.map(|(_, matched)| matched.next()).min()
    }
}
