mod model;
mod world;

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::world::{Op, World, dump, owned};
use super::{count::count, *};
use crate::{
    engine::{Batch, Engine, EngineOptions, Family, Key, MemoryEngine, Read},
    types::{LeaseId, Sub},
};

fn key(number: u32) -> Bytes {
    format!("key/{number:06}").into()
}

fn everything() -> KeyRange {
    KeyRange::parse(&Bytes::from_static(b"\0"), &Bytes::from_static(b"\0"))
}

/// Random puts, deletes, re-creations, wide deletions and compactions; every revision that may be read is read.
fn run(world: &mut World, steps: u32) {
    for step in 0..steps {
        world.step();
        if step % 8 == 0 {
            world.check();
        }
    }
}

#[test]
fn equals_the_model() {
    for seed in 0..8 {
        let mut world = World::new(Engine::memory(), seed);
        run(&mut world, 120);
        assert!(world.at.compacted > Revision(0) && world.at.revision > Revision(60), "little happened");
    }
}

#[test]
fn equals_the_model_across_crashes() {
    let mut dropped = 0;
    for seed in 0..5 {
        let mut twin = MemoryEngine::new(seed);
        let mut world = World::new(twin.clone().into(), seed);
        for _ in 0..6 {
            run(&mut world, 25);
            twin = twin.crash(&mut world.rng);
            world.crashed(twin.clone().into());
            world.check();
        }
        dropped += twin.counts().dropped;
    }
    assert!(dropped > 100, "history must have been dropped: {dropped}");
}

#[test]
fn equals_the_model_on_rocksdb() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::new(Engine::open(folder.path(), &EngineOptions::default()).expect("a new store"), 1);
    run(&mut world, 120);
    assert!(world.at.compacted > Revision(0), "little happened");
}

/// The engine recognises what a compaction lets go by the bytes that are written here.
#[test]
fn history_that_is_let_go_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    for engine in [Engine::memory(), Engine::open(folder.path(), &EngineOptions::default()).expect("a new store")] {
        let mut world = World::new(engine, 0);
        for number in 0..200 {
            world.revision(&[Op::Put(format!("{number}").into(), "1".into(), 0)]);
            world.revision(&[Op::Delete(KeyRange::One(format!("{number}").into()))]);
        }
        // Keys that exist keep their last deletion only as long as a read may need it.
        world.revision(&[Op::Put("7".into(), "2".into(), 0)]);
        world.compact(300);
        // What is random about the twin happens sooner or later.
        for _ in 0..200 {
            world.engine.drop_history(Revision(300));
            world.engine.rewrite_history(Revision(300));
        }
        let left = dump(&world.engine);
        let number = |family| left.iter().filter(|entry| entry.0 == family).count();
        assert_eq!((number(Family::Log), number(Family::Idx), number(Family::Gone)), (103, 51, 51));
        world.check();
    }
}

