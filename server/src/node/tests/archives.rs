//! What staging and the driver make of archives that come late, twice, from two leaders, or wrong. Deaths on the way are
//! enumerated in `archive_torture` of the test crate.

use bytes::Bytes;

use super::group::{Group, MemoryIo};
use crate::{
    engine::{Batch, Engine, Key},
    node::{Staging, Verdict, core, drive::Input, log::LogIo, message::MessageKind, snapshot_message},
    snapshot::{Archive, ArchiveMeta, CHUNK_BYTES, Chunk, Refusal, ToSender},
    state::{Committed, Point, State},
    types::{ClusterId, LogIndex, MemberId, Revision, Term},
};

const CLUSTER: ClusterId = ClusterId(0xc);

/// A state that has applied so many entries, as an archive of a few chunks.
fn archive(entries: u64) -> Archive {
    let engine = Engine::memory();
    let mut state = State::open(engine.clone());
    state.bootstrap(&[], core::first_conf_state(&[MemberId(1), MemberId(2), MemberId(3)]));
    let entry = |index| Committed { index: LogIndex(index), term: Term(2), entry: None };
    state.apply((1..=entries).map(entry).collect()).unwrap();
    let mut batch = Batch::new(engine.view());
    for number in 0..4_u8 {
        batch.put(&Key::Cur(&[number]), vec![number; 200_000].into());
    }
    engine.write(batch);
    let view = engine.view();
    let Point { index, term, revision, compacted, conf_state } = Point::of_view(&view).unwrap();
    Archive::new(view, ArchiveMeta { cluster: CLUSTER, index, term, revision, conf_state }, compacted)
}

fn chunks(archive: &mut Archive) -> Vec<Chunk> {
    (0..).map_while(|number| archive.chunk(number)).collect()
}

fn names(io: &MemoryIo) -> Vec<String> {
    io.list().unwrap()
}

#[test]
fn chunks_become_a_staged_archive_that_stays_until_it_is_let_go() {
    let io = MemoryIo::default();
    let mut staging = Staging::open(io.clone(), CLUSTER).unwrap();
    let mut archive = archive(10);
    let meta = archive.meta().clone();
    let (session, answer) = staging.begin(&meta, Term(3), LogIndex(4)).unwrap();
    assert_eq!(answer, ToSender::Have(0));
    let chunks = chunks(&mut archive);
    assert!(chunks.len() > 3);
    for chunk in &chunks {
        let answer = staging.chunk(session, chunk).unwrap();
        let expected = if chunk.last { ToSender::Staged } else { ToSender::Have(chunk.number + 1) };
        assert_eq!(answer, expected);
        assert_eq!(staging.staged().is_some(), chunk.last);
    }
    assert_eq!(names(&io), ["staged"]);
    // Raft has it: nothing may take its place.
    let (_, busy) = staging.begin(self::archive(11).meta(), Term(9), LogIndex(4)).unwrap();
    assert_eq!(busy, ToSender::Refused(Refusal::Busy));
    staging.discard(self::archive(11).meta()).unwrap();
    assert_eq!(staging.staged(), Some(&meta), "another archive's end is none of its business");
    // A process that starts again finds it, and may be sent it again, or another one.
    let mut again = Staging::open(io.clone(), CLUSTER).unwrap();
    assert_eq!(again.staged(), Some(&meta));
    assert_eq!(again.begin(&meta, Term(3), LogIndex(4)).unwrap().1, ToSender::Staged);
    let mut again = Staging::open(io.clone(), CLUSTER).unwrap();
    assert_eq!(again.begin(self::archive(12).meta(), Term(3), LogIndex(4)).unwrap().1, ToSender::Have(0));
    assert_eq!(names(&io), ["partial"]);
    staging = Staging::open(io.clone(), ClusterId(7)).unwrap();
    assert_eq!(staging.staged(), None);
}

