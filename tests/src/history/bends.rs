//! Lies. Each takes a valid history and makes it one that no store can have made, or says that it finds nothing to bend.

use bytes::Bytes;
use conclave_proto::mvccpb::{Event, KeyValue, event::EventType};
use rand::{Rng, RngExt};

use super::{Answer, Call, Op, Outcome, model::Valid};

type Bend = fn(&mut Valid, &mut dyn Rng) -> Option<()>;

/// What is told, and how.
pub(super) const BENDS: &[(&str, Bend)] = &[
    ("an acknowledged write is lost", lost_write),
    ("the last acknowledged write is lost", lost_tail),
    ("a value is another one", other_value),
    ("a put without an answer is executed twice", |v, rng| twice(v, rng, |op| matches!(op.call, Call::Put { .. }))),
    ("an acknowledged put is executed twice", |v, rng| {
        twice(v, rng, |op| done(op).is_some() && matches!(op.call, Call::Put { .. }))
    }),
    ("a refused write is executed", refused),
    ("a linearizable read is stale", stale),
    ("a read sees another state", |v, rng| answer(v, rng, other_read)),
    ("a read misses a key", |v, rng| answer(v, rng, missing_key)),
    ("a read of the past sees another state", past),
    ("a read knows a revision before it was called", future),
    ("two writes far apart change places", swapped),
    ("a transaction says that it failed", |v, rng| answer(v, rng, denied)),
    ("a transaction ran though its compare did not hold", wrong_compare),
    ("a transaction failed though its compare held", wrong_failure),
    ("half a transaction", half),
    ("a delete says that there was nothing", nothing_deleted),
    ("a delete says that there was something", |v, rng| answer(v, rng, something_deleted)),
    ("a previous key-value is wrong", |v, rng| answer(v, rng, wrong_previous)),
    ("a pre-image in an event is wrong", |v, rng| event(v, rng, |e| bump(&mut e.prev_kv.as_mut()?.version))),
    ("a version is wrong", |v, rng| event(v, rng, |e| bump(&mut put_kv(e)?.version))),
    ("a create revision is wrong", |v, rng| event(v, rng, |e| bump(&mut put_kv(e)?.create_revision))),
    ("a lease from nowhere", |v, rng| event(v, rng, |e| bump(&mut put_kv(e)?.lease))),
    ("a revision is missing", gap),
    ("two requests claim one revision", same_revision),
    ("a write that nobody asked for", |v, _| append(v, "k1", "nobody")),
    ("a delete that nobody asked for", unasked_delete),
    ("a write of the future: it took effect before it was called", before_call),
    ("an answer at a revision that does not exist", beyond),
];

fn pick(v: &Valid, rng: &mut dyn Rng, of: impl Fn(&Op) -> bool) -> Option<usize> {
    let all: Vec<_> = (0..v.ops.len()).filter(|n| of(&v.ops[*n])).collect();
    (!all.is_empty()).then(|| all[rng.random_range(0..all.len())])
}

fn done(op: &Op) -> Option<i64> {
    if let Outcome::Done { revision, .. } = op.outcome { Some(revision) } else { None }
}

fn returned(op: &Op) -> Option<u64> {
    if let Outcome::Done { returned, .. } = op.outcome { Some(returned) } else { None }
}

/// It made its revision.
fn wrote(op: &Op) -> bool {
    match &op.outcome {
        Outcome::Done { answer, .. } => matches!(
            answer,
            Answer::Put { .. } | Answer::Txn { succeeded: true, .. } | Answer::Delete { prev: Some(_) }
        ),
        _ => false,
    }
}

fn bump(number: &mut i64) -> Option<()> {
    *number += 1;
    Some(())
}

fn put_kv(event: &mut Event) -> Option<&mut KeyValue> {
    let put = event.r#type() == EventType::Put;
    event.kv.as_mut().filter(|_| put)
}

fn event(v: &mut Valid, rng: &mut dyn Rng, bend: impl Fn(&mut Event) -> Option<()>) -> Option<()> {
    let from = rng.random_range(0..v.events.len());
    v.events[from..].iter_mut().find_map(bend)
}

fn answer(v: &mut Valid, rng: &mut dyn Rng, bend: impl Fn(&mut Answer) -> Option<()>) -> Option<()> {
    let from = rng.random_range(0..v.ops.len());
    v.ops[from..].iter_mut().find_map(|op| match &mut op.outcome {
        Outcome::Done { answer, .. } => bend(answer),
        _ => None,
    })
}

fn made(event: &Event) -> i64 {
    event.kv.as_ref().expect("events have one").mod_revision
}

/// Takes a revision out; what follows moves down, in answers too.
fn lost_write(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let n = pick(v, rng, wrote)?;
    let gone = done(&v.ops[n])?;
    v.events.retain(|event| made(event) != gone);
    Some(())
}

