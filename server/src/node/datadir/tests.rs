//! What a start finds in a folder, and what it says about it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use super::*;
use crate::types::{ClusterId, MemberId};

fn identity() -> Identity {
    Identity::new(ClusterId(0xc1), MemberId(0xa2), 0x1234_5678_9abc_def0)
}

fn found(path: &Path) -> DataDir {
    match DataDir::open(path).unwrap() {
        Opened::Fresh(fresh) => fresh.found(identity()).unwrap(),
        Opened::Existing(dir) => panic!("somebody's already: {dir:?}"),
    }
}

fn existing(path: &Path) -> DataDir {
    match DataDir::open(path).unwrap() {
        Opened::Existing(dir) => dir,
        Opened::Fresh(_) => panic!("the member is gone"),
    }
}

fn refusal(path: &Path) -> String {
    let before = names(path);
    let text = DataDir::open(path).unwrap_err().to_string();
    assert_eq!(names(path), before, "a refused folder was changed");
    text
}

fn names(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_member_comes_back_as_itself() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("deep/down/data");
    let mut dir = found(&path);
    assert_eq!(names(&path), ["archive", "identity", "kv", "log"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!((dir.loose_permissions(), dir.log_options().must_exist), (None, false));
    drop(dir);
    fs::remove_dir(path.join("kv")).unwrap();
    dir = existing(&path);
    assert!(!dir.identity().initialised && dir.kv_dir().is_dir(), "a founding that was cut short is finished");
    dir.mark_initialised().unwrap();
    drop(dir);
    let dir = existing(&path);
    assert_eq!(*dir.identity(), Identity { initialised: true, ..identity() });
    assert_eq!((dir.log_options().must_exist, dir.log_options().log_id), (true, identity().incarnation));
    drop(dir);
    fs::remove_dir(path.join("log")).unwrap();
    assert!(refusal(&path).contains("`log` is missing although this member has already run"));
}

#[test]
fn a_second_process_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = found(temp.path());
    assert!(refusal(temp.path()).ends_with("is already in use by another process"));
    drop(dir);
    drop(existing(temp.path()));
}

#[test]
fn a_folder_that_is_not_ours_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("lost+found")).unwrap();
    fs::write(temp.path().join("identity.new"), "half").unwrap();
    assert!(matches!(DataDir::open(temp.path()).unwrap(), Opened::Fresh(_)), "an unfinished founding counts as empty");
    fs::write(temp.path().join("thesis.tex"), "years of work").unwrap();
    assert!(refusal(temp.path()).contains("it holds `thesis.tex`"));
    fs::create_dir(temp.path().join("member")).unwrap();
    assert!(refusal(temp.path()).contains("belongs to an etcd member"));
    assert!(refusal(&temp.path().join("thesis.tex")).ends_with("is not a folder"));
}

#[test]
fn a_loose_folder_is_reported() {
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(found(temp.path()).loose_permissions(), Some(0o750));
}

#[test]
fn a_damaged_identity_is_not_believed() {
    let temp = tempfile::tempdir().unwrap();
    drop(found(temp.path()));
    let file = temp.path().join("identity");
    let good = fs::read(&file).unwrap();
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 1 << (place % 8);
        fs::write(&file, &bad).unwrap();
        let text = refusal(temp.path());
        assert!(text.contains("identity file is damaged") || text.contains("has format"), "{place}: {text}");
    }
    for len in [0, 1, 20, good.len() - 1] {
        fs::write(&file, &good[..len]).unwrap();
        assert!(refusal(temp.path()).contains("identity file is damaged"));
    }
    fs::write(&file, "conclave-data 2 00000000\nsomething else").unwrap();
    assert!(refusal(temp.path()).contains("has format 2; this version reads up to 1"));
}

/// What version 0.1 wrote must stay readable for ever.
#[test]
fn golden_identity() {
    let temp = tempfile::tempdir().unwrap();
    let io = RealIo::new(temp.path());
    let written = Identity { created_by: "0.1.0".to_owned(), ..identity() };
    write_identity(&io, &written).unwrap();
    let golden = include_str!("golden/identity");
    assert_eq!(fs::read_to_string(temp.path().join("identity")).unwrap(), golden);
    assert_eq!(read_identity(&io).unwrap(), Some(written));
}

#[test]
fn peers_are_remembered() {
    let temp = tempfile::tempdir().unwrap();
    let dir = found(temp.path());
    let mut known = dir.known_peers().unwrap();
    assert_eq!(known.get(MemberId(7)), None);
    known.remember(MemberId(7), 0xabc).unwrap();
    known.remember(MemberId(0xffff_ffff_ffff_fff0), u64::MAX).unwrap();
    known.remember(MemberId(7), 0xabc).unwrap();
    fs::write(temp.path().join("known-peers.new"), "half").unwrap();
    let mut again = dir.known_peers().unwrap();
    assert_eq!((again.get(MemberId(7)), again.get(MemberId(8))), (Some(0xabc), None));
    again.remember(MemberId(8), 1).unwrap();
    drop(dir);
    assert_eq!(existing(temp.path()).known_peers().unwrap().get(MemberId(8)), Some(1));
    let golden = include_str!("golden/known-peers");
    assert_eq!(fs::read_to_string(temp.path().join("known-peers")).unwrap(), golden);
}

#[test]
#[should_panic(expected = "an incarnation is never replaced")]
fn an_incarnation_is_never_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let mut known = found(temp.path()).known_peers().unwrap();
    known.remember(MemberId(7), 1).unwrap();
    let _ = known.remember(MemberId(7), 2);
}

#[test]
fn damaged_peers_are_not_believed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = found(temp.path());
    dir.known_peers().unwrap().remember(MemberId(7), 0xabc).unwrap();
    let file = temp.path().join("known-peers");
    let good = fs::read(&file).unwrap();
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 1 << (place % 8);
        fs::write(&file, &bad).unwrap();
        let text = dir.known_peers().unwrap_err().to_string();
        assert!(text.contains("`known-peers` is damaged") || text.contains("has format"), "{place}: {text}");
    }
}
