//! A state exchanged for another one, with a crash between any two of the steps, on both engines.

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    language,
    model::random_command,
    world::{Dump, World, check_leases, dump, small},
};
use crate::{
    engine::{Engine, EngineOptions, MemoryEngine},
    mvcc,
    state::{Committed, Point, State},
    types::{LogIndex, Revision, Term},
};

/// A member that applied `entries` random entries, which are those of its first `entries` for any greater number.
fn member(engine: Engine, entries: usize) -> World {
    let mut rng = ChaCha8Rng::seed_from_u64(77);
    let mut world =
        World { state: State::open_with(engine.clone(), small()), engine, term: Term(2), last: LogIndex(0) };
    world.state.bootstrap(&[], b"conf".to_vec());
    for number in 0..entries {
        let key = ["", "", "x", "y", "z"][number % 5];
        let kind = random_command(&mut rng);
        let committed = world.committed(kind, key, Term(2));
        world.apply_committed(committed);
    }
    world
}

/// The records of a state in pieces, as an archive gives them.
fn pieces(dump: &Dump) -> Vec<Dump> {
    dump.chunks(7).map(<[_]>::to_vec).collect()
}

/// The first `steps` steps of the exchange; true if that was all of them.
fn install(state: &mut State, point: &Point, pieces: &[Dump], steps: usize) -> bool {
    if steps > 0 {
        state.install_begin(point.index, point.term);
    }
    for piece in pieces.iter().take(steps.saturating_sub(1)) {
        state.install_piece(piece.iter().map(|(family, key, value)| (*family, &key[..], Bytes::from(value.clone()))));
    }
    let all = steps >= pieces.len() + 2;
    if all {
        state.install_end();
    }
    all
}

struct Source {
    point: Point,
    dump: Dump,
    hash: u32,
    next: Vec<Committed>,
    after: Dump,
}

fn hash(state: &State) -> u32 {
    let view = state.read_view();
    mvcc::hash_kv(&view.view, view.position, Revision(0)).expect("the current revision has a hash").hash
}

fn source() -> Source {
    let mut world = member(Engine::memory(), 160);
    let view = world.view();
    let point = Point::of_view(&view.view).expect("a whole state");
    let (before, hash) = (dump(&view.view), hash(&world.state));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let next: Vec<Committed> =
        (0..40).map(|_| random_command(&mut rng)).map(|kind| world.committed(kind, "x", Term(2))).collect();
    world.state.apply(next.clone()).expect("the entries may be applied");
    Source { point, dump: before, hash, next, after: dump(&world.view().view) }
}

/// What must be true once the exchange is done, however often it was begun.
fn check(mut state: State, source: &Source) {
    let view = state.read_view();
    assert_eq!(dump(&view.view), source.dump);
    assert_eq!(Point::of_view(&view.view).as_ref(), Some(&source.point));
    assert_eq!((view.applied, view.position.revision), (source.point.index, source.point.revision));
    assert_eq!((state.applied().0, state.conf_state()), (source.point.index, &source.point.conf_state[..]));
    assert_eq!((hash(&state), state.installing(), state.unfinished()), (source.hash, None, None));
    check_leases(&view.view);
    let applied = state.apply(source.next.clone()).expect("it goes on from there");
    assert_eq!(applied.len(), source.next.len());
    assert_eq!(dump(&state.read_view().view), source.after);
}

