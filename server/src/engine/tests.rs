//! Both engines by the same scripts; the disk format of keys; what a crash and a flipped bit leave.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damage;
mod reclaim;
mod start_over;

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::types::{LeaseId, MemberId, Sub};

fn idx(key: &[u8], revision: i64, sub: u32) -> Key<'_> {
    Key::Idx { key: key.into(), revision: Revision(revision), sub: Sub(sub) }
}

fn log(revision: i64, sub: u32) -> Key<'static> {
    Key::Log { revision: Revision(revision), sub: Sub(sub) }
}

fn small() -> EngineOptions {
    EngineOptions { block_cache_bytes: 8 << 20, memtable_bytes: 4 << 20, max_open_files: 64 }
}

/// Keys that collide in prefixes and hold zero bytes and 0xff.
fn random_key(rng: &mut impl Rng) -> Vec<u8> {
    const BYTES: [u8; 5] = [0, 1, b'a', b'b', 0xff];
    (0..rng.random_range(0..4)).map(|_| BYTES[rng.random_range(0..BYTES.len())]).collect()
}

#[test]
fn keys_have_these_bytes() {
    let golden: [(Key<'_>, &[u8]); 13] = [
        (Key::Cur(b"k"), b"k"),
        (log(258, 3), &[0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]),
        (idx(b"a\0b", 1, 0), b"a\0\xffb\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0"),
        (Key::Gone(b"k"), b"k"),
        (Key::Count(b""), b""),
        (Key::Lease(LeaseId(1)), &[0x80, 0, 0, 0, 0, 0, 0, 1]),
        (Key::Lease(LeaseId(-1)), &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        (Key::LeaseKey { lease: LeaseId(2), key: b"k" }, b"\x80\0\0\0\0\0\0\x02k"),
        (Key::Request(b"r"), b"kr"),
        (Key::RequestAge(7), b"a\0\0\0\0\0\0\0\x07"),
        (Key::Member(MemberId(9)), &[0, 0, 0, 0, 0, 0, 0, 9]),
        (Key::Meta(MetaKey::Applied), b"applied"),
        (Key::Meta(MetaKey::Installing), b"installing"),
    ];
    for (key, bytes) in golden {
        assert_eq!(key.encode(), bytes, "{key:?}");
        assert_eq!(Key::decode(key.family(), bytes).as_ref(), Ok(&key));
    }
}

#[test]
fn keys_order_as_their_fields_and_come_back() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..20_000 {
        let (a, b) = (random_key(&mut rng), random_key(&mut rng));
        let (ra, rb) = (rng.random_range(0..3), rng.random_range(0..3));
        let (sa, sb) = (rng.random_range(0..3), rng.random_range(0..3));
        let (ka, kb) = (idx(&a, ra, sa), idx(&b, rb, sb));
        assert_eq!(ka.encode().cmp(&kb.encode()), (&a, ra, sa).cmp(&(&b, rb, sb)), "{ka:?} {kb:?}");
        assert_eq!(log(ra, sa).encode().cmp(&log(rb, sb).encode()), (ra, sa).cmp(&(rb, sb)));
        assert_eq!(Key::decode(Family::Idx, &ka.encode()), Ok(ka.clone()));
        assert!(a == b || !kb.encode().starts_with(&Key::idx_prefix(&a)), "a prefix is of one key only");
        let (la, lb) = (rng.random::<i64>(), rng.random::<i64>());
        assert_eq!(Key::Lease(LeaseId(la)).encode().cmp(&Key::Lease(LeaseId(lb)).encode()), la.cmp(&lb));
    }
}

#[test]
fn bytes_that_are_no_key_are_refused() {
    for (family, bytes) in [
        (Family::Log, &b"short"[..]),
        (Family::Log, &[0xff; 12]),
        (Family::Idx, b"unclosed\0\0\0\0\0\0\0\0\0\0\0\0"),
        (Family::Leases, b"1"),
        (Family::Requests, b"x"),
        (Family::Members, b""),
        (Family::Meta, b"unheard of"),
        (Family::Auth, b"anything"),
    ] {
        assert!(Key::decode(family, bytes).is_err(), "{family:?} {bytes:?}");
    }
}

type Model = BTreeMap<(Family, Vec<u8>), Bytes>;
const SCRIPTED: [Family; 3] = [Family::Cur, Family::Gone, Family::Count];

fn scripted_key(family: Family, key: &[u8]) -> Key<'_> {
    match family {
        Family::Cur => Key::Cur(key),
        Family::Gone => Key::Gone(key),
        _ => Key::Count(key),
    }
}

