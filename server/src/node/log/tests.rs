//! Unit tests of the log room on real files. What crashes do to it stands in the test crate (`log_torture`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;

use super::*;
use crate::types::{LogIndex, MemberId, Term};

const SMALL: LogOptions = LogOptions { segment_bytes: 16 * 1024, log_id: 7, must_exist: false };

fn open(dir: &std::path::Path) -> (LogStore<RealIo>, Recovered) {
    LogStore::open(RealIo::new(dir), SMALL).expect("a sound log")
}

fn entry(index: u64, term: u64, len: usize) -> LogEntry {
    let data = Bytes::from(vec![u8::try_from(index % 251).unwrap(); len]);
    LogEntry { index: LogIndex(index), term: Term(term), kind: EntryKind::Normal, data }
}

fn state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term: Term(term), vote: (vote != 0).then_some(MemberId(vote)), commit: LogIndex(commit) }
}

fn batch(ready: u64, state: HardState, entries: Vec<LogEntry>) -> LogBatch {
    LogBatch { ready, entries, hard_state: Some(state), ..LogBatch::default() }
}

#[test]
fn what_was_persisted_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, recovered) = open(dir.path());
    assert_eq!((recovered.first, recovered.last, recovered.epoch), (LogIndex(1), LogIndex(0), 1));
    let mut all = Vec::new();
    for ready in 0..100 {
        let entries: Vec<_> = (1..=5).map(|n| entry(ready * 5 + n, 1 + ready / 50, 300)).collect();
        all.extend(entries.clone());
        let persisted = store.persist(&batch(ready, state(1 + ready / 50, 3, ready), entries)).unwrap();
        assert_eq!((persisted.ready(), persisted.last_index()), (ready, LogIndex(ready * 5 + 5)));
        store.prepare().unwrap();
    }
    let check = |reader: LogReader<RealIo>| {
        assert_eq!(reader.read(LogIndex(1), LogIndex(501), u64::MAX).unwrap(), all);
        assert_eq!(reader.read(LogIndex(77), LogIndex(99), 700).unwrap(), all[76..78]);
        assert_eq!(reader.read(LogIndex(77), LogIndex(99), 0).unwrap(), all[76..77]);
        assert_eq!(reader.term(LogIndex(250)), Some(Term(1)));
        assert_eq!(reader.term(LogIndex(251)), Some(Term(2)));
        assert_eq!(reader.term(LogIndex(0)), Some(Term(0)));
        assert_eq!(reader.term(LogIndex(501)), None);
        assert!(matches!(reader.read(LogIndex(500), LogIndex(502), 1), Err(ReadError::Unavailable)));
    };
    check(store.reader());
    drop(store);
    let (store, recovered) = open(dir.path());
    assert_eq!((recovered.last, recovered.last_term, recovered.epoch), (LogIndex(500), Term(2), 2));
    assert_eq!((recovered.hard_state.term, recovered.hard_state.vote), (Term(2), Some(MemberId(3))));
    check(store.reader());
}

#[test]
fn a_conflicting_tail_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let first: Vec<_> = (1..=90).map(|n| entry(n, 1, 400)).collect();
    let _ = store.persist(&batch(1, state(1, 0, 20), first.clone())).unwrap();
    let second: Vec<_> = (31..=40).map(|n| entry(n, 2, 100)).collect();
    let _ = store.persist(&batch(2, state(2, 0, 25), second.clone())).unwrap();
    let third: Vec<_> = (36..=60).map(|n| entry(n, 3, 50)).collect();
    let _ = store.persist(&batch(3, state(3, 0, 30), third.clone())).unwrap();
    let expected: Vec<_> = first[..30].iter().chain(&second[..5]).chain(&third).cloned().collect();
    assert_eq!(store.reader().read(LogIndex(1), LogIndex(61), u64::MAX).unwrap(), expected);
    store.cut_below(LogIndex(33)).unwrap();
    let kept = store.reader().first_index();
    assert!(kept > LogIndex(1) && kept <= LogIndex(33), "{kept}");
    drop(store);
    let (store, recovered) = open(dir.path());
    assert_eq!((recovered.first, recovered.last), (kept, LogIndex(60)));
    let from = usize::try_from(kept.0).unwrap() - 1;
    assert_eq!(store.reader().read(kept, LogIndex(61), u64::MAX).unwrap(), expected[from..]);
    assert!(matches!(store.reader().read(LogIndex(1), LogIndex(61), 1), Err(ReadError::Cut)));
}

#[test]
fn segments_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    for n in 1..=500 {
        let _ = store.persist(&batch(n, state(1, 0, n - 1), vec![entry(n, 1, 200)])).unwrap();
        store.prepare().unwrap();
        store.cut_below(LogIndex(n.saturating_sub(10).max(1))).unwrap();
    }
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert!(files <= 6, "500 records fit about 33 segments, of which {files} files may stay");
    let first = store.reader().first_index();
    drop(store);
    let (store, recovered) = open(dir.path());
    assert_eq!((recovered.first, recovered.last), (first, LogIndex(500)));
    assert_eq!(store.reader().read(LogIndex(490), LogIndex(501), u64::MAX).unwrap().len(), 11);
}