#[test]
fn a_crash_between_any_two_steps_is_redone() {
    let source = source();
    let pieces = pieces(&source.dump);
    assert!(pieces.len() > 10 && source.point.index == LogIndex(160));
    let (mut old, mut half, mut whole) = (0, 0, 0);
    for steps in 0..=pieces.len() + 2 {
        for seed in 0..6 {
            let twin = MemoryEngine::new(seed);
            let mut world = member(twin.clone().into(), 60);
            let before = dump(&world.view().view);
            let published = world.state.published();
            let done = install(&mut world.state, &source.point, &pieces, steps);
            if !done {
                assert_eq!(dump(&published.load().view), before, "readers keep what they had until the end");
            }
            drop(world);
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let twin = twin.crash(&mut rng);
            let mut state = State::open_with(twin.clone().into(), small());
            match state.installing() {
                Some(mark) => {
                    assert_eq!(mark, (source.point.index, source.point.term));
                    assert_eq!(Point::of_view(&state.read_view().view), None, "a part of a state is nobody's");
                    assert_eq!(State::persisted(&twin.clone().into()).0, LogIndex(0), "the log is not cut for it");
                    half += 1;
                }
                None if state.applied().0 == source.point.index => {
                    assert!(done);
                    whole += 1;
                    check(state, &source);
                    continue;
                }
                None => {
                    assert!(state.applied().0 <= LogIndex(60), "a state of the time before");
                    old += 1;
                }
            }
            // The second time it is killed in the middle, too.
            install(&mut state, &source.point, &pieces, rng.random_range(0..pieces.len()));
            let mut state = State::open_with(twin.crash(&mut rng).into(), small());
            assert!(install(&mut state, &source.point, &pieces, usize::MAX));
            check(state, &source);
        }
    }
    assert!(old > 20 && half > 20 && whole > 5, "{old} before, {half} in the middle, {whole} after");
}

#[test]
fn rocksdb_ends_the_same() {
    let source = source();
    let pieces = pieces(&source.dump);
    let options = EngineOptions { block_cache_bytes: 8 << 20, memtable_bytes: 4 << 20, max_open_files: 64 };
    let folder = tempfile::tempdir().expect("a folder");
    for steps in [0, 1, 2, pieces.len() / 2, pieces.len() + 1, pieces.len() + 2] {
        let path = folder.path().join(steps.to_string());
        let mut world = member(Engine::open(&path, &options).expect("a store"), 60);
        let view = world.view();
        let before = dump(&view.view);
        let done = install(&mut world.state, &source.point, &pieces, steps);
        assert_eq!(dump(&view.view), before, "an open view keeps what it saw");
        drop((view, world));
        let mut state = State::open_with(Engine::open(&path, &options).expect("a store"), small());
        assert_eq!(state.installing().is_some(), steps > 0 && !done);
        if !done {
            assert!(install(&mut state, &source.point, &pieces, usize::MAX));
        }
        check(state, &source);
    }
}

/// An entry of which pieces were written is in the archive as a whole.
#[test]
fn what_was_half_applied_is_forgotten() {
    let source = source();
    let mut world = member(Engine::memory(), 60);
    let mut batch = crate::engine::Batch::new(world.engine.view());
    let mark = super::super::meta::Mark {
        index: LogIndex(61),
        revision: world.view().position.revision.next(),
        sub: crate::types::Sub(0),
        op: 1,
        outcome: Default::default(),
    };
    batch.put(&crate::engine::Key::Meta(crate::engine::MetaKey::Resume), mark.encode());
    world.engine.write(batch);
    world.state = State::open_with(world.engine.clone(), small());
    assert_eq!(world.state.unfinished(), Some(LogIndex(61)));
    assert_eq!(Point::of_view(&world.engine.view()), None, "half an entry is not archived");
    assert!(install(&mut world.state, &source.point, &pieces(&source.dump), usize::MAX));
    check(State::open_with(world.engine.clone(), small()), &source);
}

#[test]
#[should_panic(expected = "only exchanged for a later one")]
fn nothing_applied_is_taken_back() {
    let mut world = member(Engine::memory(), 60);
    world.state.install_begin(LogIndex(60), Term(2));
}

#[test]
#[should_panic(expected = "nothing is applied to a part of a state")]
fn nothing_is_applied_to_a_part_of_a_state() {
    let mut world = member(Engine::memory(), 60);
    let put = world.committed(language::command("put a 1").expect("a command"), "", Term(2));
    world.state.install_begin(LogIndex(160), Term(2));
    let _ = world.state.apply(vec![put]);
}

#[test]
fn golden() {
    use super::super::install::Installing;
    let value = Bytes::from_static(b"\x01\xac\x02\x07");
    let mark = Installing::decode(&value).expect("it is read");
    assert_eq!(mark.encode(), value);
    for rot in [b"".as_slice(), b"\x01", b"\x02\x01\x01", b"\x01\xac", b"\x01\xac\x02", b"\x01\xac\x02\x07\x00"] {
        assert_eq!(Installing::decode(&Bytes::from_static(rot)), None);
    }
}