fn check(read: &impl Read, model: &Model, rng: &mut impl Rng) {
    let family = SCRIPTED[rng.random_range(0..SCRIPTED.len())];
    let (from, to, at) = (random_key(rng), random_key(rng), random_key(rng));
    let to = rng.random_bool(0.7).then_some(to);
    assert_eq!(read.get(&scripted_key(family, &at)), model.get(&(family, at.clone())).cloned());
    let mut wanted: Vec<_> = model
        .iter()
        .filter(|((f, key), _)| *f == family && *key >= from && to.as_ref().is_none_or(|to| key < to))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect();
    let mut found = Vec::new();
    let mut cursor = read.scan(family, &from, to.as_deref());
    let seek = rng.random_bool(0.3).then(|| random_key(rng));
    if let Some(seek) = &seek {
        cursor.seek(seek);
        wanted.retain(|(key, _)| key >= seek);
    }
    while cursor.valid() {
        found.push((cursor.key().to_vec(), Bytes::copy_from_slice(cursor.value())));
        cursor.next();
    }
    assert_eq!(found, wanted, "{family:?} {from:?}..{to:?} seek {seek:?}");
    let below = model.range((family, Vec::new())..=(family, at.clone())).next_back();
    let below = below.map(|((_, key), value)| (key.clone(), value.clone()));
    assert_eq!(read.last_at_or_below(family, &at), below);
}

/// Random batches, views and flushes; `crash` gives the store that a power loss leaves.
fn script(mut engine: Engine, seed: u64, crash: &mut dyn FnMut(Engine, &mut ChaCha8Rng) -> Engine) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut history = vec![Model::new()];
    let mut durable = 0;
    let mut views: Vec<(View, Model)> = Vec::new();
    for number in 0..400_u32 {
        let mut model = history.last().expect("never empty").clone();
        let mut batch = Batch::new(engine.view());
        for _ in 0..rng.random_range(0..6) {
            let family = SCRIPTED[rng.random_range(0..SCRIPTED.len())];
            let key = random_key(&mut rng);
            if rng.random_bool(0.6) {
                let value = Bytes::from(number.to_string());
                batch.put(&scripted_key(family, &key), value.clone());
                model.insert((family, key), value);
            } else {
                batch.delete(&scripted_key(family, &key));
                model.remove(&(family, key));
            }
            check(&batch, &model, &mut rng);
        }
        engine.write(batch);
        check(&engine.view(), &model, &mut rng);
        history.push(model.clone());
        match rng.random_range(0..12) {
            0 => views.push((engine.view(), model)),
            1 => drop(views.pop()),
            2 => {
                engine.flush();
                durable = history.len() - 1;
            }
            3 => {
                views.clear();
                engine = crash(engine, &mut rng);
                let view = engine.view();
                let kept = history.iter().rposition(|model| same(&view, model));
                let kept = kept.expect("a crash leaves the state after some batch");
                assert!(kept >= durable, "flushed batches were lost");
                history.truncate(kept + 1);
            }
            _ => {}
        }
        for (view, model) in &views {
            check(view, model, &mut rng);
        }
    }
}

fn same(read: &impl Read, model: &Model) -> bool {
    let mut found = Model::new();
    for family in SCRIPTED {
        let mut cursor = read.scan(family, b"", None);
        while cursor.valid() {
            found.insert((family, cursor.key().to_vec()), Bytes::copy_from_slice(cursor.value()));
            cursor.next();
        }
    }
    found == *model
}

#[test]
fn the_twin_is_a_store_and_crashes_to_a_prefix() {
    let mut rollbacks = 0;
    for seed in 0..40 {
        let mut twin = MemoryEngine::new(seed);
        script(twin.clone().into(), seed, &mut |_, rng| {
            twin = twin.crash(rng);
            twin.clone().into()
        });
        rollbacks += twin.counts().rollbacks;
    }
    assert!(rollbacks > 100, "crashes must lose batches, or the test shows nothing: {rollbacks}");
}

#[test]
fn rocksdb_is_a_store_and_loses_a_suffix_without_a_flush() {
    for seed in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let mut current = path.join("0");
        script(Engine::open(&current, &small()).unwrap(), seed, &mut |engine, rng| {
            let copy = path.join(rng.random::<u64>().to_string());
            let killed = killed_copy(&current, &copy);
            drop(engine);
            current = copy;
            killed
        });
    }
}

/// What a killed process leaves is its files as they are: a copy of them while it still runs (closing would flush).
/// A compaction may delete files under the copy, so it is made again until it holds together.
fn killed_copy(from: &std::path::Path, to: &std::path::Path) -> Engine {
    for _ in 0..100 {
        std::fs::create_dir(to).unwrap();
        let files = std::fs::read_dir(from).unwrap().map(|file| file.unwrap().file_name());
        let mut files: Vec<_> = files.filter(|name| name != "LOCK").collect();
        // The list of files first: what it names is then older than what is copied after it.
        files.sort_by_key(|name| !name.to_string_lossy().starts_with("MANIFEST"));
        if files.iter().all(|name| std::fs::copy(from.join(name), to.join(name)).is_ok())
            && let Ok(engine) = Engine::open(to, &small())
        {
            return engine;
        }
        std::fs::remove_dir_all(to).unwrap();
    }
    panic!("no copy of a hundred held together");
}

