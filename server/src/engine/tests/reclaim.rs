//! Dropping history in real files: nothing that is needed goes, and the space comes back.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};

use super::*;

/// One change of `keys` keys in turn at each revision, with values that do not compress.
fn write_revisions(engine: &Engine, revisions: std::ops::RangeInclusive<i64>, keys: i64, value_bytes: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    let mut noise = vec![0; value_bytes + 4096];
    rng.fill(&mut noise[..]);
    let noise = Bytes::from(noise);
    let mut batch = Batch::new(engine.view());
    for revision in revisions {
        let at = rng.random_range(0..4096);
        let value = noise.slice(at..at + value_bytes);
        let key = format!("/registry/things/{:08}", revision % keys);
        batch.put(&Key::Cur(key.as_bytes()), value.clone());
        batch.put(&log(revision, 0), value);
        batch.put(&idx(key.as_bytes(), revision, 0), Bytes::new());
        if revision % 64 == 0 {
            engine.write(std::mem::replace(&mut batch, Batch::new(engine.view())));
            batch = Batch::new(engine.view());
        }
    }
    engine.write(batch);
}

fn first_and_count(engine: &Engine, family: Family) -> (i64, i64) {
    let view = engine.view();
    let mut cursor = view.scan(family, b"", None);
    let (mut first, mut count) = (i64::MAX, 0);
    while cursor.valid() {
        let (Key::Log { revision, .. } | Key::Idx { revision, .. }) = Key::decode(family, cursor.key()).unwrap() else {
            panic!("only history is read here");
        };
        first = first.min(revision.0);
        count += 1;
        cursor.next();
    }
    (first, count)
}

#[test]
fn files_go_at_once_and_the_rest_when_it_is_rewritten() {
    const NEWEST: i64 = 30_000;
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::open(folder.path(), &small()).unwrap();
    write_revisions(&engine, 1..=NEWEST, 1_000, 400);
    engine.flush();
    let full = engine.size().on_disk;
    for floor in [10_000, 10_001, 20_000, 29_000] {
        engine.drop_history(Revision(floor));
        let (first, count) = first_and_count(&engine, Family::Log);
        assert!(first <= floor && count > NEWEST - floor, "nothing from {floor} on is gone: {first} {count}");
        let (_, count) = first_and_count(&engine, Family::Idx);
        assert!(count >= NEWEST - floor, "nothing above {floor} is gone: {count}");
    }
    engine.rewrite_history(Revision(29_000));
    assert_eq!(first_and_count(&engine, Family::Log), (29_000, NEWEST - 29_000 + 1));
    assert_eq!(first_and_count(&engine, Family::Idx), (29_001, NEWEST - 29_000));
    let left = engine.size().on_disk;
    assert!(left * 4 < full, "the space came back: {left} of {full}");
}

#[test]
fn a_floor_that_rises_in_small_steps_is_not_paid_at_each() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::open(folder.path(), &small()).unwrap();
    write_revisions(&engine, 1..=1_000, 10, 10);
    engine.flush();
    engine.drop_history(Revision(100));
    engine.rewrite_history(Revision(100));
    assert_eq!(first_and_count(&engine, Family::Idx).0, 1, "a tenth is not worth it");
    engine.drop_history(Revision(300));
    engine.rewrite_history(Revision(300));
    assert_eq!(first_and_count(&engine, Family::Idx).0, 301);
    engine.drop_history(Revision(400));
    engine.rewrite_history(Revision(400));
    assert_eq!(first_and_count(&engine, Family::Idx).0, 301, "a seventh of what is left is not worth it");
}

/// History that was still in memtables when its floor rose goes too, once it is in files.
#[test]
fn unflushed_history_goes_later() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::open(folder.path(), &small()).unwrap();
    write_revisions(&engine, 1..=1_000, 10, 10);
    engine.drop_history(Revision(900));
    assert_eq!(first_and_count(&engine, Family::Log), (1, 1_000), "nothing was in files yet");
    engine.rewrite_history(Revision(900));
    assert_eq!(first_and_count(&engine, Family::Log), (900, 101));
}

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// What this thread has used of the CPU; wall time would be that of the other tests too.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// design.md: below 400 MB with a million keys; space back within 60 s of a compaction of a million revisions.
#[test]
#[ignore = "a minute of work; run it alone, since it measures the process"]
fn a_million_keys_fit_and_a_million_revisions_go() {
    const MILLION: i64 = 1_000_000;
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::open(folder.path(), &EngineOptions::default()).unwrap();
    let began = on_cpu();
    write_revisions(&engine, 1..=2 * MILLION, MILLION, 256);
    engine.flush();
    println!("2 M puts in {:?} of CPU, {} MB resident, {:?}", on_cpu() - began, resident_mb(), engine.size());
    let view = engine.view();
    let began = on_cpu();
    let mut rng = ChaCha8Rng::seed_from_u64(22);
    for _ in 0..200_000 {
        let key = format!("/registry/things/{:08}", rng.random_range(0..MILLION));
        assert!(view.get(&Key::Cur(key.as_bytes())).is_some());
    }
    println!("{:?} of CPU a random get, {} MB resident", (on_cpu() - began) / 200_000, resident_mb());
    let began = Instant::now();
    let (_, count) = first_and_count(&engine, Family::Log);
    assert_eq!(count, 2 * MILLION);
    println!("2 M changes scanned in {:?}, {} MB resident", began.elapsed(), resident_mb());
    drop(view);
    let began = Instant::now();
    engine.drop_history(Revision(MILLION));
    println!("dropped in {:?}, {:?}", began.elapsed(), engine.size());
    engine.rewrite_history(Revision(MILLION));
    println!("rewritten in {:?}, {} MB resident, {:?}", began.elapsed(), resident_mb(), engine.size());
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(first_and_count(&engine, Family::Log).0, MILLION);
    assert!(resident_mb() < 400, "{} MB resident", resident_mb());
}
