//! Strict serializability of what clients of real processes saw, anchored in revisions.
//!
//! The general problem is exponential; here it is a sort. Every answer names the revision that it speaks of, so the order
//! of the writes need not be searched: it is read off, and only has to be checked. What is judged:
//!
//! - *the truth*: all events from revision 1 on, as one watch told them. [`Truth::new`] refuses what no key space can have
//!   done: a revision that is missing or split, a version or a create revision that does not follow from the one before;
//! - *the history*: every request of every client with its call, its return and its answer, or that it will never be known.
//!
//! *Invariants* that [`check`] holds them to:
//!
//! - each answer is what the state at its revision says; of a write, what it did to the state before (`answers`);
//! - each revision was made by exactly one request, and each request made at most one: unique values are the proof, and a
//!   delete without an answer may stand for at most one revision (`authors`);
//! - a request that was refused made none; one without an answer made one or none;
//! - in real time: a write has a higher revision than everything that was answered before it was called, a linearizable
//!   read at least that revision, and nobody sees a revision before its author called (`clocks`). A serializable read may
//!   be old; it is true at its revision all the same.
//!
//! All of it is O(n log n): a million requests take seconds. The checker is tested itself, on histories that a model made
//! (accepted) and on the same after one of two dozen lies (refused).
//!
//! *Not here*: how the history comes about ([`crate::chaos`]); the simulator, whose truth is the log itself and whose
//! clients share one clock, judges in [`crate::sim::invariants`].

mod answers;
mod authors;
mod clocks;
mod truth;

#[cfg(test)]
mod bends;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;

pub use truth::Truth;

/// Nanoseconds of one monotonic clock that all clients share.
pub type Time = u64;

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub struct Op {
    pub client: usize,
    /// The member that was asked; only for the words of a violation.
    pub member: usize,
    pub called: Time,
    pub call: Call,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
pub enum Call {
    /// Asks for the previous key-value.
    Put {
        key: Bytes,
        value: Bytes,
    },
    /// Of one key; asks for the previous key-value.
    Delete {
        key: Bytes,
    },
    Txn(Txn),
    /// Of the keys in `from..to`, or of one key if `to` is empty; of the past if `at` is not zero.
    Read {
        from: Bytes,
        to: Bytes,
        linearizable: bool,
        at: i64,
    },
}

/// If `key` has this mod revision (0: it does not exist), puts and then deletes; if not, reads `key`.
#[derive(Clone, Debug)]
pub struct Txn {
    pub key: Bytes,
    pub mod_revision: i64,
    /// At least one, each with a value that nobody else writes; keys differ from each other and from the deleted one.
    pub puts: Vec<(Bytes, Bytes)>,
    pub delete: Option<Bytes>,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Done {
        returned: Time,
        /// Of the header.
        revision: i64,
        answer: Answer,
    },
    /// The server, or the lack of one, said that nothing was done.
    Refused,
    /// Nobody will know; it may take effect at any later time, once.
    Unknown,
}

#[derive(Clone, Debug)]
pub enum Answer {
    Put {
        prev: Option<KeyValue>,
    },
    Delete {
        prev: Option<KeyValue>,
    },
    /// What the read of the other branch found.
    Txn {
        succeeded: bool,
        found: Option<KeyValue>,
    },
    Read {
        kvs: Vec<KeyValue>,
    },
}

/// What was looked at, so that a history in which nothing happened does not pass for a good one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub done: usize,
    pub refused: usize,
    pub unknown: usize,
    /// Of the unknown ones: those that did take effect.
    pub unknown_effective: usize,
    pub writes: usize,
    pub txns_failed: usize,
    pub reads: usize,
    /// Serializable reads that were older than what had been answered.
    pub reads_behind: usize,
}

impl Summary {
    pub fn add(&mut self, other: Self) {
        self.done += other.done;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.unknown_effective += other.unknown_effective;
        self.writes += other.writes;
        self.txns_failed += other.txns_failed;
        self.reads += other.reads;
        self.reads_behind += other.reads_behind;
    }
}

/// Judges a history by the truth.
///
/// # Errors
/// The first violation that was found, in words.
pub fn check(ops: &[Op], truth: &Truth) -> Result<Summary, String> {
    let mut authors = authors::Authors::new(truth);
    for (n, op) in ops.iter().enumerate() {
        answers::judge(n, op, truth, &mut authors).map_err(|why| format!("{why}\n  in {op:?}"))?;
    }
    authors.attribute_lost_deletes(ops, truth)?;
    let authors = authors.finish(truth)?;
    let reads_behind = clocks::judge(ops, &authors)?;
    let count = |of: &dyn Fn(&Op) -> bool| ops.iter().filter(|op| of(op)).count();
    let unknown = |op: &Op| matches!(op.outcome, Outcome::Unknown);
    Ok(Summary {
        done: count(&|op| matches!(op.outcome, Outcome::Done { .. })),
        refused: count(&|op| matches!(op.outcome, Outcome::Refused)),
        unknown: count(&unknown),
        unknown_effective: authors.iter().filter(|&&n| unknown(&ops[n])).count(),
        writes: authors.len(),
        txns_failed: count(&|op| {
            matches!(op.outcome, Outcome::Done { answer: Answer::Txn { succeeded: false, .. }, .. })
        }),
        reads: count(&|op| matches!(op.outcome, Outcome::Done { answer: Answer::Read { .. }, .. })),
        reads_behind,
    })
}