fn lost_tail(v: &mut Valid, _: &mut dyn Rng) -> Option<()> {
    let last = v.ops.iter().filter(|op| wrote(op)).filter_map(done).max()?;
    v.events.retain(|event| made(event) < last);
    Some(())
}

fn other_value(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    event(v, rng, |event| {
        let kv = put_kv(event)?;
        kv.value = "other".into();
        Some(())
    })
}

fn append(v: &mut Valid, key: &str, value: &str) -> Option<()> {
    let revision = made(v.events.last()?) + 1;
    let key = Bytes::from(key.to_owned());
    let prev = v.events.iter().rev().find_map(|event| event.kv.clone().filter(|kv| kv.key == key));
    let prev = prev.filter(|kv| kv.version > 0);
    let (create_revision, version) = prev.as_ref().map_or((revision, 1), |p| (p.create_revision, p.version + 1));
    let kv =
        KeyValue { key, value: value.to_owned().into(), create_revision, mod_revision: revision, version, lease: 0 };
    v.events.push(Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: prev });
    Some(())
}

fn twice(v: &mut Valid, rng: &mut dyn Rng, of: impl Fn(&Op) -> bool) -> Option<()> {
    let values: Vec<_> = v.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.value.clone()).collect();
    let n = pick(v, rng, |op| of(op) && matches!(&op.call, Call::Put { value, .. } if values.contains(value)))?;
    let Call::Put { key, value } = v.ops[n].call.clone() else { return None };
    append(v, std::str::from_utf8(&key).ok()?, std::str::from_utf8(&value).ok()?)
}

fn refused(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let n = pick(v, rng, |op| wrote(op) && is_known(v, op))?;
    v.ops[n].outcome = Outcome::Refused;
    Some(())
}

/// It saw what is true at a revision that had been passed when it was called.
fn stale(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let floor = |op: &Op| {
        let strong = v.ops.iter().filter(|other| !matches!(other.call, Call::Read { linearizable: false, .. }));
        strong.filter(|other| returned(other).is_some_and(|at| at < op.called)).filter_map(done).max().unwrap_or(0)
    };
    let reads = |op: &Op| {
        done(op).is_some() && matches!(&op.call, Call::Read { linearizable: true, to, at: 0, .. } if to.is_empty())
    };
    let n = pick(v, rng, |op| reads(op) && floor(op) > 2)?;
    let old = floor(&v.ops[n]) - 1;
    let Call::Read { from, .. } = &v.ops[n].call else { return None };
    let before = v.events.iter().rev().filter(|event| made(event) <= old);
    let kv = before.filter_map(|event| event.kv.clone()).find(|kv| kv.key == *from).filter(|kv| kv.version > 0);
    let (returned, kvs) = (returned(&v.ops[n])?, kv.into_iter().collect());
    v.ops[n].outcome = Outcome::Done { returned, revision: old, answer: Answer::Read { kvs } };
    Some(())
}

fn other_read(answer: &mut Answer) -> Option<()> {
    let Answer::Read { kvs } = answer else { return None };
    kvs.first_mut()?.value = "v0.9".into();
    Some(())
}

fn missing_key(answer: &mut Answer) -> Option<()> {
    let Answer::Read { kvs } = answer else { return None };
    kvs.pop().map(drop)
}

fn past(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let n = pick(v, rng, |op| {
        let some = matches!(&op.outcome, Outcome::Done { answer: Answer::Read { kvs }, .. } if !kvs.is_empty());
        some && matches!(op.call, Call::Read { at, .. } if at > 0)
    })?;
    let Outcome::Done { answer: Answer::Read { kvs }, .. } = &mut v.ops[n].outcome else { return None };
    kvs[0].mod_revision += 1;
    Some(())
}

/// It returned before the author of its revision called.
fn future(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let n = pick(v, rng, |op| {
        !wrote(op) && done(op).is_some_and(|at| v.ops.iter().any(|w| wrote(w) && done(w) == Some(at)))
    })?;
    let revision = done(&v.ops[n])?;
    let author = v.ops.iter().find(|op| wrote(op) && done(op) == Some(revision))?.called;
    let op = &mut v.ops[n];
    op.called = author - 2;
    let Outcome::Done { returned, .. } = &mut op.outcome else { return None };
    *returned = author - 1;
    Some(())
}

fn swapped(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let n =
        pick(v, rng, |op| wrote(op) && v.ops.iter().any(|other| wrote(other) && returned(op) < Some(other.called)))?;
    let m = pick(v, rng, |other| wrote(other) && returned(&v.ops[n]) < Some(other.called))?;
    let times = |op: &Op| (op.called, returned(op));
    let (first, second) = (times(&v.ops[n]), times(&v.ops[m]));
    for (n, (called, at)) in [(n, second), (m, first)] {
        v.ops[n].called = called;
        let Outcome::Done { returned, .. } = &mut v.ops[n].outcome else { return None };
        *returned = at?;
    }
    Some(())
}

