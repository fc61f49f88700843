//! Proposals on their way to a leader: each is appended to the log at most once, whatever the network repeats, delays or
//! reorders, and whoever leads when a copy arrives.
//!
//! *The argument.* A member sends a proposal in one message, to the leader of one term, which the message names; it never
//! sends it again unless that leader says that it refused it. Only the leader *of that term* may append what is in the
//! message, so two leaders of different terms cannot both take a copy, although each may see one. There is one leader a
//! term, and one life of it: a member that starts again comes back as a follower and can lead only in a later term. So
//! the memory of which messages came need not be durable nor replicated; it lives as long as the leadership, and is kept
//! beyond its end only to be able to refuse. Whatever this leader makes of the first copy, taken or refused, its number
//! is marked first, so that no later copy is taken: a refused message may be sent anew, under a new number.
//! A refusal can be repeated by the network too, so its receiver marks the number and hears it once.
//!
//! Deciding it at apply instead (a replicated memory of request ids) would cost every put a write, and answer the same
//! question: a copy that no leader appends is never applied.
//!
//! *Numbers.* A message's number counts up in a life of its proposer; lives are counted by the raft log's openings, on
//! disk. A message of an earlier life than the newest that was heard of is dropped, so one [`Seen`] a member is enough.
//!
//! *Bounds.* [`Seen`] covers the last [`WINDOW`] numbers; what comes later than so many others is dropped as if it were a
//! repeat. Its client's time runs out, and it is told that nobody knows.

use std::collections::BTreeMap;

use super::message::Forward;
use crate::{
    mutants::{self, Mutant},
    types::{MemberId, Term},
};

/// Messages of one member that may overtake another one. In order on one connection none does; the bound is for what
/// networks and reconnecting may do.
const WINDOW: u64 = 1_024;
const WORDS: usize = (WINDOW / 64) as usize;

/// Which numbers came: a sliding window, as RFC 6479 has it for IPsec's replay protection.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The highest number that came; 0 is none, for numbers begin at 1.
    newest: u64,
    /// Bit `number % WINDOW` of those in `newest - WINDOW < number <= newest`.
    bits: [u64; WORDS],
}

impl Seen {
    /// True the first time; false for a repeat, and for what is too old to tell.
    pub(super) fn mark(&mut self, number: u64) -> bool {
        if number == 0 {
            return false;
        }
        if number > self.newest {
            let step = number - self.newest;
            if step >= WINDOW {
                self.bits = [0; WORDS];
            } else {
                (self.newest + 1..number).for_each(|skipped| self.clear(skipped));
            }
            self.newest = number;
        } else if self.newest - number >= WINDOW || self.is_set(number) {
            return false;
        }
        let (word, bit) = place(number);
        self.bits[word] |= bit;
        true
    }

    fn is_set(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.bits[word] & bit != 0
    }

    fn clear(&mut self, number: u64) {
        let (word, bit) = place(number);
        self.bits[word] &= !bit;
    }
}

fn place(number: u64) -> (usize, u64) {
    let within = number % WINDOW;
    ((within / 64) as usize, 1 << (within % 64))
}

/// What becomes of a message with proposals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Append what is in it now, or refuse it: it will never be taken again.
    Take,
    /// The leadership that it was meant for has ended, and nothing of it was appended.
    Refuse,
    /// A repeat, or for a leadership that this life of the member knows nothing of. Whether another copy was appended
    /// is not known here, so nothing may be said.
    Drop,
}

/// The memory of one leadership.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// The last term in which this member led.
    term: Term,
    /// By proposer: its newest life, and what came of it. As many as there are members.
    seen: BTreeMap<MemberId, (u64, Seen)>,
}

impl Intake {
    /// This member leads, in this term: what it remembers of an earlier one is of no use any more.
    pub(super) fn lead(&mut self, term: Term) {
        if term > self.term {
            self.term = term;
            self.seen.clear();
        }
    }