/// HashKV of a history, as etcd 3.7.1 answered for the same requests; it was restarted after each compaction, so that it
/// computes each anew instead of remembering what the compaction had computed.
#[test]
fn hashes_are_those_of_etcd() {
    let put = |key: &str, value: &str, lease| Op::Put(key.into(), value.into(), lease);
    let delete = |key: &'static str, end: &'static str| Op::Delete(KeyRange::parse(&key.into(), &end.into()));
    let mut world = World::new(Engine::memory(), 0);
    let check = |world: &World, recorded: &[(i64, u32)]| {
        for (revision, hash) in recorded {
            let expected = HashKv {
                hash: *hash,
                compacted: world.at.compacted,
                revision: if *revision == 0 { world.at.revision } else { Revision(*revision) },
            };
            assert_eq!(hash_kv(&world.engine.view(), world.at, Revision(*revision)), Ok(expected));
        }
    };
    let refused = |world: &World, revision, error| {
        assert_eq!(hash_kv(&world.engine.view(), world.at, Revision(revision)), Err(error));
    };
    check(&world, &[(0, 1084519789), (1, 1084519789), (-3, 1084519789)]);
    refused(&world, 2, Error::FutureRev);
    world.revision(&[put("a", "1", 0)]);
    world.revision(&[put("b", "22", 0)]);
    world.revision(&[put("a", "3", 7)]);
    world.revision(&[put("c", "x", 0), put("d", "", 0), delete("b", "")]);
    world.revision(&[delete("a", "")]);
    world.revision(&[put("a", "again", 0)]);
    world.revision(&[delete("c", "e")]);
    world.revision(&[put("e", "tail", 0)]);
    check(&world, &[(0, 1406631458), (-3, 1084519789), (1, 1084519789), (2, 2587454935), (3, 2627027711)]);
    check(&world, &[(4, 1462960116), (5, 34611150), (6, 1254718082), (7, 2014421779), (8, 3921493355)]);
    refused(&world, 10, Error::FutureRev);
    world.compact(4);
    check(&world, &[(0, 1475168421), (4, 2338497114), (5, 2646269424), (6, 133950923), (7, 1021791566)]);
    check(&world, &[(8, 3024225384), (9, 1475168421)]);
    refused(&world, 3, Error::Compacted);
    world.compact(6);
    check(&world, &[(0, 1517872454), (6, 1642530360), (7, 3043145648), (8, 3732782493)]);
    world.revision(&[delete("\0", "\0")]);
    world.revision(&[put("z", "1", 0)]);
    // At revision 10 no key exists, and etcd takes an empty set of revisions to keep for "keep all".
    check(&world, &[(0, 2766378419), (9, 1517872454), (10, 1136309608), (11, 2766378419)]);
    // What etcd remembers of a compaction is the hash before it.
    check(&world, &[(7, 3043145648)]);
    world.compact(7);
    check(&world, &[(0, 2771130574), (7, 3043145648), (8, 3732782493), (9, 1517872454), (10, 1136309608)]);
    world.compact(10);
    check(&world, &[(0, 974378710), (10, 1084519789)]);
    refused(&world, 9, Error::Compacted);
}

/// Thousands of keys, so that pieces of the count index are cut and joined all the time.
#[test]
fn counts_equal_a_walk() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let engine = Engine::memory();
    let mut keys: BTreeSet<Bytes> = BTreeSet::new();
    let mut revision = Revision::FIRST;
    let (mut most_pieces, mut fewest_pieces_after) = (0, usize::MAX);
    for round in 0..60 {
        let mut batch = Batch::new(engine.view());
        revision = revision.next();
        let mut changes = Changes::new(&mut batch, revision, Sub(0));
        let start = rng.random_range(0..9000);
        if round % 3 == 2 {
            let range = KeyRange::parse(&key(start), &key(start + rng.random_range(1..4000)));
            let deleted = changes.delete(&range);
            assert_eq!(deleted.rest, None);
            assert_eq!(deleted.kvs.len(), keys.iter().filter(|key| range.contains(key)).count());
            keys.retain(|key| !range.contains(key));
        } else {
            let step = rng.random_range(1..4);
            for number in (start..start + 1500 * step).step_by(step as usize) {
                changes.put(&key(number), &Bytes::new(), LeaseId::NONE);
                keys.insert(key(number));
            }
        }
        engine.write(batch);
        check_counts(&engine, &keys, &mut rng);
        most_pieces = most_pieces.max(pieces(&engine).len());
        fewest_pieces_after = if round > 30 { fewest_pieces_after.min(pieces(&engine).len()) } else { usize::MAX };
    }
    assert!(most_pieces > 8, "pieces must be cut: {most_pieces}");
    assert!(keys.len() > 2000);
    // One key after the other, from either side and in no order: little may be left of the index.
    let mut rest: Vec<Bytes> = keys.iter().cloned().collect();
    while !rest.is_empty() {
        let mut batch = Batch::new(engine.view());
        revision = revision.next();
        let mut changes = Changes::new(&mut batch, revision, Sub(0));
        for _ in 0..rest.len().min(200) {
            let at = match rng.random_range(0..3) {
                0 => 0,
                1 => rest.len() - 1,
                _ => rng.random_range(0..rest.len()),
            };
            let key = rest.remove(at);
            assert_eq!(changes.delete(&KeyRange::One(key.clone())).kvs.len(), 1);
            keys.remove(&key);
        }
        engine.write(batch);
        check_counts(&engine, &keys, &mut rng);
        // Of two neighbours at most one is small.
        assert!(pieces(&engine).len() <= 2 + 2 * keys.len() / 128, "{:?} for {} keys", pieces(&engine), keys.len());
    }
}