#[test]
fn a_reset_log_begins_behind_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let _ = store.persist(&batch(1, state(2, 0, 5), (1..=90).map(|n| entry(n, 2, 400)).collect())).unwrap();
    store.reset(LogIndex(1_000), Term(2)).unwrap();
    assert_eq!(store.reader().first_index(), LogIndex(1_001));
    assert_eq!(store.reader().term(LogIndex(1_000)), Some(Term(2)));
    let _ = store.persist(&batch(2, state(3, 0, 1_000), vec![entry(1_001, 3, 10)])).unwrap();
    drop(store);
    let (_, recovered) = open(dir.path());
    assert_eq!((recovered.base, recovered.last), ((LogIndex(1_000), Term(2)), LogIndex(1_001)));
}

#[test]
fn merged_batches_keep_what_counts() {
    let mut first = batch(1, state(1, 0, 0), (1..=5).map(|n| entry(n, 1, 1)).collect());
    first.merge(LogBatch { ready: 2, hard_state: Some(state(2, 1, 1)), ..LogBatch::default() });
    first.merge(LogBatch { ready: 3, entries: (4..=4).map(|n| entry(n, 2, 1)).collect(), ..LogBatch::default() });
    assert_eq!(
        first.entries.iter().map(|e| (e.index.0, e.term.0)).collect::<Vec<_>>(),
        [(1, 1), (2, 1), (3, 1), (4, 2)]
    );
    assert_eq!((first.ready, first.hard_state), (3, Some(state(2, 1, 1))));
    first.merge(batch(4, state(3, 0, 1), vec![entry(1, 3, 1)]));
    assert_eq!(first.entries.len(), 1);
}

/// What version 0.1 wrote must stay readable for ever: a log with each kind of record and both places of each slot.
#[test]
fn golden_files() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let kinds = [EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2];
    let entries = kinds.into_iter().zip(1..).map(|(kind, index)| LogEntry { kind, ..entry(index, 2, 5) }).collect();
    let _ = store.persist(&batch(1, state(2, 0xab, 1), entries)).unwrap();
    let _ = store.persist(&batch(2, state(2, 0xab, 3), vec![entry(3, 2, 0)])).unwrap_or_else(|e| panic!("{e}"));
    drop(store);
    let mut text = String::new();
    for name in ["hard-state", "00000000.seg"] {
        dump(name, &std::fs::read(dir.path().join(name)).unwrap(), &mut text);
    }
    assert_eq!(text, include_str!("golden/log"));
}

/// Lines of 16 bytes that are not all zero.
fn dump(name: &str, bytes: &[u8], out: &mut String) {
    use std::fmt::Write as _;
    writeln!(out, "{name} {} bytes", bytes.len()).unwrap();
    for (line, bytes) in bytes.chunks(16).enumerate().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)) {
        let hex: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{:6} {}", line * 16, hex.join(" ")).unwrap();
    }
}

/// The files of the golden dump, put together again, open as the log that was written.
#[test]
fn golden_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for line in include_str!("golden/log").lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [name, len, "bytes"] = words[..] {
            files.push((name.to_owned(), vec![0; len.parse().unwrap()]));
            continue;
        }
        let at: usize = words[0].parse().unwrap();
        let bytes = words[1..].iter().map(|byte| u8::from_str_radix(byte, 16).unwrap());
        bytes.zip(&mut files.last_mut().unwrap().1[at..]).for_each(|(byte, place)| *place = byte);
    }
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let (store, found) = open(dir.path());
    assert_eq!((found.hard_state, found.last, found.epoch), (state(2, 0xab, 3), LogIndex(3), 2));
    let read = store.reader().read(LogIndex(1), LogIndex(4), u64::MAX).unwrap();
    assert_eq!(read[0], entry(1, 2, 5));
    assert_eq!(read[1].kind, EntryKind::ConfChange);
    assert_eq!(read[2], entry(3, 2, 0));
}

/// The two marks take turns, so that the newest but one is never the one that is being overwritten.
#[test]
fn marks_take_turns() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let counters = || {
        let bytes = std::fs::read(dir.path().join("00000000.seg")).unwrap();
        [4096, 8192].map(|at| super::record::u64_at(&bytes, at + 8))
    };
    for n in 1..10 {
        let before = counters();
        let _ = store.persist(&batch(n, state(1, 0, 0), vec![entry(n, 1, 9)])).unwrap();
        store.write_mark().unwrap();
        let after = counters();
        assert_eq!(after.iter().max(), before.iter().max().map(|counter| counter + 1).as_ref());
        assert_eq!(after.iter().min(), before.iter().max());
    }
}
