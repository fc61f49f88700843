//! How the store says that it cannot be opened, or that this member cannot go on.

use std::fmt;

/// Exit code of a member that stopped because its store could not be read or written: `EX_IOERR` of `sysexits.h`.
pub const EXIT_STORE: i32 = 74;

const ADVICE_CORRUPT: &str = "What is on disk is not what was written: the disk, its controller or the memory of this \
     machine changed it. No answer was given from it and no file was changed. Copy the data folder away, then restore a \
     backup (single member), or remove this member from its cluster and add it again under a new id";

const ADVICE_SPACE: &str = "The disk is full. Nothing that was acknowledged is lost: free space or grow the volume, then \
     start this member again";

const ADVICE_IO: &str = "Nothing that was acknowledged is lost: the raft log holds what the store has not flushed. See the \
     kernel's log for the disk, then start this member again; if the error comes back, replace the disk, remove this \
     member from its cluster and add it again under a new id";

/// What cannot be opened, and why; the text says what to do. No file was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("store: {0}")]
    Locked(String),
    /// Files are damaged, missing or of another format.
    #[error("store: {0}")]
    Corrupt(String),
    /// The file system refused.
    #[error("store: {0}")]
    Io(String),
}

impl OpenError {
    pub(super) fn corrupt(path: &std::path::Path, error: impl fmt::Display) -> Self {
        Self::Corrupt(format!("{}: {error}. {ADVICE_CORRUPT}", path.display()))
    }

    /// Sorts what RocksDB answered. Its lock is told from other I/O errors by its text: it has no kind of its own.
    pub(super) fn new(path: &std::path::Path, error: &rocksdb::Error) -> Self {
        let text = error.to_string();
        match error.kind() {
            rocksdb::ErrorKind::IOError if text.contains("lock") && text.contains("LOCK") => Self::Locked(format!(
                "{}: the store is in use by another process ({text}). Stop that process, or give this one another --data-dir",
                path.display()
            )),
            rocksdb::ErrorKind::InvalidArgument if text.contains("Column families not opened") => {
                Self::Corrupt(format!(
                    "{}: a newer version wrote this folder ({text}). Start that version, or a later one",
                    path.display()
                ))
            }
            rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::InvalidArgument => Self::corrupt(path, text),
            _ => Self::Io(format!("{}: {text}. {}", path.display(), advice(error))),
        }
    }
}

fn advice(error: &rocksdb::Error) -> &'static str {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => ADVICE_CORRUPT,
        _ if error.to_string().contains("No space left") => ADVICE_SPACE,
        _ => ADVICE_IO,
    }
}

/// Stops this member: what it holds is not what it wrote, and whatever it would answer or build on it could be wrong.
/// Other rooms call it when a key or value of theirs does not decode.
#[cold]
pub fn fatal(context: &str, error: impl fmt::Display) -> ! {
    stop(&format!("store: {context}: {error}. {ADVICE_CORRUPT}"))
}

/// Stops this member because RocksDB failed. Final: after a failed write or sync it is unknown what is on disk, and only
/// a restart reads it back.
#[cold]
pub(super) fn failed(action: &str, error: &rocksdb::Error) -> ! {
    stop(&format!("store: cannot {action}: {error}. {}", advice(error)))
}

fn stop(text: &str) -> ! {
    tracing::error!("{text}");
    // A test sees the same stop as a panic, which it can catch and show.
    if cfg!(test) {
        panic!("{text}");
    }
    // The log may go elsewhere, or be filtered; this must reach whoever looks why the process ended.
    eprintln!("{text}");
    // At once: an exit would run RocksDB's destructors under threads that still use it.
    signal_hook::low_level::exit(EXIT_STORE)
}