/// Writes revisions 1 to 100 of one key: log, idx (superseded at each) and a deleted key at each.
fn write_history(engine: &Engine) {
    for revision in 1..=100 {
        let mut batch = Batch::new(engine.view());
        batch.put(&log(revision, 0), Bytes::from_static(b"change"));
        batch.put(&idx(b"k", revision, 0), Bytes::new());
        batch.put(&Key::Gone(revision.to_string().as_bytes()), gone_value(revision));
        engine.write(batch);
    }
    engine.flush();
}

fn survivors(engine: &Engine) -> (Vec<i64>, Vec<i64>, Vec<i64>) {
    let view = engine.view();
    let all = |family: Family, revision: &dyn Fn(&[u8], &[u8]) -> i64| {
        let mut found = Vec::new();
        let mut cursor = view.scan(family, b"", None);
        while cursor.valid() {
            found.push(revision(cursor.key(), cursor.value()));
            cursor.next();
        }
        found.sort_unstable();
        found
    };
    let of_key = |family| {
        move |key: &[u8], _: &[u8]| match Key::decode(family, key).unwrap() {
            Key::Log { revision, .. } | Key::Idx { revision, .. } => revision.0,
            other => panic!("{other:?}"),
        }
    };
    let of_gone = |_: &[u8], value: &[u8]| read_gone(value);
    (all(Family::Log, &of_key(Family::Log)), all(Family::Idx, &of_key(Family::Idx)), all(Family::Gone, &of_gone))
}

#[test]
fn history_goes_up_to_the_floor_and_no_further() {
    let folder = tempfile::tempdir().unwrap();
    for engine in [Engine::memory(), Engine::open(folder.path(), &small()).unwrap()] {
        write_history(&engine);
        engine.drop_history(Revision(40));
        let (log, idx, gone) = survivors(&engine);
        for (kept, first) in [(&log, 40), (&idx, 41), (&gone, 41)] {
            assert!((first..=100).all(|revision| kept.contains(&revision)), "{kept:?}");
        }
        engine.rewrite_history(Revision(40));
        let wanted = ((40..=100).collect(), (41..=100).collect(), (41..=100).collect());
        assert_eq!(survivors(&engine), wanted, "a rewrite leaves nothing that may go");
    }
}

#[test]
fn dropped_history_stays_dropped_in_a_crash() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let twin = MemoryEngine::new(5);
    write_history(&twin.clone().into());
    let engine = Engine::from(twin.clone());
    engine.rewrite_history(Revision(90));
    assert_eq!(survivors(&twin.crash(&mut rng).into()).0, (90..=100).collect::<Vec<_>>());
}

#[test]
fn what_is_persisted_is_what_was_flushed() {
    let folder = tempfile::tempdir().unwrap();
    for engine in [Engine::from(MemoryEngine::new(3)), Engine::open(folder.path(), &small()).unwrap()] {
        let put = |value: &'static [u8]| {
            let mut batch = Batch::new(engine.view());
            batch.put(&Key::Meta(MetaKey::Applied), Bytes::from_static(value));
            engine.write(batch);
        };
        assert_eq!(engine.persisted(MetaKey::Applied), None);
        put(b"one");
        engine.flush();
        assert_eq!(engine.persisted(MetaKey::Applied).as_deref(), Some(&b"one"[..]));
        put(b"two");
        assert_ne!(engine.persisted(MetaKey::Applied), None);
    }
}

#[test]
fn a_store_in_use_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let _held = Engine::open(folder.path(), &small()).unwrap();
    let error = Engine::open(folder.path(), &small()).err().expect("two processes must not share a store");
    assert!(matches!(&error, OpenError::Locked(text) if text.contains("in use")), "{error}");
}

/// The layout of `gone` values, written out: `mvcc` writes them, the filters read them.
fn gone_value(deleted: i64) -> Bytes {
    assert!(deleted < 128, "one byte of varint");
    vec![1, u8::try_from(deleted).unwrap()].into()
}

fn read_gone(value: &[u8]) -> i64 {
    i64::from(value[1])
}

/// A store must open whatever its file system says of direct writes; memory is where they are refused, if anywhere.
#[test]
fn a_store_opens_with_and_without_direct_writes() {
    assert!(!direct::works(Path::new("/proc")), "nothing can be written there");
    for folder in [std::env::temp_dir(), "/dev/shm".into()] {
        let Ok(folder) = tempfile::tempdir_in(folder) else { continue };
        let engine = Engine::open(folder.path(), &small()).unwrap();
        write_history(&engine);
        engine.flush();
        drop(engine);
        assert!(!survivors(&Engine::open(folder.path(), &small()).unwrap()).0.is_empty());
    }
}