fn check_counts(engine: &Engine, keys: &BTreeSet<Bytes>, rng: &mut ChaCha8Rng) {
    let view = engine.view();
    assert_eq!(count(&view, &everything()), keys.len() as u64);
    assert_eq!(pieces(engine).iter().sum::<u64>(), keys.len() as u64);
    assert!(pieces(engine).iter().all(|keys| *keys <= 1000));
    for _ in 0..4 {
        let (from, to) = (rng.random_range(0..16000), rng.random_range(0..16000));
        let range = match rng.random_range(0..4) {
            0 => KeyRange::From(key(from)),
            1 => KeyRange::One(key(from)),
            _ => KeyRange::parse(&key(from), &key(to)),
        };
        let expected = keys.iter().filter(|key| range.contains(key)).count();
        assert_eq!(count(&view, &range), expected as u64, "{range:?}");
    }
}

fn pieces(engine: &Engine) -> Vec<u64> {
    let view = engine.view();
    let mut cursor = view.scan(Family::Count, &[], None);
    let mut pieces = Vec::new();
    while cursor.valid() {
        pieces.push(value::decode_count(cursor.value()));
        cursor.next();
    }
    pieces
}

/// A wide deletion between two puts, in one revision, written in pieces. A crash after any of them ends the same.
#[test]
fn a_revision_in_pieces_ends_the_same_wherever_it_crashed() {
    const KEYS: u32 = 70;
    let filled = || {
        let engine = Engine::memory();
        let mut batch = Batch::new(engine.view());
        let mut changes = Changes::new(&mut batch, Revision(2), Sub(0));
        for number in 0..KEYS {
            changes.put(&key(number), &vec![number as u8; 100 << 10].into(), LeaseId::NONE);
        }
        changes.put(&"first".into(), &"old".into(), LeaseId::NONE);
        engine.write(batch);
        engine
    };
    let whole = filled();
    let (pieces, _) = make_in_pieces(&whole, Sub(0), usize::MAX);
    assert!(pieces > 5, "{pieces} pieces");
    let whole_hash =
        hash_kv(&whole.view(), Position { revision: Revision(3), compacted: Revision::NEVER }, Revision(0));
    for crash_after in 0..pieces {
        let engine = filled();
        let (written, made) = make_in_pieces(&engine, Sub(0), crash_after);
        assert_eq!(written, crash_after);
        make_in_pieces(&engine, made, usize::MAX);
        assert!(dump(&engine) == dump(&whole), "crashed after {crash_after} pieces");
        let at = Position { revision: Revision(3), compacted: Revision::NEVER };
        assert_eq!(hash_kv(&engine.view(), at, Revision(0)), whole_hash);
    }
}

/// Applies the entry of the test above from its start, writing after each piece; stops after `most` pieces as a crash
/// would. Returns how many were written and what the last of them remembers.
fn make_in_pieces(engine: &Engine, from: Sub, most: usize) -> (usize, Sub) {
    let (mut written, mut made) = (0, from);
    let mut rest = Some(KeyRange::parse(&key(0), &key(1_000_000)));
    loop {
        if written == most {
            return (written, made);
        }
        let mut batch = Batch::new(engine.view());
        let mut changes = Changes::new(&mut batch, Revision(3), made);
        if made == Sub(0) {
            changes.put(&"first".into(), &"new".into(), LeaseId(1));
        }
        match rest.take() {
            Some(range) => rest = changes.delete(&range).rest,
            None => assert_eq!(changes.put(&"last".into(), &"new".into(), LeaseId::NONE), None),
        }
        let done = engine_has(changes.batch(), b"last");
        made = changes.made();
        engine.write(batch);
        written += 1;
        if done {
            return (written, made);
        }
    }
}

fn engine_has(read: &impl Read, key: &[u8]) -> bool {
    read.get(&Key::Cur(key)).is_some()
}

#[test]
fn a_piece_of_a_deletion_is_bounded_by_keys_too() {
    let engine = Engine::memory();
    let mut batch = Batch::new(engine.view());
    let mut changes = Changes::new(&mut batch, Revision(2), Sub(0));
    for number in 0..20_000 {
        changes.put(&key(number), &Bytes::new(), LeaseId::NONE);
    }
    engine.write(batch);
    let mut batch = Batch::new(engine.view());
    let deleted = Changes::new(&mut batch, Revision(3), Sub(0)).delete(&everything());
    assert!((5_000..10_000).contains(&deleted.kvs.len()), "{}", deleted.kvs.len());
    assert_eq!(deleted.rest, Some(KeyRange::From(key(deleted.kvs.len() as u32))));
}