    /// Judges a message for the leader of `term`. `leads`: this member leads in that term still.
    pub(super) fn judge(&mut self, from: MemberId, term: Term, forward: Forward, leads: bool) -> Fate {
        if term != self.term || term == Term(0) {
            return Fate::Drop;
        }
        let (life, seen) = self.seen.entry(from).or_default();
        if forward.life > *life {
            (*life, *seen) = (forward.life, Seen::default());
        }
        if forward.life < *life || (!seen.mark(forward.number) && !mutants::is(Mutant::DuplicateForward)) {
            return Fate::Drop;
        }
        if leads { Fate::Take } else { Fate::Refuse }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn a_number_is_new_once() {
        for seed in 0..50 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut seen, mut model, mut top, mut fresh) = (Seen::default(), BTreeSet::new(), 0_u64, 0);
            for _ in 0..5_000 {
                let back = if rng.random_bool(0.1) { 3 * WINDOW } else { 40 };
                let number = (top + rng.random_range(0..30)).saturating_sub(rng.random_range(0..back));
                let number = if rng.random_bool(0.002) { top + rng.random_range(0..3 * WINDOW) } else { number };
                let expected = number > 0 && top.saturating_sub(number) < WINDOW && model.insert(number);
                top = top.max(number);
                fresh += usize::from(expected);
                assert_eq!(seen.mark(number), expected, "seed {seed}: {number} with {top} the newest");
            }
            assert!(fresh > 500, "seed {seed} tried little");
        }
    }

    #[test]
    fn the_ends_of_the_window() {
        let mut seen = Seen::default();
        assert!(!seen.mark(0));
        assert!(seen.mark(1) && !seen.mark(1));
        assert!(seen.mark(WINDOW) && seen.mark(2));
        assert!(seen.mark(WINDOW + 1) && !seen.mark(1), "1 is too old now, and its bit is another number's");
        assert!(seen.mark(u64::MAX) && !seen.mark(u64::MAX) && !seen.mark(WINDOW + 2));
        assert!(seen.mark(u64::MAX - WINDOW + 1) && !seen.mark(u64::MAX - WINDOW));
    }

    #[test]
    fn only_the_leader_of_the_term_takes_and_once() {
        let (from, mut intake) = (MemberId(2), Intake::default());
        let forward = |life, number| Forward { life, number };
        assert_eq!(intake.judge(from, Term(0), forward(1, 1), true), Fate::Drop);
        assert_eq!(intake.judge(from, Term(5), forward(1, 1), false), Fate::Drop, "it never led in 5");
        intake.lead(Term(5));
        assert_eq!(intake.judge(from, Term(5), forward(1, 1), true), Fate::Take);
        assert_eq!(intake.judge(from, Term(5), forward(1, 1), true), Fate::Drop);
        assert_eq!(intake.judge(MemberId(3), Term(5), forward(1, 1), true), Fate::Take);
        assert_eq!(intake.judge(from, Term(4), forward(1, 2), true), Fate::Drop, "for a leader before");
        assert_eq!(intake.judge(from, Term(6), forward(1, 2), true), Fate::Drop, "for a leader after");
        // It does not lead any more, and knows what it took while it did.
        assert_eq!(intake.judge(from, Term(5), forward(1, 1), false), Fate::Drop);
        assert_eq!(intake.judge(from, Term(5), forward(1, 2), false), Fate::Refuse);
        assert_eq!(intake.judge(from, Term(5), forward(1, 2), false), Fate::Drop);
        // The proposer started again; what is left of its life before is not listened to.
        assert_eq!(intake.judge(from, Term(5), forward(2, 1), true), Fate::Take);
        assert_eq!(intake.judge(from, Term(5), forward(1, 3), true), Fate::Drop);
        intake.lead(Term(7));
        assert_eq!(intake.judge(from, Term(5), forward(2, 2), false), Fate::Drop);
        assert_eq!(intake.judge(from, Term(7), forward(2, 2), true), Fate::Take);
    }
}
