//! Entries too wide for one batch, and crashes between any two of their pieces.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    language,
    model::random_command,
    world::{Dump, World, check_leases, dump},
};
use crate::{
    engine::Engine,
    mvcc,
    state::{Applied, Committed, Events, Reply, State, Stop, work::Limits},
    types::{LogIndex, Revision, Term},
};

/// Batches so small that every operation is a piece of its own.
const TINY: Limits = Limits { batch_bytes: 1, events_bytes: 16 << 20, window_keys: 3, dies_after: None };

/// A world with some keys, some of them big enough that one deletion takes several steps.
fn prepared() -> World {
    let mut world = World::new(Limits { window_keys: 3, ..Limits::default() });
    for line in ["grant 1 60000", "grant 2 60000"] {
        world.apply(language::command(line).expect("a command"));
    }
    for i in 0..40 {
        let mut put = language::command(&format!("put wide{i:02} x lease={}", i % 3)).expect("a command");
        if let crate::state::entry::command::Kind::Put(put) = &mut put {
            put.value = vec![i as u8; 100_000].into();
        }
        world.apply(put);
    }
    for i in 0..9 {
        world.apply(language::command(&format!("put k{i} v lease={}", i % 3)).expect("a command"));
    }
    world
}

fn entry(world: &mut World, line: &str, key: &str) -> Committed {
    let term = world.term;
    let kind = language::command(line).expect("a command");
    world.committed(kind, key, term)
}

/// Opens the store again, as a process that starts does.
fn reopen(engine: &Engine, limits: Limits) -> State {
    State::open_with(engine.clone(), limits)
}

/// Applies with the process dying at its n-th write; says whether it died.
fn dies(engine: &Engine, limits: Limits, writes: u32, entries: &[Committed]) -> bool {
    let mut state = reopen(engine, Limits { dies_after: Some(writes), ..limits });
    catch_unwind(AssertUnwindSafe(|| state.apply(entries.to_vec()).expect("the entries may be applied"))).is_err()
}

fn hash(state: &State) -> u32 {
    let view = state.read_view();
    mvcc::hash_kv(&view.view, view.position, Revision(0)).expect("the current revision has a hash").hash
}

/// Line by line what is wide, each in a world of its own.
const WIDE: [&str; 7] = [
    "del wide..widf prev",
    "revoke 1",
    "txn then put a 1 ; del wide..widf ; put b 2 ; get k0..",
    "txn then { then put k1 x lease=2 } ; { then del k..l ; get wide.. keys } ; put z 1",
    "txn if k1.version=1 then del k1 ; { if k1.version=1 then del wide.. ; put m 1 else put never 1 } ; put y 1 else del k2",
    "txn then del a.. ; put k5 back lease=1 ; { then del k4..k6 } ; del k..",
    "txn then put k1 new ; put k2 new lease=2 ; put k3 ignore_value ; put fresh f",
];

#[test]
fn a_crash_between_any_two_pieces_changes_nothing() {
    let mut crashes = 0;
    for line in WIDE {
        let mut whole = prepared();
        let entries = [entry(&mut whole, line, "retry"), entry(&mut whole, "put after 1", "")];
        let applied = whole.state.apply(entries.to_vec()).expect("the entries may be applied");
        let (expected, expected_hash) = (dump(&whole.view().view), hash(&whole.state));
        for writes in 0.. {
            let mut world = prepared();
            assert_eq!(entry(&mut world, line, "retry").index, entries[0].index);
            if !dies(&world.engine, TINY, writes, &entries) {
                break;
            }
            crashes += 1;
            let mut state = reopen(&world.engine, TINY);
            let half = state.unfinished().is_some();
            assert_eq!(half, writes > 0 && state.applied().0 < entries[0].index, "{line}, {writes} writes");
            let left: Vec<Committed> = entries.iter().filter(|e| e.index > state.applied().0).cloned().collect();
            let again = state.apply(entries.to_vec()).expect("the entries may be applied");
            assert_eq!(again.len(), left.len());
            assert!(state.unfinished().is_none());
            same(&dump(&state.read_view().view), &expected, &format!("{line}, {writes} writes"));
            assert_eq!(hash(&state), expected_hash);
            check_leases(&state.read_view().view);
            check_effects(&again, &applied, half);
        }
    }
    assert!(crashes > 40, "only {crashes} crashes");
}

