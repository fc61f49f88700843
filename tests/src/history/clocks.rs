//! Real time: the order of revisions must be one in which things can have happened.

use super::{Call, Op, Outcome, Time};

/// How many serializable reads were behind.
pub(super) fn judge(ops: &[Op], authors: &[usize]) -> Result<usize, String> {
    let floors = floors(ops);
    for (n, revision) in authors.iter().zip(2..) {
        let (op, floor) = (&ops[*n], floors[*n]);
        if revision <= floor {
            return Err(format!("{floor} was answered before this was called, which made {revision}: {op:?}"));
        }
    }
    let known = known_from(ops, authors);
    let mut behind = 0;
    for (n, op) in ops.iter().enumerate() {
        let Outcome::Done { returned, revision, .. } = op.outcome else { continue };
        if revision < floors[n] {
            if is_strong(op) {
                return Err(format!("{} was answered before this was called, stale: {op:?}", floors[n]));
            }
            behind += 1;
        }
        let place = usize::try_from(revision - 2).ok();
        if place.is_some_and(|place| known[place] > returned) {
            return Err(format!("it returned before all of revision {revision} was called: {op:?}"));
        }
    }
    Ok(behind)
}

/// All but serializable reads take part in the one order.
fn is_strong(op: &Op) -> bool {
    !matches!(op.call, Call::Read { linearizable: false, .. })
}

/// For each request the highest revision that was answered before it was called. What happens in the same nanosecond is
/// taken for concurrent: calls go first.
fn floors(ops: &[Op]) -> Vec<i64> {
    let mut moments = Vec::with_capacity(2 * ops.len());
    for (n, op) in ops.iter().enumerate() {
        moments.push((op.called, None, n));
        if let Outcome::Done { returned, revision, .. } = op.outcome
            && is_strong(op)
        {
            moments.push((returned, Some(revision), n));
        }
    }
    moments.sort_unstable();
    let (mut floors, mut answered) = (vec![0; ops.len()], 0);
    for (_, revision, n) in moments {
        match revision {
            None => floors[n] = answered,
            Some(revision) => answered = answered.max(revision),
        }
    }
    floors
}

/// For each revision from 2 on the time when it and all before it had been called.
fn known_from(ops: &[Op], authors: &[usize]) -> Vec<Time> {
    let mut latest = 0;
    let called = |n: &usize| {
        latest = ops[*n].called.max(latest);
        latest
    };
    authors.iter().map(called).collect()
}
