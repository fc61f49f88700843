//! Each answer against the state at its revision, each effect against what was asked.

use bytes::Bytes;
use conclave_proto::mvccpb::KeyValue;

use super::{
    Answer, Call, Op, Outcome, Txn,
    authors::Authors,
    truth::{Truth, must},
};

type Verdict = Result<(), String>;

pub(super) fn judge(n: usize, op: &Op, truth: &Truth, authors: &mut Authors) -> Verdict {
    if let Outcome::Done { revision, .. } = op.outcome {
        must((1..=truth.last()).contains(&revision), || {
            format!("it was answered at {revision}, which does not exist")
        })?;
    }
    match &op.call {
        Call::Put { key, value } => {
            let made = made(op, truth.put_of(value))?;
            if let Some(made) = made {
                put_is_alone(key, value, made, truth)?;
                authors.claim(made, n)?;
            }
            match &op.outcome {
                Outcome::Done { revision, answer: Answer::Put { prev }, .. } => {
                    must(made == Some(*revision), || format!("its value was put at {made:?}"))?;
                    same(prev.as_ref(), truth.at(key, revision - 1))
                }
                Outcome::Done { .. } => Err("another kind of answer".to_owned()),
                Outcome::Refused | Outcome::Unknown => Ok(()),
            }
        }
        Call::Delete { key } => match &op.outcome {
            Outcome::Done { revision, answer: Answer::Delete { prev: Some(prev) }, .. } => {
                let alone = matches!(truth.changes(*revision), [(deleted, None)] if deleted == key);
                must(alone, || format!("at {revision} happened {:?}", truth.changes(*revision)))?;
                same(Some(prev), truth.at(key, revision - 1))?;
                authors.claim(*revision, n)
            }
            Outcome::Done { revision, answer: Answer::Delete { prev: None }, .. } => {
                same(None, truth.at(key, *revision))
            }
            Outcome::Done { .. } => Err("another kind of answer".to_owned()),
            Outcome::Refused | Outcome::Unknown => Ok(()),
        },
        Call::Txn(txn) => judge_txn(n, op, txn, truth, authors),
        Call::Read { from, to, at, .. } => match &op.outcome {
            Outcome::Done { revision, answer: Answer::Read { kvs }, .. } => {
                let at = if *at == 0 { *revision } else { *at };
                must(at <= *revision, || format!("it read at {at} when the store was at {revision}"))?;
                let expected = truth.read(from, to, at);
                must(kvs.iter().eq(expected.iter().copied()), || format!("at {at} there is {expected:?}"))
            }
            Outcome::Done { .. } => Err("another kind of answer".to_owned()),
            Outcome::Refused | Outcome::Unknown => Ok(()),
        },
    }
}

/// Where a write with a unique value took effect, unless it must not have.
fn made(op: &Op, put: Option<i64>) -> Result<Option<i64>, String> {
    if let (Outcome::Refused, Some(put)) = (&op.outcome, put) {
        return Err(format!("it was refused, and executed at {put}"));
    }
    Ok(put)
}

fn put_is_alone(key: &Bytes, value: &Bytes, made: i64, truth: &Truth) -> Verdict {
    let alone = matches!(truth.changes(made), [(put, Some(kv))] if put == key && kv.value == *value);
    must(alone, || format!("at {made} happened {:?}", truth.changes(made)))
}

fn judge_txn(n: usize, op: &Op, txn: &Txn, truth: &Truth, authors: &mut Authors) -> Verdict {
    let (_, value) = txn.puts.first().expect("a transaction has a put");
    let made = made(op, truth.put_of(value))?;
    if let Some(made) = made {
        let before = mod_revision(truth.at(&txn.key, made - 1));
        must(before == txn.mod_revision, || {
            format!("it executed at {made}, but {} was not to be: {before}", txn.mod_revision)
        })?;
        txn_is_whole(txn, made, truth)?;
        authors.claim(made, n)?;
    }
    match &op.outcome {
        Outcome::Done { revision, answer: Answer::Txn { succeeded: true, .. }, .. } => {
            must(made == Some(*revision), || format!("its values were put at {made:?}"))
        }
        Outcome::Done { revision, answer: Answer::Txn { succeeded: false, found }, .. } => {
            must(made.is_none(), || format!("it said that it failed, and executed at {made:?}"))?;
            let now = truth.at(&txn.key, *revision);
            must(mod_revision(now) != txn.mod_revision, || format!("it failed, but {now:?} is what it asked for"))?;
            same(found.as_ref(), now)
        }
        Outcome::Done { .. } => Err("another kind of answer".to_owned()),
        Outcome::Refused | Outcome::Unknown => Ok(()),
    }
}

/// All of its changes and no other.
fn txn_is_whole(txn: &Txn, made: i64, truth: &Truth) -> Verdict {
    let puts = txn.puts.iter().map(|(key, value)| (key, Some(value)));
    // What does not exist is not deleted.
    let delete = txn.delete.iter().filter(|key| truth.at(key, made - 1).is_some()).map(|key| (key, None));
    let expected: Vec<_> = puts.chain(delete).collect();
    let found: Vec<_> =
        truth.changes(made).iter().map(|(key, after)| (key, after.as_ref().map(|kv| &kv.value))).collect();
    must(found == expected, || format!("at {made} happened {found:?}, not {expected:?}"))
}

fn mod_revision(kv: Option<&KeyValue>) -> i64 {
    kv.map_or(0, |kv| kv.mod_revision)
}

fn same(told: Option<&KeyValue>, so: Option<&KeyValue>) -> Verdict {
    must(told == so, || format!("there was {so:?}"))
}
