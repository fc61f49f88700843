//! What is written reads back, on both engines; damage is seen; transfers end whole whatever the connection does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    engine::{Batch, Engine, EngineOptions, Family, Key, MetaKey, Read},
    types::{LeaseId, MemberId, Sub},
};

fn meta() -> ArchiveMeta {
    ArchiveMeta {
        cluster: ClusterId(0xc1),
        index: LogIndex(700),
        term: Term(3),
        revision: Revision(90),
        conf_state: Bytes::from_static(b"\x08\x01\x08\x02\x08\x03"),
    }
}

type Dump = Vec<(Family, Vec<u8>, Vec<u8>)>;

const COMPACTED: Revision = Revision(40);

/// Records in every family, below and above what is compacted, with `big` bytes in some values.
fn fill(engine: &Engine, big: usize) {
    let mut batch = Batch::new(engine.view());
    for number in 1..=90_i64 {
        let name = format!("key{number:04}\0\u{fe}");
        let value = Bytes::from(vec![u8::try_from(number).unwrap(); if number % 9 == 0 { big } else { 7 }]);
        batch.put(&Key::Cur(name.as_bytes()), value.clone());
        batch.put(&Key::Log { revision: Revision(number), sub: Sub(0) }, value);
        batch.put(&Key::Idx { key: name.as_bytes().into(), revision: Revision(number), sub: Sub(0) }, Bytes::new());
        batch.put(&Key::Gone(name.as_bytes()), vec![1, u8::try_from(number).unwrap()].into());
    }
    for (key, value) in [
        (Key::Count(b"\x01\0"), b"\x01\x5a".as_slice()),
        (Key::Lease(LeaseId(-7)), b"\x01\x60"),
        (Key::LeaseKey { lease: LeaseId(-7), key: b"key0001" }, b""),
        (Key::Request(b"retry"), b"outcome"),
        (Key::RequestAge(1), b"retry"),
        (Key::Member(MemberId(5)), b"\x01\0\0\0\0"),
        (Key::Meta(MetaKey::Applied), b"\x01applied"),
        (Key::Meta(MetaKey::ClusterVersion), b"3.7.0"),
        (Key::Meta(MetaKey::Resume), b"the member's own"),
    ] {
        batch.put(&key, Bytes::copy_from_slice(value));
    }
    engine.write(batch);
    engine.flush();
}

fn archive(engine: &Engine) -> Archive {
    Archive::new(engine.view(), meta(), COMPACTED)
}

fn bytes_of(archive: &mut Archive) -> Vec<u8> {
    let mut all = Vec::new();
    for number in 0.. {
        let chunk = archive.chunk(number).expect("chunks go on up to the last one");
        assert_eq!(chunk.number, number);
        assert!(chunk.last || chunk.bytes.len() == CHUNK_BYTES);
        all.extend_from_slice(&chunk.bytes);
        if chunk.last {
            assert_eq!(archive.chunk(number + 1), None);
            break;
        }
    }
    all
}

/// Everything that a member must get.
fn wanted(engine: &Engine) -> Dump {
    let view = engine.view();
    let mut all = Vec::new();
    for family in Family::ALL {
        let mut cursor = view.scan(family, b"", None);
        while cursor.valid() {
            let own = family == Family::Meta && cursor.key() == b"resume";
            if !own && !crate::engine::droppable(family, cursor.key(), cursor.value(), COMPACTED) {
                all.push((family, cursor.key().to_vec(), cursor.value().to_vec()));
            }
            cursor.next();
        }
    }
    all
}

/// All records, if the bytes are a whole archive.
fn read(bytes: &[u8], piece: usize) -> Result<Dump, Broken> {
    let (mut checker, mut all) = (Checker::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        checker.push(piece, &mut |block: Records| {
            all.extend(block.records.into_iter().map(|(key, value)| (block.family, key.to_vec(), value.to_vec())));
        })?;
    }
    assert!(checker.meta().is_none_or(|read| *read == meta()), "a head that is believed is the one that was written");
    if checker.is_whole() { Ok(all) } else { Err(Broken::Short) }
}

#[test]
fn both_engines_write_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let small = EngineOptions { block_cache_bytes: 8 << 20, memtable_bytes: 4 << 20, max_open_files: 64 };
    let (twin, rocks) = (Engine::memory(), Engine::open(folder.path(), &small).unwrap());
    fill(&twin, 300_000);
    fill(&rocks, 300_000);
    // One of them has given its history back.
    rocks.rewrite_history(COMPACTED);
    let (left, right) = (bytes_of(&mut archive(&twin)), bytes_of(&mut archive(&rocks)));
    assert!(left == right, "{} and {} bytes", left.len(), right.len());
    assert!(left.len() > 10 * CHUNK_BYTES);
    for piece in [1_000, CHUNK_BYTES, usize::MAX] {
        assert!(read(&left, piece).unwrap() == wanted(&twin));
    }
}

