//! Who made each revision.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Call, Op, Outcome, Time,
    truth::{Truth, must},
};

/// The request that made each revision from 2 on, as far as it is known.
#[derive(Debug)]
pub(super) struct Authors {
    of: Vec<Option<usize>>,
}

fn place(revision: i64) -> Option<usize> {
    usize::try_from(revision - 2).ok()
}

impl Authors {
    pub(super) fn new(truth: &Truth) -> Self {
        Self { of: vec![None; place(truth.last() + 1).unwrap_or(0)] }
    }

    /// Request `n` made this revision.
    pub(super) fn claim(&mut self, revision: i64, n: usize) -> Result<(), String> {
        let slot = place(revision).and_then(|place| self.of.get_mut(place));
        let slot = slot.ok_or_else(|| format!("revision {revision} does not exist"))?;
        match slot.replace(n) {
            None => Ok(()),
            Some(other) => Err(format!("revision {revision} was made by request {other} and by request {n}")),
        }
    }

    /// A delete has no value by which it is known. Revisions that nobody claimed must be deletes that were never answered;
    /// each of these may stand for one revision that was not seen before it was called. Any delete that was called early
    /// enough for a revision is so for all later ones too: taking them in order finds a match if there is one.
    pub(super) fn attribute_lost_deletes(&mut self, ops: &[Op], truth: &Truth) -> Result<(), String> {
        let seen = first_seen(ops, self.of.len());
        let mut lost: BTreeMap<&Bytes, Vec<(Time, usize)>> = BTreeMap::new();
        for (n, op) in ops.iter().enumerate() {
            if let (Call::Delete { key }, Outcome::Unknown) = (&op.call, &op.outcome) {
                lost.entry(key).or_default().push((op.called, n));
            }
        }
        // The earliest is taken first, from the end.
        lost.values_mut().for_each(|calls| calls.sort_unstable_by(|a, b| b.cmp(a)));
        for (place, revision) in (0..self.of.len()).zip(2..) {
            if self.of[place].is_some() {
                continue;
            }
            let [(key, None)] = truth.changes(revision) else {
                return Err(format!("nobody asked for revision {revision}: {:?}", truth.changes(revision)));
            };
            let candidate = lost.get_mut(key).and_then(|calls| calls.pop_if(|(called, _)| *called <= seen[place]));
            let Some((_, n)) = candidate else {
                return Err(format!("no request can have made revision {revision}, a delete of {key:?}"));
            };
            self.of[place] = Some(n);
        }
        Ok(())
    }

    /// All of them.
    pub(super) fn finish(self, truth: &Truth) -> Result<Vec<usize>, String> {
        let authors: Option<Vec<_>> = self.of.into_iter().collect();
        let authors = authors.ok_or_else(|| format!("a revision up to {} has no author", truth.last()))?;
        let mut sorted = authors.clone();
        sorted.sort_unstable();
        let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]);
        must(twice.is_none(), || format!("request {twice:?} made two revisions"))?;
        Ok(authors)
    }
}

/// For each revision the time at which the first answer that knows of it returned.
fn first_seen(ops: &[Op], revisions: usize) -> Vec<Time> {
    let mut seen = vec![Time::MAX; revisions];
    for op in ops {
        if let Outcome::Done { returned, revision, .. } = op.outcome
            && let Some(seen) = place(revision).and_then(|place| seen.get_mut(place))
        {
            *seen = returned.min(*seen);
        }
    }
    let mut earliest = Time::MAX;
    for seen in seen.iter_mut().rev() {
        earliest = earliest.min(*seen);
        *seen = earliest;
    }
    seen
}
