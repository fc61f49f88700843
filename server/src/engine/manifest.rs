//! RocksDB's manifest (the list of its files), checked before RocksDB reads it.
//!
//! RocksDB takes a record that it cannot read for the end of the list, as if the process had died while it wrote there:
//! a damaged length in the middle silently takes the store back to an earlier flush. And a type byte that damage turned
//! into one of a recycled log sends its reader (11.8.1, `db/log_reader.cc`) round the same record for ever. So a record
//! that is unsound while sound ones follow, or that no write of RocksDB's can have left half, refuses the start here.
//!
//! The format is LevelDB's log format: blocks of 32 KiB, in them records of a masked CRC-32C over type and data, the
//! data's length in two bytes and the type in one, little-endian; no record crosses a block.

use std::{fs::File, io::Read, path::Path};

use super::OpenError;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;
/// What RocksDB adds to a rotated checksum (`util/crc32c.h`).
const MASK: u32 = 0xa282_ead8;
/// Whole, first, middle and last; a manifest has no others. 0 is what was allocated and not written.
const LAST_TYPE: u8 = 4;

/// Refuses a store whose list of files is damaged. What is missing altogether is for RocksDB to say.
pub(super) fn check(folder: &Path) -> Result<(), OpenError> {
    let Ok(current) = std::fs::read_to_string(folder.join("CURRENT")) else { return Ok(()) };
    let path = folder.join(current.trim_end());
    let Ok(mut file) = File::open(&path) else { return Ok(()) };
    let mut unsound = None;
    for number in 0.. {
        let mut block = Vec::with_capacity(BLOCK);
        let read = file.by_ref().take(BLOCK as u64).read_to_end(&mut block);
        read.map_err(|error| OpenError::Io(format!("{}: {error}", path.display())))?;
        if block.is_empty() {
            break;
        }
        let found = inspect(&block);
        let rotten = match found {
            Found::Rotten(at) => Some(at),
            // What is sound behind it was written later: it was sound once itself.
            _ if unsound.is_some() && sound_at(&block, 0).is_some() => unsound,
            _ => None,
        };
        if let Some(at) = rotten {
            let at = if unsound.is_some() { at } else { number * BLOCK + at };
            return Err(OpenError::corrupt(&path, format!("the record at byte {at} is damaged")));
        }
        if let (Found::Torn(at), None) = (found, unsound) {
            unsound = Some(number * BLOCK + at);
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Found {
    Sound,
    /// From here on nothing can be read, and that may be how a write ended.
    Torn(usize),
    Rotten(usize),
}

fn inspect(block: &[u8]) -> Found {
    let mut at = 0;
    while block.len() - at >= HEADER {
        match sound_at(block, at) {
            Some(length) => at += length,
            None if block[at + 6] > LAST_TYPE => return Found::Rotten(at),
            None if (at + 1..block.len()).any(|later| sound_at(block, later).is_some()) => return Found::Rotten(at),
            None => return Found::Torn(at),
        }
    }
    // What is left of a whole block is filler; of the last one, a head that was not finished.
    Found::Sound
}

/// The length of the record, head included, if it is sound.
fn sound_at(block: &[u8], at: usize) -> Option<usize> {
    let head = block.get(at..)?.first_chunk::<HEADER>()?;
    let masked = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let length = HEADER + usize::from(u16::from_le_bytes([head[4], head[5]]));
    let covered = block.get(at + HEADER - 1..at + length)?;
    let known = (1..=LAST_TYPE).contains(&head[6]);
    (known && masked.wrapping_sub(MASK).rotate_left(15) == crc32c::crc32c(covered)).then_some(length)
}