#[test]
fn of_two_senders_the_newer_leader_counts() {
    let mut staging = Staging::open(MemoryIo::default(), CLUSTER).unwrap();
    let (mut first, mut second) = (archive(10), archive(9));
    let (older, _) = staging.begin(first.meta(), Term(5), LogIndex(4)).unwrap();
    assert_eq!(staging.chunk(older, &first.chunk(0).unwrap()).unwrap(), ToSender::Have(1));
    let (_, refused) = staging.begin(second.meta(), Term(4), LogIndex(4)).unwrap();
    assert_eq!(refused, ToSender::Refused(Refusal::Busy), "a leader of an older term");
    let (newer, answer) = staging.begin(second.meta(), Term(6), LogIndex(4)).unwrap();
    assert_eq!(answer, ToSender::Have(0));
    assert_eq!(staging.chunk(older, &first.chunk(1).unwrap()).unwrap(), ToSender::Refused(Refusal::Busy));
    assert_eq!(staging.chunk(newer, &second.chunk(0).unwrap()).unwrap(), ToSender::Have(1));
    // The same leader on another connection goes on.
    let (third, answer) = staging.begin(second.meta(), Term(6), LogIndex(4)).unwrap();
    assert_eq!(answer, ToSender::Have(1));
    assert_eq!(staging.chunk(third, &second.chunk(0).unwrap()).unwrap(), ToSender::Have(1), "what it has already");
}

#[test]
fn what_is_of_no_use_or_wrong_is_refused() {
    let io = MemoryIo::default();
    let mut staging = Staging::open(io.clone(), CLUSTER).unwrap();
    let mut sound = archive(10);
    let meta = sound.meta().clone();
    let refusal = |staging: &mut Staging<MemoryIo>, meta: &ArchiveMeta, applied| {
        staging.begin(meta, Term(3), LogIndex(applied)).unwrap().1
    };
    assert_eq!(refusal(&mut staging, &meta, 10), ToSender::Refused(Refusal::Unwanted), "the state is as far");
    let other = ArchiveMeta { cluster: ClusterId(1), ..meta.clone() };
    assert_eq!(refusal(&mut staging, &other, 4), ToSender::Refused(Refusal::Unwanted));
    assert!(names(&io).is_empty());
    // Its head says more than what is in it.
    let lies = ArchiveMeta { revision: Revision(77), ..meta.clone() };
    let mut lying = Archive::new(Engine::memory().view(), lies.clone(), Revision::NEVER);
    let (session, _) = staging.begin(&lies, Term(3), LogIndex(4)).unwrap();
    assert_eq!(staging.chunk(session, &lying.chunk(0).unwrap()).unwrap(), ToSender::Refused(Refusal::Broken));
    assert!(names(&io).is_empty(), "nothing of it is kept");
    // A bit flipped on the way, and everything is sent again.
    let (session, _) = staging.begin(&meta, Term(3), LogIndex(4)).unwrap();
    let mut chunk = sound.chunk(0).unwrap();
    let mut bytes = chunk.bytes.to_vec();
    bytes[CHUNK_BYTES / 2] ^= 1;
    chunk.bytes = bytes.into();
    let mut answer = staging.chunk(session, &chunk).unwrap();
    if answer == ToSender::Have(1) {
        answer = staging.chunk(session, &sound.chunk(1).unwrap()).unwrap();
    }
    assert_eq!(answer, ToSender::Refused(Refusal::Broken), "seen when its block is complete");
    assert_eq!(staging.begin(&meta, Term(3), LogIndex(4)).unwrap().1, ToSender::Have(0));
}

/// Three members with some entries, of which the third follows.
fn group() -> Group {
    let mut group = Group::new(3, 5);
    (1..=3).for_each(|id| drop(group.start(id)));
    group.tick(1, 250);
    group.settle();
    assert!(group.running(1).driver.standing().leading, "the first member leads");
    group
}

fn meta(index: u64, term: Term) -> ArchiveMeta {
    let conf_state = Bytes::from(core::first_conf_state(&[MemberId(1), MemberId(2), MemberId(3)]));
    ArchiveMeta { cluster: CLUSTER, index: LogIndex(index), term, revision: Revision(9), conf_state }
}

