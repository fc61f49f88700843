//! What a disk does to files must end in a refusal or in the right answer, never in a wrong one.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use rand::{RngExt, SeedableRng};

use super::*;

/// Places that are damaged in each file. Tables of this test have few blocks, so many of them hit data.
const PLACES: usize = 16;

type Content = Vec<(Family, Vec<u8>, Vec<u8>)>;

/// Several tables of several families, with values that do not compress away. What was there at the start and after each
/// flush.
fn write_store(path: &Path) -> Vec<Content> {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let engine = Engine::open(path, &small()).unwrap();
    let mut flushed = vec![Content::new()];
    for round in 0..3_i64 {
        let mut batch = Batch::new(engine.view());
        for number in 0..400_i64 {
            let value: Vec<u8> = (0..100).map(|_| rng.random()).collect();
            let key = format!("key {number}");
            batch.put(&Key::Cur(key.as_bytes()), value.clone().into());
            batch.put(&log(round * 400 + number, 0), value.into());
            batch.put(&idx(key.as_bytes(), round * 400 + number, 0), Bytes::new());
        }
        batch.put(&Key::Meta(MetaKey::Applied), round.to_string().into());
        engine.write(batch);
        engine.flush();
        flushed.push(read_all(&engine));
    }
    flushed
}

/// By scans, and again by single reads, which take another way through the files.
fn read_all(engine: &Engine) -> Content {
    let view = engine.view();
    let mut content = Content::new();
    for family in Family::ALL {
        let mut cursor = view.scan(family, b"", None);
        while cursor.valid() {
            let key = Key::decode(family, cursor.key()).unwrap();
            let value = cursor.value().to_vec();
            assert_eq!(view.get(&key).as_deref(), Some(&value[..]), "a scan and a read agree");
            content.push((family, cursor.key().to_vec(), value));
            cursor.next();
        }
    }
    content
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let name = file.unwrap().file_name();
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

fn files(path: &Path, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| wanted(name)).collect();
    names.sort();
    names
}

#[derive(Debug, PartialEq)]
enum Outcome {
    /// At opening, or by ending the process while reading (a panic in tests).
    Refused,
    Same,
}

fn outcome(path: &Path, sound: &Content) -> Outcome {
    let Ok(engine) = Engine::open(path, &small()) else { return Outcome::Refused };
    let Ok(content) = catch_unwind(AssertUnwindSafe(|| read_all(&engine))) else { return Outcome::Refused };
    assert!(content == *sound, "a damaged store gave a wrong answer");
    Outcome::Same
}

#[test]
fn a_flipped_bit_in_a_table_is_never_served() {
    let folder = tempfile::tempdir().unwrap();
    let sound_path = folder.path().join("sound");
    let sound = write_store(&sound_path).pop().unwrap();
    let tables = files(&sound_path, |name| name.ends_with(".sst"));
    assert!(tables.len() >= 4, "the store must have tables: {tables:?}");
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let mut refused = 0;
    for table in &tables {
        for place in 0..PLACES {
            let path = folder.path().join(format!("{table}.{place}"));
            copy(&sound_path, &path);
            let mut bytes = fs::read(path.join(table)).unwrap();
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
            fs::write(path.join(table), bytes).unwrap();
            refused += usize::from(outcome(&path, &sound) == Outcome::Refused);
            fs::remove_dir_all(path).unwrap();
        }
    }
    let all = tables.len() * PLACES;
    assert!(refused * 2 > all, "most places hold data: {refused} of {all} refused");
}

/// Only in the last record is damage taken for the end of a write: the store is then what it was at the flush before,
/// in all families, and the log is applied again from there, or `node/recovery.rs` finds the hole between the two.
#[test]
fn a_flipped_bit_in_the_manifest_is_refused_or_takes_the_store_back_to_a_flush() {
    let folder = tempfile::tempdir().unwrap();
    let sound_path = folder.path().join("sound");
    let flushed = write_store(&sound_path);
    let manifest = files(&sound_path, |name| name.starts_with("MANIFEST")).pop().unwrap();
    let bytes = fs::read(sound_path.join(&manifest)).unwrap();
    let mut taken = 0;
    for at in (0..bytes.len()).step_by(23) {
        let path = folder.path().join(at.to_string());
        copy(&sound_path, &path);
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(path.join(&manifest), bytes).unwrap();
        if let Ok(engine) = Engine::open(&path, &small()) {
            taken += 1;
            let content = read_all(&engine);
            assert!(flushed.contains(&content), "byte {at}: this was never flushed");
            let applied = engine.persisted(MetaKey::Applied);
            assert_eq!(applied.as_deref(), engine.view().get(&Key::Meta(MetaKey::Applied)).as_deref());
        }
        fs::remove_dir_all(path).unwrap();
    }
    assert!(taken * 23 <= bytes.len() / 4, "{taken} places were taken for the end of a write");
}

