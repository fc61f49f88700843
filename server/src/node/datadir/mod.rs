//! The member's data folder: whose it is, what lies where, and that only one process uses it.
//!
//! ```text
//! DATA/identity    who this member is; written first, before anything else is made
//! DATA/known-peers under which incarnation it knows the other members
//! DATA/log/        the raft log (room `log`)
//! DATA/kv/         the state (room `engine`)
//! DATA/archive/    a state on its way here (`node::Staging`)
//! ```
//!
//! # Invariants
//! - *One process at a time.* The folder itself is locked with `flock` as long as [`DataDir`] or [`FreshDir`] lives; the
//!   kernel lets go when the process dies (`a_second_process_is_refused`).
//! - *A folder that is not ours is not touched.* Without an identity only an empty one is taken, where an identity that
//!   was never finished counts as empty (`a_folder_that_is_not_ours_is_left_alone`).
//! - *A member is itself or nobody.* The identity is durable before the first raft write, and once the log exists it
//!   says so; a log that is missing later is then a loss and never a fresh start (`crash_at_every_call_of_the_identity`
//!   in the test crate).
//!
//! - *Who was let in once is never taken for another.* The incarnation of a peer is durable before the first message of
//!   it is let through, and is never replaced (`peers_are_remembered`, assert in [`KnownPeers::remember`]).
//!
//! # Life of a first start
//! 1. [`DataDir::open`] makes the folder (mode 0700), locks it and finds it empty: [`Opened::Fresh`].
//! 2. The caller decides ids, draws the incarnation at random, and calls [`FreshDir::found`].
//! 3. The log and the state are made. Up to here a crash leaves an identity that is not `initialised`, and the next
//!    start finishes what is missing.
//! 4. [`DataDir::mark_initialised`]. From now on nothing may be missing.
//!
//! # Not here
//! What is in `log/` and `kv/`; whether the identity fits the configured cluster (`node`).

mod identity;
mod known;

#[cfg(test)]
mod tests;

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, FlockOperation};

use super::log::{LogOptions, RealIo};

pub use identity::{Identity, IdentityError, read_identity, write_identity};
pub use known::KnownPeers;

/// Only the member's own user may look inside: the folder holds every client's data and, hashed, their passwords.
const MODE: u32 = 0o700;
const LOG: &str = "log";
const KV: &str = "kv";
const ARCHIVE: &str = "archive";
/// How a folder answers that this program cannot have made another one in.
const NOT_OURS_TO_SYNC: [io::ErrorKind; 4] = [
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::ReadOnlyFilesystem,
    io::ErrorKind::InvalidInput,
    io::ErrorKind::Unsupported,
];
/// What a file system puts into the root of a fresh volume.
const IGNORED: &str = "lost+found";

/// Why a data folder was not opened. It was left as it is.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("data folder {path}: cannot {action}: {source}")]
    Failed { path: PathBuf, action: &'static str, source: io::Error },
    #[error("data folder {0} is not a folder")]
    NotAFolder(PathBuf),
    #[error("data folder {0} is already in use by another process")]
    Locked(PathBuf),
    #[error(
        "data folder {0} belongs to an etcd member (it holds `member/`). It was not touched. Give this member an empty \
         folder with --data-dir"
    )]
    Etcd(PathBuf),
    #[error(
        "data folder {path} is not empty and not a Conclave data folder (it holds `{found}`, and no `identity`). It was \
         not touched. Give this member an empty folder with --data-dir"
    )]
    NotOurs { path: PathBuf, found: String },
    #[error(
        "data folder {path} has format {found}; this version reads up to {known}. Start the version that wrote it, or a \
         newer one"
    )]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error(
        "data folder {path}: the identity file is damaged ({detail}). Restore it from a backup of the folder, or remove \
         this member from its cluster and add it again with an empty folder"
    )]
    Corrupt { path: PathBuf, detail: String },
    #[error(
        "data folder {path}: the file `known-peers` is damaged ({detail}). It says under which incarnation the other \
         members are known, and a member that lost its folder is found out by it. Restore it from a backup of the \
         folder, or remove this member from its cluster and add it again with an empty folder"
    )]
    CorruptPeers { path: PathBuf, detail: String },
    #[error(
        "data folder {path}: `{missing}` is missing although this member has already run. Restore the folder, or remove \
         this member from its cluster and add it again with an empty folder"
    )]
    Incomplete { path: PathBuf, missing: &'static str },
}

/// What was found.
#[derive(Debug)]
pub enum Opened {
    /// Nobody's yet.
    Fresh(FreshDir),
    Existing(DataDir),
}

/// A locked, empty folder.
#[derive(Debug)]
pub struct FreshDir {
    folder: Folder,
}

/// A locked folder with a member in it.
#[derive(Debug)]
pub struct DataDir {
    folder: Folder,
    identity: Identity,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    io: RealIo,
    /// Permission bits, if others than the owner may look inside.
    loose: Option<u32>,
    /// The folder itself; holds the lock while it is open.
    lock: File,
}

impl DataDir {
    /// Makes the folder if there is none, locks it and finds out whose it is.
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub fn open(path: &Path) -> Result<Opened, DataDirError> {
        let folder = Folder::open(path)?;
        match read_identity(&folder.io).map_err(|error| error.at(path))? {
            Some(identity) => {
                let dir = Self { folder, identity };
                dir.make_parts()?;
                Ok(Opened::Existing(dir))
            }
            None => {
                folder.must_be_empty()?;
                Ok(Opened::Fresh(FreshDir { folder }))
            }
        }
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.folder.path.join(LOG)
    }

