//! A store that starts over: in one batch, under open views, and crashes leave it before or after.

use super::*;

fn filled(engine: &Engine, rng: &mut ChaCha8Rng) -> Model {
    let mut model = Model::new();
    for number in 0..200_u32 {
        let mut batch = Batch::new(engine.view());
        let family = SCRIPTED[rng.random_range(0..SCRIPTED.len())];
        let (key, value) = ([random_key(rng), vec![0xff; 3]].concat(), Bytes::from(number.to_string()));
        batch.put(&scripted_key(family, &key), value.clone());
        model.insert((family, key), value);
        engine.write(batch);
        if rng.random_range(0..50) == 0 {
            engine.flush();
        }
    }
    model
}

/// What a start over writes; one of its keys was there before.
fn fresh(engine: &Engine, before: &Model) -> (Batch, Model) {
    let mut batch = Batch::new(engine.view());
    let ((_, reused), _) = before.iter().find(|((family, _), _)| *family == Family::Cur).expect("some key");
    let mut model = Model::new();
    for key in [reused.clone(), b"new".to_vec()] {
        batch.put(&Key::Cur(&key), Bytes::from_static(b"anew"));
        model.insert((Family::Cur, key), Bytes::from_static(b"anew"));
    }
    (batch, model)
}

#[test]
fn it_takes_everything_at_once_and_leaves_views_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (seed, engine) in [Engine::memory(), Engine::open(folder.path(), &small()).unwrap()].into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let before = filled(&engine, &mut rng);
        let view = engine.view();
        let (batch, after) = fresh(&engine, &before);
        engine.start_over(batch);
        assert!(same(&view, &before), "a view keeps what it saw");
        assert!(same(&engine.view(), &after));
        // Written again in the next batch, below and above the old keys.
        let mut batch = Batch::new(engine.view());
        batch.put(&Key::Cur(b""), Bytes::from_static(b"lowest"));
        engine.write(batch);
        engine.flush();
        engine.rewrite_history(Revision(1));
        assert!(same(&view, &before), "a flush and a compaction later too");
        let mut after = after;
        after.insert((Family::Cur, Vec::new()), Bytes::from_static(b"lowest"));
        assert!(same(&engine.view(), &after));
    }
}

#[test]
fn a_crash_leaves_all_of_the_old_or_nothing_of_it() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let twin = MemoryEngine::new(seed);
        let engine = Engine::from(twin.clone());
        let before = filled(&engine, &mut rng);
        engine.flush();
        let (batch, after) = fresh(&engine, &before);
        engine.start_over(batch);
        let crashed = Engine::from(twin.crash(&mut rng)).view();
        let is_old = same(&crashed, &before);
        assert!(is_old || same(&crashed, &after), "seed {seed}");
        (old, new) = if is_old { (old + 1, new) } else { (old, new + 1) };
    }
    assert!(old > 10 && new > 10, "{old} before, {new} after");
}

#[test]
fn rocksdb_forgets_it_after_a_flush_and_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let engine = Engine::open(&path, &small()).unwrap();
    let before = filled(&engine, &mut rng);
    engine.flush();
    let (batch, after) = fresh(&engine, &before);
    engine.start_over(batch);
    let unflushed = killed_copy(&path, &folder.path().join("unflushed"));
    assert!(same(&unflushed.view(), &before), "nothing of it was flushed");
    assert_eq!(engine.persisted(MetaKey::Applied), None);
    engine.flush();
    let flushed = killed_copy(&path, &folder.path().join("flushed"));
    assert!(same(&flushed.view(), &after));
}
