//! Rot: what was synced is not what the disk gives back. Only below the log's mark, where a member can know; the loss of
//! what no mark names is not told from a torn tail, by design. The format is that of `docs/disk-format.md`.

use rand::{Rng, RngExt};

use super::{disk::SimDisk, member::FOLDER};

const MAGIC: &[u8] = b"CNCLVLOG";
/// Places in a segment: its generation, its two marks, its records; and the head of a record.
const GENERATION: usize = 24;
const MARKS: [usize; 2] = [4096, 8192];
const RECORDS: usize = 12288;
const RECORD_HEAD: usize = 44;

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Damages the newest segment below its mark: one bit, or everything from a record on. False: there is too little.
pub(super) fn damage(disk: &SimDisk, rng: &mut impl Rng) -> bool {
    let files = disk.files(FOLDER);
    let segments = files.iter().filter(|(_, bytes)| bytes.len() > RECORDS && bytes.starts_with(MAGIC));
    let Some((name, bytes)) = segments.max_by_key(|(_, bytes)| number(bytes, GENERATION)) else { return false };
    let generation = number(bytes, GENERATION);
    let marks = MARKS.iter().filter(|place| number(bytes, **place) == generation);
    let Some(mark) = marks.max_by_key(|place| number(bytes, **place + 8)) else { return false };
    let end = usize::try_from(number(bytes, mark + 16)).expect("within a file");
    let mut records = Vec::new();
    let mut at = RECORDS;
    while at + RECORD_HEAD < end.min(bytes.len()) {
        records.push(at);
        let body = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        at += RECORD_HEAD + body as usize;
    }
    if records.len() < 2 {
        return false;
    }
    let record = records[rng.random_range(1..records.len())];
    if rng.random() {
        disk.flip(FOLDER, name, record + RECORD_HEAD, 3);
    } else {
        disk.erase(FOLDER, name, record);
    }
    true
}
