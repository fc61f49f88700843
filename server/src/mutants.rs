//! Defects put back on purpose, a changed line each at the function that ships. The simulator must find every one of
//! them: a harness that does not says little when it finds nothing.
//!
//! Without the feature `mutants`, which no release has, [`is`] is a constant `false` and all of this is compiled out. With
//! it, the mutant is chosen once for the process, by its first call of [`choose`].

/// What may be broken. The numbers in comments are etcd's issues of the same defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// The log reports what it has not synced (14370).
    AckBeforeFsync = 1,
    /// The applied index is written in a batch of its own, behind the effects (13766).
    AppliedOutsideBatch,
    /// A vote leaves before the disk remembers it.
    VoteBeforePersist,
    /// A leader answers reads without asking anybody whether it still leads (20418).
    ReadWithoutQuorum,
    /// What does not fit the hub's queue is forgotten (17529).
    EventLost,
    /// A log that ends before its mark is taken as it is.
    TrustShortLog,
    /// A log that is broken below its mark is cut there.
    CutAtRot,
    /// A forwarded proposal that comes twice executes twice.
    DuplicateForward,
    /// A store that holds a part of an archive is taken for whole.
    HalfArchive,
}

impl Mutant {
    pub const ALL: [Self; 9] = [
        Self::AckBeforeFsync,
        Self::AppliedOutsideBatch,
        Self::VoteBeforePersist,
        Self::ReadWithoutQuorum,
        Self::EventLost,
        Self::TrustShortLog,
        Self::CutAtRot,
        Self::DuplicateForward,
        Self::HalfArchive,
    ];
}

#[cfg(feature = "mutants")]
static CHOSEN: std::sync::OnceLock<Mutant> = std::sync::OnceLock::new();

/// For the whole process; the first choice stays.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Mutant) {
    CHOSEN.get_or_init(|| mutant);
}

/// Whether the code that asks shall be wrong in this way.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is(mutant: Mutant) -> bool {
    CHOSEN.get() == Some(&mutant)
}

/// Whether the code that asks shall be wrong in this way: never, in this build.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline(always)]
pub const fn is(_mutant: Mutant) -> bool {
    false
}
