//! What a start makes of the log and the state that it finds.

use crate::{
    node::{
        log::{HardState, Recovered},
        recovery::{Mismatch, StateFacts, fit, may_bootstrap},
    },
    types::{LogIndex, MemberId, Term},
};

fn log(first: u64, last: u64, commit: u64) -> Recovered {
    let term = Term(u64::from(last > 0));
    Recovered {
        hard_state: HardState { term, vote: (last > 0).then_some(MemberId(1)), commit: LogIndex(commit) },
        first: LogIndex(first),
        last: LogIndex(last),
        last_term: term,
        base: (LogIndex(first - 1), Term(u64::from(first > 1))),
        torn: None,
        repaired_hard_state: false,
        epoch: 1,
    }
}

fn state(applied: u64) -> StateFacts {
    StateFacts { applied: (LogIndex(applied), Term(u64::from(applied > 0))), unfinished: None, conf_state: vec![8, 1] }
}

fn term_one(index: LogIndex) -> Option<Term> {
    Some(Term(u64::from(index.0 > 0)))
}

fn commit(log: &Recovered, applied: u64) -> Result<u64, Mismatch> {
    fit(log, term_one, state(applied)).map(|start| start.hard_state.commit.0)
}

#[test]
fn commit_behind_applied_is_raised() {
    assert_eq!(commit(&log(1, 9, 3), 5), Ok(5));
}

#[test]
fn commit_ahead_of_applied_is_kept() {
    assert_eq!(commit(&log(1, 9, 7), 5), Ok(7));
}

#[test]
fn commit_beyond_the_log_is_lowered() {
    assert_eq!(commit(&log(1, 9, 12), 5), Ok(9));
}

#[test]
fn an_entry_that_was_being_applied_is_committed() {
    let begun = |index| StateFacts { unfinished: Some(LogIndex(index)), ..state(5) };
    assert_eq!(fit(&log(1, 9, 3), term_one, begun(6)).unwrap().hard_state.commit, LogIndex(6));
    assert!(matches!(fit(&log(1, 5, 3), term_one, begun(6)), Err(Mismatch::LogShort { .. })));
}

#[test]
fn a_log_that_was_cut_at_the_applied_index_is_enough() {
    assert_eq!(commit(&log(6, 9, 7), 5), Ok(7));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    assert_eq!(commit(&log(1, 4, 4), 5), Err(Mismatch::LogShort { last: LogIndex(4), applied: LogIndex(5) }));
    assert_eq!(commit(&log(7, 9, 9), 5), Err(Mismatch::Hole { first: LogIndex(7), applied: LogIndex(5) }));
    let terms = fit(&log(1, 9, 9), |_| Some(Term(2)), state(5)).map(|_| ());
    assert_eq!(terms, Err(Mismatch::Terms { index: LogIndex(5), in_log: Term(2), in_state: Term(1) }));
}

#[test]
fn only_a_member_that_promised_nothing_begins_from_nothing() {
    let empty = || StateFacts { applied: (LogIndex(0), Term(0)), unfinished: None, conf_state: Vec::new() };
    assert_eq!(may_bootstrap(false, &log(1, 0, 0), &empty()), Ok(true));
    assert_eq!(may_bootstrap(false, &log(1, 9, 9), &state(5)), Ok(false));
    assert_eq!(may_bootstrap(false, &log(1, 9, 9), &empty()), Err(Mismatch::StateLost));
    assert_eq!(may_bootstrap(true, &log(1, 0, 0), &empty()), Err(Mismatch::StateLost));
    let mut voted = log(1, 0, 0);
    voted.hard_state.term = Term(1);
    assert_eq!(may_bootstrap(false, &voted, &empty()), Err(Mismatch::StateLost));
}