#[test]
fn a_compaction_is_refused_as_etcd_refuses_it() {
    let fresh = Position { revision: Revision::FIRST, compacted: Revision::NEVER };
    let once = compact(fresh, Revision(0)).expect("accepted once");
    assert_eq!(once.compacted, Revision(0));
    assert_eq!(compact(once, Revision(0)), Err(Error::Compacted));
    assert_eq!(compact(once, Revision(2)), Err(Error::FutureRev));
    assert_eq!(compact(once, Revision(1)).map(|at| at.compacted), Ok(Revision(1)));
    assert_eq!(compact(fresh, Revision(-1)), Err(Error::Compacted));
}

#[test]
fn revisions_outside_of_history_are_refused() {
    let mut world = World::new(Engine::memory(), 0);
    for value in ["1", "2", "3"] {
        world.revision(&[Op::Put("a".into(), value.into(), 0)]);
    }
    world.compact(3);
    let ask = |revision| {
        let query = Query { revision: Revision(revision), ..Query::all(everything()) };
        range(&world.engine.view(), world.at, &query, &mut |_| {}).map(|summary| summary.count)
    };
    assert_eq!(ask(2), Err(Error::Compacted));
    assert_eq!(ask(3), Ok(1));
    assert_eq!(ask(4), Ok(1));
    assert_eq!(ask(5), Err(Error::FutureRev));
    assert_eq!(feed(&world.engine.view(), world.at, Revision(2), 1).map(|chunk| chunk.next), Err(Error::Compacted));
    let ahead = feed(&world.engine.view(), world.at, Revision(9), 1).expect("nothing is there yet");
    assert_eq!((ahead.changes.len(), ahead.next), (0, Revision(9)));
}

/// A view that was taken before a compaction, read after its history is gone.
#[test]
fn a_read_that_lost_the_race_with_a_compaction_says_so() {
    let mut world = World::new(Engine::memory(), 0);
    for value in ["1", "2", "3"] {
        world.revision(&[Op::Put("a".into(), value.into(), 0), Op::Put("b".into(), value.into(), 0)]);
    }
    let view = |world: &World| ReadView { applied: LogIndex(1), position: world.at, view: world.engine.view() };
    let old = view(&world);
    let published: Published = Arc::new(ArcSwap::from_pointee(old.clone()));
    let read_at_2 = |view: &ReadView| {
        let query = Query { revision: Revision(2), ..Query::all(everything()) };
        let mut values = Vec::new();
        let summary = range(&view.view, view.position, &query, &mut |version| values.push(owned(version).value))?;
        assert_eq!(summary.count, 2);
        Ok(values)
    };
    assert_eq!(read_past(&published, &old, Revision(2), read_at_2), Ok(vec![Bytes::from("1"), Bytes::from("1")]));
    world.compact(3);
    published.store(Arc::new(view(&world)));
    let late = read_past(&published, &old, Revision(2), |view| {
        let query = Query { revision: Revision(2), ..Query::all(everything()) };
        range(&view.view, view.position, &query, &mut |_| {})
    });
    assert_eq!(late, Err(Error::Compacted));
    let late =
        read_past(&published, &old, Revision(2), |view| feed(&view.view, view.position, Revision(2), 1).map(drop));
    assert_eq!(late, Err(Error::Compacted));
    let (hash, current) = hash_published(&published, Revision(0)).expect("the newer view is read");
    assert_eq!((hash.compacted, current), (Revision(3), Revision(4)));
}

/// History that is missing though nothing was compacted must never be answered around.
#[test]
fn history_that_is_missing_without_a_compaction_stops_the_member() {
    let mut world = World::new(Engine::memory(), 0);
    for value in ["1", "2", "3"] {
        world.revision(&[Op::Put("a".into(), value.into(), 0)]);
    }
    let mut batch = Batch::new(world.engine.view());
    batch.delete(&Key::Log { revision: Revision(3), sub: Sub(0) });
    world.engine.write(batch);
    let view = ReadView { applied: LogIndex(1), position: world.at, view: world.engine.view() };
    let published: Published = Arc::new(ArcSwap::from_pointee(view.clone()));
    let stops = |read: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).is_err();
    assert!(stops(&|| {
        let _ = read_past(&published, &view, Revision(2), |view| {
            let query = Query { revision: Revision(2), ..Query::all(everything()) };
            range(&view.view, view.position, &query, &mut |_| {})
        });
    }));
    assert!(stops(&|| {
        let _ =
            read_past(&published, &view, Revision(2), |view| feed(&view.view, view.position, Revision(2), 9).map(drop));
    }));
    assert!(stops(&|| {
        let _ = hash_published(&published, Revision(0));
    }));
}