fn same(left: &Dump, right: &Dump, what: &str) {
    for (left, right) in left.iter().zip(right) {
        assert_eq!(left, right, "{what}");
    }
    assert_eq!(left.len(), right.len(), "{what}");
}

/// Who went on from a mark tells the same outcome, but neither the events nor the key-values of what was done before.
fn check_effects(again: &[Applied], applied: &[Applied], half: bool) {
    for (again, first) in again.iter().rev().zip(applied.iter().rev()) {
        assert_eq!(again.revision, first.revision);
        assert_eq!(again.effects.leases, first.effects.leases);
        if !half {
            assert_eq!(again.reply, first.reply);
        }
        assert_eq!(again.reply.is_ok(), first.reply.is_ok());
        match (&again.effects.events, &first.effects.events) {
            (Events::Changes(again), Events::Changes(first)) => assert_eq!(again, first),
            (Events::TooMany, Events::Changes(_)) => assert!(half),
            (Events::None, Events::None) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A retry of a request that was applied in pieces, with crashes or without, is told the same.
#[test]
fn what_was_done_in_pieces_is_told_again() {
    for line in WIDE {
        let told = |writes: u32| {
            let mut world = prepared();
            let first = entry(&mut world, line, "retry");
            dies(&world.engine, TINY, writes, std::slice::from_ref(&first));
            let mut state = reopen(&world.engine, TINY);
            state.apply(vec![first]).expect("the entry may be applied");
            let before = dump(&state.read_view().view);
            let retry = entry(&mut world, line, "retry");
            let mut again = state.apply(vec![retry]).expect("the entry may be applied");
            let after = dump(&state.read_view().view);
            let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            assert_eq!((before.len(), changed), (after.len(), 1), "only the applied index moved");
            again.remove(0).reply
        };
        let expected = told(u32::MAX);
        for writes in [1, 2, 3] {
            assert_eq!(told(writes), expected, "{line}");
        }
    }
}

/// The same entries, in calls of any size and batches of any size, with and without crashes of the engine, give the same
/// bytes.
#[test]
fn determinism() {
    let (mut lost, mut resumed) = (0, 0);
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut plan = World::new(TINY);
        let entries: Vec<Committed> = (0..120)
            .map(|_| {
                let key =
                    if rng.random_range(0..4) == 0 { ["x", "y", "z", "u", "v"][rng.random_range(0..5)] } else { "" };
                let kind = random_command(&mut rng);
                plan.committed(kind, key, Term(1))
            })
            .collect();
        let engine = Engine::memory();
        let mut state = reopen(&engine, Limits { window_keys: 3, ..Limits::default() });
        let replies: Vec<_> = state.apply(entries.clone()).expect("applies").into_iter().map(|a| a.reply).collect();
        let expected = dump(&state.read_view().view);

        let engine = Engine::memory();
        let mut told = Vec::new();
        let mut at = 0;
        while at < entries.len() {
            let batch_bytes = if rng.random() { 1 } else { rng.random_range(1..600) };
            let limits = Limits { batch_bytes, ..TINY };
            let end = (at + rng.random_range(1..20)).min(entries.len());
            let writes = rng.random_range(0..6);
            let died = dies(&engine, limits, writes, &entries[at..end]);
            let mut state = reopen(&engine, limits);
            resumed += u32::from(state.unfinished().is_some());
            lost += u32::from(died);
            at = state.applied().0.0 as usize;
            told.truncate(at);
            if let Some(next) = entries.get(at) {
                let applied = state.apply(vec![next.clone()]).expect("applies");
                told.extend(applied.into_iter().map(|applied| applied.reply.is_ok()));
                at += 1;
            }
        }
        same(&dump(&engine.view()), &expected, &format!("seed {seed}"));
        assert_eq!(replies.len(), entries.len());
    }
    assert!(lost > 20 && resumed > 20, "{lost} crashes, {resumed} in the middle of an entry");
}

#[test]
fn wide_events_are_not_held() {
    let mut world = prepared();
    let narrow = Limits { events_bytes: 1 << 20, ..Limits::default() };
    let delete = entry(&mut world, "del wide..widf", "");
    let put = entry(&mut world, "put after 1", "");
    let mut state = reopen(&world.engine, narrow);
    let applied = state.apply(vec![delete, put]).expect("the entries may be applied");
    assert!(matches!(applied[0].effects.events, Events::TooMany));
    assert!(matches!(&applied[1].effects.events, Events::Changes(changes) if changes.len() == 1));
    let Ok(Reply::DeleteRange(reply)) = &applied[0].reply else { panic!("a delete") };
    assert_eq!(reply.deleted, 40);
}

/// While an entry is written in pieces, readers see the state before it.
#[test]
fn readers_keep_the_view_before() {
    let mut world = prepared();
    let before = world.view();
    let published = world.state.published();
    let delete = entry(&mut world, "del wide..widf", "");
    assert!(dies(&world.engine, TINY, 2, std::slice::from_ref(&delete)));
    assert_eq!(published.load().position, before.position);
    let seen = mvcc::get(&before.view, b"wide00").map(|kv| kv.value);
    assert_eq!(seen, Some(Bytes::from(vec![0; 100_000])));
}

#[test]
fn what_was_applied_is_skipped_and_a_hole_stops() {
    let mut world = prepared();
    let (first, second) = (entry(&mut world, "put a 1", ""), entry(&mut world, "put b 1", ""));
    let third = entry(&mut world, "put c 1", "");
    let hole = world.state.apply(vec![second.clone()]).expect_err("a hole");
    assert_eq!(hole, Stop::Hole { applied: LogIndex(first.index.0 - 1), index: second.index });
    assert_eq!(world.state.apply(vec![first.clone()]).expect("applies").len(), 1);
    let before = dump(&world.view().view);
    assert_eq!(world.state.apply(vec![first.clone()]).expect("skips").len(), 0);
    assert_eq!(dump(&world.view().view), before);
    assert_eq!(world.state.apply(vec![first, second, third]).expect("applies the rest").len(), 2);
}

#[test]
fn what_we_do_not_understand_stops_us() {
    let mut world = prepared();
    let before = dump(&world.view().view);
    let mut above = entry(&mut world, "put a 1", "");
    let index = above.index;
    above.entry.as_mut().and_then(|entry| entry.header.as_mut()).expect("a header").required_level = 2;
    assert_eq!(world.state.apply(vec![above.clone()]).expect_err("stops"), Stop::Level { index, required: 2 });
    above.entry.as_mut().expect("an entry").header = None;
    above.entry.as_mut().expect("an entry").command = Some(crate::state::entry::Command { kind: None });
    assert_eq!(world.state.apply(vec![above.clone()]).expect_err("stops"), Stop::UnknownCommand { index });
    above.entry.as_mut().expect("an entry").command = None;
    assert_eq!(world.state.apply(vec![above]).expect_err("stops"), Stop::UnknownCommand { index });
    assert_eq!(dump(&world.view().view), before);
}

#[test]
fn what_a_crash_would_leave() {
    let mut world = World::new(Limits::default());
    assert_eq!(State::persisted(&world.engine), (LogIndex(0), Revision::NEVER));
    world.state.bootstrap(&[], b"conf".to_vec());
    for line in ["put a 1", "put a 2", "compact 2"] {
        world.apply(language::command(line).expect("a command"));
    }
    world.engine.flush();
    assert_eq!(State::persisted(&world.engine), (LogIndex(3), Revision(2)));
    world.apply(language::command("put a 3").expect("a command"));
    let reopened = reopen(&world.engine, Limits::default());
    assert_eq!(reopened.applied(), (LogIndex(4), Term(1)));
    assert_eq!(reopened.conf_state(), b"conf");
    assert_eq!(reopened.read_view().position, world.view().position);
}
