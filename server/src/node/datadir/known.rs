//! The file `known-peers`: under which incarnation this member knows each other one. A first line
//! `conclave-known-peers FORMAT CRC32C`, then JSON for people and tools to read.
//!
//! A member that comes back with another incarnation has lost its folder, and with it every vote and acknowledgement that
//! it gave. Whoever it gave them to has its old incarnation in this file, durably, since before the first of them was let
//! through; so it is found out by everybody it could deceive.

use std::{collections::BTreeMap, io};

use serde::{Deserialize, Serialize};

use super::IdentityError;
use crate::{node::log::LogIo, types::MemberId};

const FILE: &str = "known-peers";
/// Never read: what a crash leaves while the file is being written.
const NEW_FILE: &str = "known-peers.new";
const WORD: &str = "conclave-known-peers";
const FORMAT: u32 = 1;
/// Far more members than raft can serve; what would make the file longer is refused.
const MAX_PEERS: usize = 1024;
/// A peer takes about 50 bytes.
const MAX_LEN: u64 = 256 * 1024;

/// What is remembered; each change is on disk before it counts.
#[derive(Debug)]
pub struct KnownPeers<Io: LogIo> {
    io: Io,
    peers: BTreeMap<MemberId, u64>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    /// Both in hexadecimal.
    incarnations: BTreeMap<String, String>,
}

impl<Io: LogIo> KnownPeers<Io> {
    /// What the folder remembers; nothing if it has no such file.
    ///
    /// # Errors
    /// If there is a file that cannot be read or believed.
    pub fn open(io: Io) -> Result<Self, IdentityError> {
        let failed = |action| move |source| IdentityError::Failed(action, source);
        let names = io.list().map_err(failed("list it"))?;
        if !names.iter().any(|name| name == FILE) {
            return Ok(Self { io, peers: BTreeMap::new() });
        }
        let file = io.open(FILE).map_err(failed("open its file of known peers"))?;
        let len = io.len(&file).map_err(failed("read its file of known peers"))?;
        if len > MAX_LEN {
            return Err(IdentityError::CorruptPeers(format!("{len} bytes are too many")));
        }
        let mut bytes = vec![0; usize::try_from(len).expect("checked above")];
        io.read_at(&file, 0, &mut bytes).map_err(failed("read its file of known peers"))?;
        Ok(Self { io, peers: decode(&bytes)? })
    }

    /// The incarnation under which a member is known.
    #[must_use]
    pub fn get(&self, member: MemberId) -> Option<u64> {
        self.peers.get(&member).copied()
    }

    /// Remembers a member that was not known, durably before it comes back.
    ///
    /// # Errors
    /// If it cannot be written; then it is not remembered, and nothing of that member may be let through.
    ///
    /// # Panics
    /// If the member is known under another incarnation: that is never forgotten.
    pub fn remember(&mut self, member: MemberId, incarnation: u64) -> io::Result<()> {
        match self.peers.get(&member) {
            Some(known) => {
                assert_eq!(*known, incarnation, "an incarnation is never replaced");
                return Ok(());
            }
            None if self.peers.len() >= MAX_PEERS => return Err(io::ErrorKind::StorageFull.into()),
            None => {}
        }
        let mut peers = self.peers.clone();
        peers.insert(member, incarnation);
        self.write(&encode(&peers))?;
        self.peers = peers;
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        if self.io.list()?.iter().any(|name| name == NEW_FILE) {
            self.io.unlink(NEW_FILE)?;
        }
        let file = self.io.create(NEW_FILE)?;
        self.io.write_at(&file, 0, bytes)?;
        self.io.sync_data(&file)?;
        self.io.rename(NEW_FILE, FILE)?;
        self.io.sync_dir()
    }
}

fn encode(peers: &BTreeMap<MemberId, u64>) -> Vec<u8> {
    let hex = |(member, incarnation): (&MemberId, &u64)| (format!("{:x}", member.0), format!("{incarnation:x}"));
    let stored = Stored { incarnations: peers.iter().map(hex).collect() };
    let mut body = serde_json::to_string_pretty(&stored).expect("a map of strings always has a JSON form");
    body.push('\n');
    let head = format!("{WORD} {FORMAT}");
    format!("{head} {:08x}\n{body}", super::identity::checksum(&head, &body)).into_bytes()
}

fn decode(bytes: &[u8]) -> Result<BTreeMap<MemberId, u64>, IdentityError> {
    let corrupt = |detail: &str| IdentityError::CorruptPeers(detail.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| corrupt("it is not text"))?;
    let (line, body) = text.split_once('\n').ok_or_else(|| corrupt("it has one line only"))?;
    let words: Vec<_> = line.split(' ').collect();
    let &[WORD, format, crc] = &words[..] else { return Err(corrupt("its first line is not ours")) };
    let number: u32 = format.parse().map_err(|_| corrupt("its format is not a number"))?;
    if number > FORMAT {
        return Err(IdentityError::Newer(number));
    }
    if crc != format!("{:08x}", super::identity::checksum(&format!("{WORD} {format}"), body)) {
        return Err(corrupt("its checksum does not fit; it must not be edited by hand"));
    }
    let stored: Stored = serde_json::from_str(body).map_err(|error| corrupt(&error.to_string()))?;
    let hex = |text: &str| u64::from_str_radix(text, 16).map_err(|_| corrupt("an id is not hexadecimal"));
    stored.incarnations.iter().map(|(member, known)| Ok((MemberId(hex(member)?), hex(known)?))).collect()
}