fn denied(answer: &mut Answer) -> Option<()> {
    let Answer::Txn { succeeded: succeeded @ true, .. } = answer else { return None };
    *succeeded = false;
    Some(())
}

fn wrong_compare(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let n = pick(v, rng, |op| wrote(op) && matches!(op.call, Call::Txn(_)))?;
    let Call::Txn(txn) = &mut v.ops[n].call else { return None };
    txn.mod_revision += 1;
    Some(())
}

fn wrong_failure(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let n =
        pick(v, rng, |op| matches!(op.outcome, Outcome::Done { answer: Answer::Txn { succeeded: false, .. }, .. }))?;
    let Outcome::Done { answer: Answer::Txn { found, .. }, .. } = &v.ops[n].outcome else { return None };
    let known = found.as_ref().map_or(0, |kv| kv.mod_revision);
    let Call::Txn(txn) = &mut v.ops[n].call else { return None };
    txn.mod_revision = known;
    Some(())
}

fn half(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let from = rng.random_range(0..v.events.len());
    let second = |n: &usize| *n > 0 && made(&v.events[*n]) == made(&v.events[*n - 1]);
    let n = (from..v.events.len()).find(second)?;
    v.events.remove(n);
    Some(())
}

/// A delete that nobody was told of could have been somebody else's, if another one was left without an answer.
fn is_known(v: &Valid, op: &Op) -> bool {
    let Call::Delete { key } = &op.call else { return true };
    let lost = |other: &Op| {
        matches!(other.outcome, Outcome::Unknown) && matches!(&other.call, Call::Delete { key: other } if key == other)
    };
    !v.ops.iter().any(lost)
}

fn nothing_deleted(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let n = pick(v, rng, |op| wrote(op) && matches!(op.call, Call::Delete { .. }) && is_known(v, op))?;
    let Outcome::Done { answer: Answer::Delete { prev }, .. } = &mut v.ops[n].outcome else { return None };
    prev.take().map(drop)
}

fn something_deleted(answer: &mut Answer) -> Option<()> {
    let Answer::Delete { prev: prev @ None } = answer else { return None };
    *prev = Some(KeyValue {
        key: "k1".into(),
        value: "x".into(),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        lease: 0,
    });
    Some(())
}

fn wrong_previous(answer: &mut Answer) -> Option<()> {
    let Answer::Put { prev } = answer else { return None };
    prev.as_mut()?.mod_revision -= 1;
    Some(())
}

fn gap(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let from = made(&v.events[rng.random_range(0..v.events.len())]);
    for kv in v.events.iter_mut().filter_map(|event| event.kv.as_mut()).filter(|kv| kv.mod_revision >= from) {
        kv.mod_revision += 1;
    }
    Some(())
}

fn same_revision(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let n = pick(v, rng, wrote)?;
    v.ops.push(v.ops[n].clone());
    Some(())
}

fn unasked_delete(v: &mut Valid, _: &mut dyn Rng) -> Option<()> {
    let revision = made(v.events.last()?) + 1;
    append(v, "zz", "zz")?;
    let prev = v.events.last()?.kv.clone()?;
    let called = 1;
    let call = Call::Put { key: "zz".into(), value: "zz".into() };
    let done = Outcome::Done { returned: u64::MAX, revision, answer: Answer::Put { prev: None } };
    v.ops.push(Op { client: 0, member: 0, called, call, outcome: done });
    let kv = KeyValue { key: "zz".into(), mod_revision: revision + 1, ..KeyValue::default() };
    v.events.push(Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: Some(prev) });
    Some(())
}

/// A request without an answer took effect, but was called after something later had been answered.
fn before_call(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let last = v.ops.iter().filter(|op| wrote(op)).filter_map(done).max()?;
    let end = v.ops.iter().filter_map(returned).max()?;
    let n = pick(v, rng, |op| wrote(op) && done(op) < Some(last) && is_known(v, op))?;
    v.ops[n].outcome = Outcome::Unknown;
    v.ops[n].called = end + 1;
    Some(())
}

fn beyond(v: &mut Valid, rng: &mut dyn Rng) -> Option<()> {
    let end = made(v.events.last()?);
    let n = pick(v, rng, |op| matches!(op.outcome, Outcome::Done { answer: Answer::Read { .. }, .. }))?;
    let Outcome::Done { revision, .. } = &mut v.ops[n].outcome else { return None };
    *revision = end + 1;
    Some(())
}