    #[must_use]
    pub fn kv_dir(&self) -> PathBuf {
        self.folder.path.join(KV)
    }

    #[must_use]
    pub fn archive_dir(&self) -> PathBuf {
        self.folder.path.join(ARCHIVE)
    }

    /// How the raft log of this member has to be opened, with segments of the usual size.
    #[must_use]
    pub fn log_options(&self) -> LogOptions {
        LogOptions {
            segment_bytes: LogOptions::SEGMENT_BYTES,
            log_id: self.identity.incarnation,
            must_exist: self.identity.initialised,
        }
    }

    /// Permission bits that let others than the owner in: worth a warning, and no more, because volumes of container
    /// platforms come with group permissions that a member cannot change.
    #[must_use]
    pub fn loose_permissions(&self) -> Option<u32> {
        self.folder.loose
    }

    /// The incarnations of other members that this one remembers.
    ///
    /// # Errors
    /// If the file cannot be read or believed.
    pub fn known_peers(&self) -> Result<KnownPeers<RealIo>, DataDirError> {
        KnownPeers::open(RealIo::new(&self.folder.path)).map_err(|error| error.at(&self.folder.path))
    }

    /// Notes durably that log and state exist, so that their absence is a loss from now on. Does nothing the second
    /// time.
    ///
    /// # Errors
    /// [`DataDirError::Failed`] if the file cannot be written.
    pub fn mark_initialised(&mut self) -> Result<(), DataDirError> {
        if self.identity.initialised {
            return Ok(());
        }
        self.identity.initialised = true;
        write_identity(&self.folder.io, &self.identity).map_err(|error| error.at(&self.folder.path))
    }

    /// Makes `log/` and `kv/` while the member is being founded; later their absence is an error.
    fn make_parts(&self) -> Result<(), DataDirError> {
        for (name, path) in [(LOG, self.log_dir()), (KV, self.kv_dir())] {
            if path.is_dir() {
                continue;
            }
            if self.identity.initialised {
                return Err(DataDirError::Incomplete { path: self.folder.path.clone(), missing: name });
            }
            DirBuilder::new().mode(MODE).create(&path).map_err(|e| self.folder.failed("make its parts", e))?;
        }
        // Empty most of the time, and made anew when it is gone: nothing in it is a promise but what the log shows.
        if !self.archive_dir().is_dir() {
            let path = self.archive_dir();
            DirBuilder::new().mode(MODE).create(&path).map_err(|e| self.folder.failed("make its parts", e))?;
        }
        self.folder.sync()
    }
}

impl FreshDir {
    /// Makes the folder this member's, durably.
    ///
    /// # Errors
    /// [`DataDirError::Failed`] if a file or folder cannot be made.
    pub fn found(self, identity: Identity) -> Result<DataDir, DataDirError> {
        self.folder.sync_above()?;
        write_identity(&self.folder.io, &identity).map_err(|error| error.at(&self.folder.path))?;
        let dir = DataDir { folder: self.folder, identity };
        dir.make_parts()?;
        Ok(dir)
    }
}

impl Folder {
    fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |action| move |source| DataDirError::Failed { path: path.to_owned(), action, source };
        match std::fs::metadata(path) {
            Ok(meta) if !meta.is_dir() => return Err(DataDirError::NotAFolder(path.to_owned())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(MODE).create(path).map_err(failed("create it"))?;
            }
            Err(error) => return Err(failed("look at it")(error)),
        }
        let lock = File::open(path).map_err(failed("open it"))?;
        rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|errno| failed("read and write it")(errno.into()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DataDirError::Locked(path.to_owned())),
            Err(errno) => return Err(failed("lock it")(errno.into())),
        }
        let mode = lock.metadata().map_err(failed("look at it"))?.permissions().mode() & 0o777;
        let loose = (mode & 0o077 != 0).then_some(mode);
        Ok(Self { path: path.to_owned(), io: RealIo::new(path), loose, lock })
    }

    fn must_be_empty(&self) -> Result<(), DataDirError> {
        let entries = std::fs::read_dir(&self.path).map_err(|error| self.failed("list it", error))?;
        let mut names = Vec::new();
        for entry in entries {
            names
                .push(entry.map_err(|error| self.failed("list it", error))?.file_name().to_string_lossy().into_owned());
        }
        if names.iter().any(|name| name == "member") {
            return Err(DataDirError::Etcd(self.path.clone()));
        }
        match names.into_iter().filter(|name| name != IGNORED && name != identity::NEW_FILE).min() {
            Some(found) => Err(DataDirError::NotOurs { path: self.path.clone(), found }),
            None => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), DataDirError> {
        self.lock.sync_all().map_err(|error| self.failed("sync it", error))
    }

    /// Makes the way to the folder durable, or after a crash it could be gone with every vote that was given in it, and
    /// the member would start afresh. An earlier start that was cut short may have made any part of the way, so all of
    /// it is synced; what this user may not open, or cannot be written, was not made by this program.
    fn sync_above(&self) -> Result<(), DataDirError> {
        let path = self.path.canonicalize().map_err(|error| self.failed("find it", error))?;
        for above in path.ancestors().skip(1) {
            match File::open(above).and_then(|dir| dir.sync_all()) {
                Ok(()) => {}
                Err(error) if NOT_OURS_TO_SYNC.contains(&error.kind()) => {}
                Err(error) => return Err(self.failed("sync the folders above it", error)),
            }
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, source: io::Error) -> DataDirError {
        DataDirError::Failed { path: self.path.clone(), action, source }
    }
}