/// The feed notices every change that is missing before the last one that it reads.
#[test]
fn the_feed_notices_gaps() {
    for (revision, sub) in [(2, 0), (3, 0), (3, 1), (4, 0)] {
        let mut world = World::new(Engine::memory(), 0);
        world.revision(&[Op::Put("a".into(), "1".into(), 0)]);
        world.revision(&[
            Op::Put("a".into(), "2".into(), 0),
            Op::Put("b".into(), "2".into(), 0),
            Op::Put("c".into(), "2".into(), 0),
        ]);
        world.revision(&[Op::Put("a".into(), "3".into(), 0)]);
        let mut batch = Batch::new(world.engine.view());
        batch.delete(&Key::Log { revision: Revision(revision), sub: Sub(sub) });
        world.engine.write(batch);
        let fed = feed(&world.engine.view(), world.at, Revision(2), usize::MAX);
        assert_eq!(fed.map(drop), Err(Error::Compacted), "without {revision}, {sub}");
    }
}

/// Few rows are held for a small limit, and the answer is still the best of all.
#[test]
fn the_oldest_of_many_is_found_among_all() {
    let engine = Engine::memory();
    let mut at = Position { revision: Revision::FIRST, compacted: Revision::NEVER };
    let mut numbers: Vec<u32> = (0..400).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for index in (1..numbers.len()).rev() {
        numbers.swap(index, rng.random_range(0..=index));
    }
    for number in &numbers {
        let mut batch = Batch::new(engine.view());
        at.revision = at.revision.next();
        Changes::new(&mut batch, at.revision, Sub(0)).put(&key(*number), &Bytes::new(), LeaseId::NONE);
        engine.write(batch);
    }
    for descending in [false, true] {
        let sort = Some(Sort { target: SortTarget::Create, descending, after_limit: false });
        let query = Query { limit: 3, sort, ..Query::all(everything()) };
        let mut found = Vec::new();
        let summary =
            range(&engine.view(), at, &query, &mut |version| found.push(owned(version).key)).expect("current");
        assert_eq!(summary, Summary { count: 400, more: true });
        let ends: Vec<Bytes> = if descending {
            numbers.iter().rev().take(3).map(|number| key(*number)).collect()
        } else {
            numbers.iter().take(3).map(|number| key(*number)).collect()
        };
        assert_eq!(found, ends);
    }
}

#[test]
fn a_walk_stops_where_it_is_told() {
    let mut world = World::new(Engine::memory(), 0);
    for key in ["a", "b", "c"] {
        world.revision(&[Op::Put(key.into(), "1".into(), 0)]);
    }
    world.revision(&[Op::Delete(KeyRange::One("b".into()))]);
    for moment in [range::Moment::Current, range::Moment::Past(Revision(4))] {
        let mut seen = 0;
        moment
            .walk(&world.engine.view(), &everything(), &mut |_, _| {
                seen += 1;
                if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .expect("nothing was dropped");
        assert_eq!(seen, 2);
    }
}

#[test]
fn ranges_are_parsed_as_etcd_spells_them() {
    let parse = |key: &'static [u8], end: &'static [u8]| KeyRange::parse(&key.into(), &end.into());
    assert_eq!(parse(b"a", b""), KeyRange::One("a".into()));
    assert_eq!(parse(b"a", b"\0"), KeyRange::From("a".into()));
    assert_eq!(parse(b"a", b"\0\0"), KeyRange::Between { from: "a".into(), to: Bytes::from_static(b"\0\0") });
    assert!(parse(b"a", b"b").contains(b"a") && !parse(b"a", b"b").contains(b"b"));
    assert!(!parse(b"b", b"a").contains(b"b") && !parse(b"b", b"a").contains(b"a"));
    assert!(parse(b"\0", b"\0").contains(b"\0") && parse(b"b", b"\0").contains(b"\xff\xff"));
    assert!(parse(b"a", b"").contains(b"a") && !parse(b"a", b"").contains(b"a\0"));
}