#[test]
fn any_chunk_can_be_asked_for_again() {
    let engine = Engine::memory();
    fill(&engine, 200_000);
    let all = bytes_of(&mut archive(&engine));
    let chunks: Vec<&[u8]> = all.chunks(CHUNK_BYTES).collect();
    let mut archive = archive(&engine);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for _ in 0..300 {
        let number = rng.random_range(0..chunks.len() + 2);
        let chunk = archive.chunk(number as u64);
        assert_eq!(chunk.as_ref().map(|chunk| &chunk.bytes[..]), chunks.get(number).copied(), "chunk {number}");
        assert_eq!(chunk.map(|chunk| chunk.last), (number < chunks.len()).then_some(number + 1 == chunks.len()));
    }
    assert_eq!(archive.chunk(u64::MAX), None);
}

/// The view is what is archived, whatever is written meanwhile.
#[test]
fn what_is_written_meanwhile_is_not_in_it() {
    let engine = Engine::memory();
    fill(&engine, 50_000);
    let mut open = archive(&engine);
    let expected = bytes_of(&mut archive(&engine));
    let first = open.chunk(0).unwrap();
    engine.start_over(Batch::new(engine.view()));
    engine.flush();
    assert_eq!(first.bytes[..], expected[..CHUNK_BYTES]);
    assert!(bytes_of(&mut open) == expected);
}

fn tiny() -> Vec<u8> {
    let engine = Engine::memory();
    let mut batch = Batch::new(engine.view());
    for (key, value) in [
        (Key::Cur(b"k"), b"\x01v".as_slice()),
        (Key::Log { revision: Revision(90), sub: Sub(0) }, b"change"),
        (Key::Member(MemberId(5)), b"\x01\0\0\0\0"),
        (Key::Meta(MetaKey::Applied), b"\x01applied"),
    ] {
        batch.put(&key, Bytes::copy_from_slice(value));
    }
    engine.write(batch);
    bytes_of(&mut archive(&engine))
}

#[test]
fn golden() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/snapshot/golden/archive");
    let bytes = tiny();
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        std::fs::write(path, &bytes).unwrap();
    }
    let golden = std::fs::read(path).unwrap();
    assert_eq!(golden, bytes, "what is written changed: a new version is needed, and this one must stay readable");
    assert_eq!(read(&golden, usize::MAX).unwrap().len(), 4);
}