/// RocksDB's reader goes round such a record for ever.
#[test]
fn a_manifest_with_a_type_of_a_recycled_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_store(folder.path());
    let manifest = folder.path().join(files(folder.path(), |name| name.starts_with("MANIFEST")).pop().unwrap());
    let mut bytes = fs::read(&manifest).unwrap();
    // The second record: the first one decides what kind of log this is.
    let at = 7 + usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
    assert_eq!(bytes[at + 6], 1, "a whole record");
    bytes[at + 6] = 5;
    fs::write(&manifest, bytes).unwrap();
    let error = Engine::open(folder.path(), &small()).err().expect("the list of files is damaged");
    assert!(matches!(&error, OpenError::Corrupt(text) if text.contains("damaged")), "{error}");
}

/// However a write of the list was cut short, the store opens with what was flushed before.
#[test]
fn a_manifest_that_was_cut_short_is_not_refused() {
    let folder = tempfile::tempdir().unwrap();
    let sound_path = folder.path().join("sound");
    let flushed = write_store(&sound_path);
    let manifest = files(&sound_path, |name| name.starts_with("MANIFEST")).pop().unwrap();
    let bytes = fs::read(sound_path.join(&manifest)).unwrap();
    let end = bytes.len();
    for cut in [end - 1, end - 10, end - 90] {
        let path = folder.path().join(cut.to_string());
        copy(&sound_path, &path);
        fs::write(path.join(&manifest), &bytes[..cut]).unwrap();
        let engine = Engine::open(&path, &small()).unwrap_or_else(|error| panic!("cut at {cut} of {end}: {error}"));
        assert!(flushed.contains(&read_all(&engine)));
    }
}

#[test]
fn a_table_that_is_short_or_missing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let sound_path = folder.path().join("sound");
    let sound = write_store(&sound_path).pop().unwrap();
    for (number, table) in files(&sound_path, |name| name.ends_with(".sst")).iter().enumerate() {
        let path = folder.path().join(number.to_string());
        copy(&sound_path, &path);
        if number % 2 == 0 {
            fs::remove_file(path.join(table)).unwrap();
        } else {
            let bytes = fs::read(path.join(table)).unwrap();
            fs::write(path.join(table), &bytes[..bytes.len() - 1]).unwrap();
        }
        assert_eq!(outcome(&path, &sound), Outcome::Refused, "{table}");
    }
}

#[test]
fn tables_without_their_head_are_not_swept_away() {
    let folder = tempfile::tempdir().unwrap();
    write_store(folder.path());
    fs::remove_file(folder.path().join("CURRENT")).unwrap();
    let before = files(folder.path(), |name| name.ends_with(".sst"));
    let error = Engine::open(folder.path(), &small()).err().expect("this is no new store");
    assert!(matches!(&error, OpenError::Corrupt(text) if text.contains("CURRENT")), "{error}");
    assert_eq!(files(folder.path(), |name| name.ends_with(".sst")), before);
}

#[test]
fn a_store_of_a_newer_version_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, folder.path(), ["cur", "unheard of"]).unwrap());
    let error = Engine::open(folder.path(), &small()).err().expect("it holds what this version does not know");
    assert!(matches!(&error, OpenError::Corrupt(text) if text.contains("newer version")), "{error}");
}

#[test]
fn a_folder_that_cannot_be_made_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = Engine::open(&file.join("kv"), &small()).err().expect("a file is no folder");
    assert!(matches!(&error, OpenError::Io(text) if text.contains("file/kv")), "{error}");
}