#[test]
fn an_archive_is_taken_once_and_put_in_only_behind_a_log_that_begins_anew() {
    let mut group = group();
    let now_ms = group.now_ms;
    let term = group.running(3).driver.standing().term;
    let commit = group.running(3).driver.standing().commit;
    let staged = |index| Input::ArchiveStaged(snapshot_message(MemberId(1), MemberId(3), term, &meta(index, term)));

    let effects = group.running(3).driver.drive(now_ms, [staged(commit.0)]);
    assert_eq!(effects.archive, Some(Verdict::Ignored(meta(commit.0, term))), "the log knows the entry");
    assert!(effects.persist.is_none_or(|persist| persist.batch.reset.is_none()));

    // The plain message, before anything is staged.
    let message = snapshot_message(MemberId(1), MemberId(3), term, &meta(50, term));
    let effects = group.running(3).driver.drive(now_ms, [Input::Message(message)]);
    assert!(effects.archive.is_none() && effects.persist.is_none(), "raft does not hear of it");

    let mut effects = group.running(3).driver.drive(now_ms, [staged(50)]);
    assert_eq!(effects.archive, Some(Verdict::Accepted(meta(50, term))));
    assert!(effects.install.is_none() && effects.send.is_empty());
    let mut persist = effects.persist.take().expect("the log begins anew");
    assert_eq!(persist.batch.reset, Some((LogIndex(50), term)));
    assert!(!persist.held.is_empty(), "the acknowledgement waits for it");

    // In between raft is asleep: nothing makes it look for entries that are gone.
    let mut inputs: Vec<Input> = (0..400).map(|_| Input::Tick).collect();
    inputs.push(staged(60));
    let effects = group.running(3).driver.drive(now_ms, inputs);
    assert_eq!(effects.archive, Some(Verdict::Ignored(meta(60, term))), "one at a time");
    assert!(effects.send.is_empty() && effects.install.is_none() && effects.committed.is_empty());
    if let Some(later) = effects.persist {
        persist.batch.merge(later.batch);
        persist.held.merge(later.held);
    }

    let running = group.running(3);
    let persisted = running.store.persist(&persist.batch).unwrap();
    assert_eq!((running.store.reader().first_index(), persisted.last_index()), (LogIndex(51), LogIndex(50)));
    let acknowledged = persist.held.release(&persisted);
    assert!(acknowledged.iter().any(|message| message.kind == MessageKind::AppendResponse && message.index.0 == 50));
    let effects = running.driver.drive(now_ms, [Input::Persisted(persisted)]);
    assert_eq!(effects.install, Some(meta(50, term)));
    // It may stand for election while it is put in, and what apply still had to say of the time before is no news.
    let mut inputs = vec![Input::Applied(commit)];
    inputs.extend((0..400).map(|_| Input::Tick));
    let effects = group.running(3).driver.drive(now_ms + 4_000, inputs);
    assert!(!effects.send.is_empty(), "it asks for votes");
    let effects = group.running(3).driver.drive(now_ms + 4_000, [staged(70)]);
    assert_eq!(effects.archive, Some(Verdict::Ignored(meta(70, term))), "not before the first one is in");
    let effects = group.running(3).driver.drive(now_ms + 4_000, [Input::Applied(LogIndex(50))]);
    assert!(effects.install.is_none());
}

#[test]
fn a_membership_that_raft_would_not_bear_is_ignored() {
    let mut group = group();
    let now_ms = group.now_ms;
    let term = group.running(3).driver.standing().term;
    // Garbage; no voters; a voter twice; a learner that is a voter too; a member of number 0; one that leaves by itself.
    let bad: [&[u8]; 6] =
        [b"\xff\xff", b"", b"\x08\x01\x08\x03\x08\x03", b"\x08\x03\x10\x03", b"\x08\x03\x08\x00", b"\x08\x03\x28\x01"];
    for conf_state in bad {
        let meta = ArchiveMeta { conf_state: Bytes::copy_from_slice(conf_state), ..meta(50, term) };
        let message = snapshot_message(MemberId(1), MemberId(3), term, &meta);
        let effects = group.running(3).driver.drive(now_ms, [Input::ArchiveStaged(message)]);
        assert_eq!(effects.archive, Some(Verdict::Ignored(meta)), "{conf_state:?}");
    }
}