#[test]
fn every_flipped_bit_is_seen() {
    let sound = tiny();
    for at in 0..sound.len() {
        for bit in 0..8 {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << bit;
            assert!(read(&bytes, 100).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn every_cut_is_seen() {
    let sound = tiny();
    for end in 0..sound.len() {
        assert_eq!(read(&sound[..end], 64), Err(Broken::Short), "{end}");
    }
    assert_eq!(read(&[&sound[..], &[0]].concat(), 64), Err(Broken::End));
    // Blocks that are sound by themselves, without one of them, or in another order.
    let block = |at: usize| at + 16 + u32::from_le_bytes(sound[at..at + 4].try_into().unwrap()) as usize;
    let first = 48 + meta().conf_state.len() + 4;
    let (second, third) = (block(first), block(block(first)));
    assert_eq!(read(&[&sound[..first], &sound[second..]].concat(), 64), Err(Broken::End));
    let swapped = [&sound[..first], &sound[second..third], &sound[first..second], &sound[third..]].concat();
    assert!(matches!(read(&swapped, 64), Err(Broken::Order(_))));
    let twice = [&sound[..second], &sound[first..]].concat();
    assert!(matches!(read(&twice, 64), Err(Broken::Order(_))));
}

#[test]
fn garbage_is_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let sound = tiny();
    for round in 0..2_000 {
        let keep = rng.random_range(0..=sound.len());
        let mut bytes = sound[..keep].to_vec();
        bytes.extend((0..rng.random_range(1..200)).map(|_| rng.random::<u8>()));
        assert!(read(&bytes, rng.random_range(1..300)).is_err(), "round {round}");
    }
    // Lengths that are not there set no memory aside.
    let mut huge = sound[..48 + meta().conf_state.len() + 4].to_vec();
    huge.extend_from_slice(&(u32::MAX - 1).to_le_bytes());
    huge.extend_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(read(&huge, 64), Err(Broken::Block(_))));
}

/// A link that delivers in order, until it is cut and loses what is under way.
#[test]
fn transfers_end_whole_whatever_is_cut() {
    let engine = Engine::memory();
    fill(&engine, 250_000);
    let all = bytes_of(&mut archive(&engine));
    let (mut cuts, mut restarts, mut again) = (0, 0, 0);
    for seed in 0..30 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut sender = Sender::new(archive(&engine));
        let mut receiver = Receiver::new(meta());
        let mut disk = vec![0; all.len()];
        assert_eq!(sender.next_chunk(), None, "nothing before the receiver has spoken");
        assert_eq!(sender.begin(Term(9)), ToReceiver::Begin { meta: meta(), term: Term(9) });
        let mut answers = vec![ToSender::Have(receiver.have())];
        let mut link: Vec<Chunk> = Vec::new();
        'transfer: loop {
            match rng.random_range(0..20) {
                0..8 => link.extend(sender.next_chunk()),
                8..14 if !link.is_empty() => {
                    let chunk = link.remove(0);
                    let judged = receiver.chunk(&chunk).unwrap();
                    if let Judged::Write { offset } | Judged::Last { offset } = judged {
                        let offset = usize::try_from(offset).unwrap();
                        disk[offset..offset + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
                    }
                    again += u32::from(judged == Judged::Again);
                    let last = matches!(judged, Judged::Last { .. });
                    answers.push(if last { ToSender::Staged } else { ToSender::Have(receiver.have()) });
                }
                14..19 if !answers.is_empty() => match sender.hear(answers.remove(0)) {
                    Verdict::GoesOn => {}
                    Verdict::Done => break 'transfer,
                    Verdict::Over => panic!("an honest answer"),
                },
                19 => {
                    cuts += 1;
                    link.clear();
                    if rng.random_bool(0.3) {
                        // The receiver begins again with what is on its disk, some of which it may not have any more.
                        restarts += 1;
                        let keep = rng.random_range(0..=receiver.have());
                        receiver = Receiver::new(meta());
                        for number in 0..keep {
                            let from = usize::try_from(number).unwrap() * CHUNK_BYTES;
                            let bytes = Bytes::copy_from_slice(&disk[from..(from + CHUNK_BYTES).min(all.len())]);
                            let last = from + CHUNK_BYTES >= all.len();
                            receiver.chunk(&Chunk { number, bytes, last }).unwrap();
                        }
                        if receiver.have() * CHUNK_BYTES as u64 >= all.len() as u64 {
                            break;
                        }
                    } else if receiver.have() > 0 && rng.random_bool(0.5) {
                        // A connection that delivers what an older one delivered already.
                        link.extend(Archive::new(engine.view(), meta(), COMPACTED).chunk(receiver.have() - 1));
                    }
                    sender.begin(Term(9));
                    answers = vec![ToSender::Have(receiver.have())];
                }
                _ => {}
            }
            assert!(link.len() as u64 <= WINDOW_CHUNKS + 1, "the window bounds what is under way");
        }
        assert!(disk == all, "seed {seed}");
    }
    assert!(cuts > 50 && restarts > 20 && again > 10, "{cuts} cuts, {restarts} restarts, {again} again");
}

#[test]
fn chunks_of_anything_else_are_refused() {
    let engine = Engine::memory();
    fill(&engine, 250_000);
    let mut archive = archive(&engine);
    let chunks: Vec<Chunk> = (0..3).map(|number| archive.chunk(number).unwrap()).collect();
    let expect = |meta: ArchiveMeta, chunks: &[Chunk]| {
        let mut receiver = Receiver::new(meta);
        chunks.iter().try_for_each(|chunk| receiver.chunk(chunk).map(drop))
    };
    assert_eq!(expect(meta(), &chunks), Ok(()));
    assert_eq!(expect(ArchiveMeta { term: Term(4), ..meta() }, &chunks), Err(Broken::Another));
    assert_eq!(expect(meta(), &chunks[1..]), Err(Broken::Short), "one is missing");
    let short = Chunk { bytes: chunks[1].bytes.slice(1..), ..chunks[1].clone() };
    assert_eq!(expect(meta(), &[chunks[0].clone(), short]), Err(Broken::Short));
    let ends = Chunk { last: true, ..chunks[1].clone() };
    assert_eq!(expect(meta(), &[chunks[0].clone(), ends]), Err(Broken::Short));
    let other = Chunk { number: 1, ..chunks[0].clone() };
    assert!(expect(meta(), &[chunks[0].clone(), other]).is_err());
}

#[test]
fn answers_that_make_no_sense_end_the_transfer() {
    let engine = Engine::memory();
    fill(&engine, 250_000);
    let mut sender = Sender::new(archive(&engine));
    sender.begin(Term(9));
    assert_eq!(sender.hear(ToSender::Have(0)), Verdict::GoesOn);
    while sender.next_chunk().is_some() {}
    assert_eq!(sender.hear(ToSender::Have(WINDOW_CHUNKS + 1)), Verdict::Over, "more than was sent");
    assert_eq!(sender.hear(ToSender::Have(3)), Verdict::GoesOn);
    assert_eq!(sender.hear(ToSender::Have(2)), Verdict::Over, "fewer than before");
    assert_eq!(sender.hear(ToSender::Refused(Refusal::Busy)), Verdict::Over);
    sender.begin(Term(9));
    assert_eq!(sender.hear(ToSender::Have(u64::MAX)), Verdict::GoesOn);
    assert_eq!(sender.next_chunk(), None);
}
