//! What must be so, one invariant a file. Each judges what was [`Seen`], in the order in which it happened, against the
//! truth so far, and knows nothing of the simulator: the same files judge what is recorded of real processes.
//!
//! | | |
//! |---|---|
//! | raft | one leader a term, leaders only append, logs match, leaders are complete, members apply alike, votes last, terms commit themselves, what is answered is on a quorum's disks, the applied index is true, whoever recovers does not vote, the cluster gets on |
//! | key space | strict serializability, durability, revisions, transactions, fields, compaction, hashes, once |
//! | watch | ordered, unique, reliable, atomic, resumable, bookmarkable |
//! | lease | never early, whole |
//!
//! The invariants are tested as well: `tests.rs` tells each of them histories that were bent, which it must refuse, and
//! histories as they were, which it must accept.

mod r01_one_leader;
mod r02_append_only;
mod r03_log_matching;
mod r04_leader_completeness;
mod r05_same_state;
mod r06_votes_last;
mod r08_own_term;
mod r09_on_a_quorum;
mod r10_applied_is_true;
mod r11_rotten_is_silent;

mod k1_serializable;
mod k2_durable;
mod k3_revisions;
mod k4_atomic;
mod k5_fields;
mod k6_compaction;
mod k7_hashes;
mod k8_once;

mod w1_ordered;
mod w2_unique;
mod w3_reliable;
mod w4_atomic;
mod w5_resumable;
mod w6_bookmarkable;

mod l1_never_early;
mod l2_whole;

mod logs;

#[cfg(test)]
mod tests;

use super::{seen::Seen, truth::Truth};

/// What is wrong, in words; empty words are no violation.
pub type Verdict = Result<(), String>;

/// Something that must be so, and remembers what it needs to tell.
pub trait Invariant {
    /// # Errors
    /// What is not as it must be.
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict;
}

/// All invariants, and the truth that they share.
pub struct Judge {
    truth: Truth,
    all: Vec<(&'static str, Box<dyn Invariant>)>,
}

impl Default for Judge {
    fn default() -> Self {
        Self::new()
    }
}

impl Judge {
    #[must_use]
    pub fn new() -> Self {
        Self { truth: Truth::new(), all: all() }
    }

    /// Of these alone.
    #[cfg(test)]
    fn of(family: &str) -> Self {
        let all: Vec<_> = all().into_iter().filter(|(name, _)| name.starts_with(family)).collect();
        assert_eq!(all.len(), 1, "{family} names one invariant");
        Self { truth: Truth::new(), all }
    }

    #[must_use]
    pub fn truth(&self) -> &Truth {
        &self.truth
    }

    /// # Errors
    /// The invariant that is broken, and how.
    pub fn see(&mut self, seen: &Seen) -> Verdict {
        if let Seen::Decided(decided) = seen {
            self.truth.decide(decided).map_err(|why| format!("the truth cannot go on: {why}"))?;
        }
        for (name, invariant) in &mut self.all {
            invariant.see(seen, &self.truth).map_err(|why| format!("{name} is broken: {why}"))?;
        }
        Ok(())
    }
}

fn all() -> Vec<(&'static str, Box<dyn Invariant>)> {
    vec![
        ("R1 (one leader a term)", Box::<r01_one_leader::OneLeader>::default()),
        ("R2 (leaders only append)", Box::<r02_append_only::AppendOnly>::default()),
        ("R3 (logs match)", Box::<r03_log_matching::LogMatching>::default()),
        ("R4 (leaders are complete)", Box::<r04_leader_completeness::Completeness>::default()),
        ("R5 (members apply alike)", Box::<r05_same_state::SameState>::default()),
        ("R6 (votes last)", Box::<r06_votes_last::VotesLast>::default()),
        ("R8 (terms commit themselves)", Box::<r08_own_term::OwnTerm>::default()),
        ("R9 (answered means on a quorum's disks)", Box::<r09_on_a_quorum::OnAQuorum>::default()),
        ("R10 (the applied index is true)", Box::<r10_applied_is_true::AppliedIsTrue>::default()),
        ("R11 (who is rotten is silent)", Box::<r11_rotten_is_silent::RottenIsSilent>::default()),
        ("K1 (strict serializability)", Box::<k1_serializable::Serializable>::default()),
        ("K2 (durability)", Box::<k2_durable::Durable>::default()),
        ("K3 (revisions)", Box::<k3_revisions::Revisions>::default()),
        ("K4 (transactions are atomic)", Box::<k4_atomic::Atomic>::default()),
        ("K5 (fields)", Box::<k5_fields::Fields>::default()),
        ("K6 (compaction)", Box::<k6_compaction::Compaction>::default()),
        ("K7 (hashes)", Box::<k7_hashes::Hashes>::default()),
        ("K8 (once)", Box::<k8_once::Once>::default()),
        ("W1 (ordered)", Box::<w1_ordered::Ordered>::default()),
        ("W2 (unique)", Box::<w2_unique::Unique>::default()),
        ("W3 (reliable)", Box::<w3_reliable::Reliable>::default()),
        ("W4 (atomic)", Box::<w4_atomic::AtomicRevisions>::default()),
        ("W5 (resumable)", Box::<w5_resumable::Resumable>::default()),
        ("W6 (bookmarkable)", Box::<w6_bookmarkable::Bookmarkable>::default()),
        ("L1 (never early)", Box::<l1_never_early::NeverEarly>::default()),
        ("L2 (expiry is whole)", Box::<l2_whole::Whole>::default()),
    ]
}

/// Refuses with words, unless it is so.
fn must(so: bool, why: impl FnOnce() -> String) -> Verdict {
    if so { Ok(()) } else { Err(why()) }
}
