//! The file `identity`: a first line `conclave-data FORMAT CRC32C`, then JSON for people and tools to read.
//!
//! The checksum covers the first line up to it and everything behind it. The format number covers the whole data folder
//! and is read before anything else, so that an older version stops before it misreads a newer layout.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

use super::DataDirError;
use crate::{
    node::log::LogIo,
    types::{ClusterId, MemberId},
};

const FILE: &str = "identity";
/// Never read: what a crash leaves while the file is being written.
pub(super) const NEW_FILE: &str = "identity.new";
const WORD: &str = "conclave-data";
/// Format of the data folder that this version writes; it reads this one only, as there was none before it.
const FORMAT: u32 = 1;
/// More than any identity needs; a longer file is not ours.
const MAX_LEN: u64 = 64 * 1024;

/// Who a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// Drawn at random when the folder is founded. Files that carry another one come from another life or member.
    pub incarnation: u64,
    /// The version that founded the folder; for people.
    pub created_by: String,
    /// Log and state exist.
    pub initialised: bool,
}

impl Identity {
    /// A member that is about to be founded by this version.
    #[must_use]
    pub fn new(cluster: ClusterId, member: MemberId, incarnation: u64) -> Self {
        let created_by = env!("CARGO_PKG_VERSION").to_owned();
        Self { cluster, member, incarnation, created_by, initialised: false }
    }
}

/// Ids in hexadecimal, as etcd's tools print them.
#[derive(Serialize, Deserialize)]
struct Stored {
    cluster_id: String,
    member_id: String,
    incarnation: String,
    created_by: String,
    initialised: bool,
}

/// What is wrong with the file, before it is known where it lies.
#[derive(Debug)]
pub enum IdentityError {
    Failed(&'static str, io::Error),
    Newer(u32),
    Corrupt(String),
    CorruptPeers(String),
}

impl IdentityError {
    pub(super) fn at(self, path: &Path) -> DataDirError {
        let path = path.to_owned();
        match self {
            Self::Failed(action, source) => DataDirError::Failed { path, action, source },
            Self::Newer(found) => DataDirError::NewerFormat { path, found, known: FORMAT },
            Self::Corrupt(detail) => DataDirError::Corrupt { path, detail },
            Self::CorruptPeers(detail) => DataDirError::CorruptPeers { path, detail },
        }
    }
}

/// The identity in a folder; `None` if there is none.
///
/// # Errors
/// If there is one that cannot be read or believed.
pub fn read_identity(io: &impl LogIo) -> Result<Option<Identity>, IdentityError> {
    let failed = |action| move |source| IdentityError::Failed(action, source);
    if !io.list().map_err(failed("list it"))?.iter().any(|name| name == FILE) {
        return Ok(None);
    }
    let file = io.open(FILE).map_err(failed("open its identity file"))?;
    let len = io.len(&file).map_err(failed("read its identity file"))?;
    if len > MAX_LEN {
        return Err(IdentityError::Corrupt(format!("{len} bytes are too many")));
    }
    let mut bytes = vec![0; usize::try_from(len).expect("checked above")];
    io.read_at(&file, 0, &mut bytes).map_err(failed("read its identity file"))?;
    decode(&bytes).map(Some)
}

/// Puts the identity in place at once and durably: after a crash there is either the old one or the new one.
///
/// # Errors
/// If a file operation failed; then nothing may rely on the identity, and the process stops.
pub fn write_identity(io: &impl LogIo, identity: &Identity) -> Result<(), IdentityError> {
    let failed = |action| move |source| IdentityError::Failed(action, source);
    if io.list().map_err(failed("list it"))?.iter().any(|name| name == NEW_FILE) {
        io.unlink(NEW_FILE).map_err(failed("remove an unfinished identity file"))?;
    }
    let file = io.create(NEW_FILE).map_err(failed("create its identity file"))?;
    io.write_at(&file, 0, &encode(identity)).map_err(failed("write its identity file"))?;
    io.sync_data(&file).map_err(failed("sync its identity file"))?;
    io.rename(NEW_FILE, FILE).map_err(failed("rename its identity file"))?;
    io.sync_dir().map_err(failed("sync it"))
}

fn encode(identity: &Identity) -> Vec<u8> {
    let stored = Stored {
        cluster_id: format!("{:x}", identity.cluster.0),
        member_id: format!("{:x}", identity.member.0),
        incarnation: format!("{:x}", identity.incarnation),
        created_by: identity.created_by.clone(),
        initialised: identity.initialised,
    };
    let mut body = serde_json::to_string_pretty(&stored).expect("strings and a flag always have a JSON form");
    body.push('\n');
    let head = format!("{WORD} {FORMAT}");
    format!("{head} {:08x}\n{body}", checksum(&head, &body)).into_bytes()
}

fn decode(bytes: &[u8]) -> Result<Identity, IdentityError> {
    let corrupt = |detail: &str| IdentityError::Corrupt(detail.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| corrupt("it is not text"))?;
    let (line, body) = text.split_once('\n').ok_or_else(|| corrupt("it has one line only"))?;
    let words: Vec<_> = line.split(' ').collect();
    let &[WORD, format, crc] = &words[..] else { return Err(corrupt("its first line is not ours")) };
    let number: u32 = format.parse().map_err(|_| corrupt("its format is not a number"))?;
    if number > FORMAT {
        return Err(IdentityError::Newer(number));
    }
    if crc != format!("{:08x}", checksum(&format!("{WORD} {format}"), body)) {
        return Err(corrupt("its checksum does not fit; it must not be edited by hand"));
    }
    let stored: Stored = serde_json::from_str(body).map_err(|error| corrupt(&error.to_string()))?;
    let hex = |text: &str| u64::from_str_radix(text, 16).map_err(|_| corrupt("an id is not hexadecimal"));
    Ok(Identity {
        cluster: ClusterId(hex(&stored.cluster_id)?),
        member: MemberId(hex(&stored.member_id)?),
        incarnation: hex(&stored.incarnation)?,
        created_by: stored.created_by,
        initialised: stored.initialised,
    })
}

pub(super) fn checksum(head: &str, body: &str) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head.as_bytes()), body.as_bytes())
}
