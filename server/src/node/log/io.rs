//! The file operations that the log is allowed to use. A trait, because two disks exist: the machine's, here, and the
//! simulated one of the test crate, which loses and tears whatever was not synced.
//!
//! Every call is one step at which a machine can die; the torture tests crash at each of them. So the list is short and
//! nothing else in this room touches a file.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Byte-level access to the files of **one** folder; names are plain file names in it.
pub trait LogIo: Send + Sync + 'static {
    type File: Send + Sync + 'static;

    /// Names of the regular files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a new, empty file; an existing one is an error.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;

    fn len(&self, file: &Self::File) -> io::Result<u64>;
    /// Fills the whole buffer, or fails.
    fn read_at(&self, file: &Self::File, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes the whole buffer, or fails; the file grows when needed. Durable only after [`LogIo::sync_data`].
    fn write_at(&self, file: &Self::File, offset: u64, buf: &[u8]) -> io::Result<()>;
    /// Makes the file's bytes, and its length as far as reading them back needs it, durable. A failure is final: the
    /// kernel may have dropped the dirty pages and would report success the next time, so nobody may call it again.
    fn sync_data(&self, file: &Self::File) -> io::Result<()>;
}

/// A folder on the machine's disk.
#[derive(Debug)]
pub struct RealIo {
    dir: PathBuf,
}

impl RealIo {
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }
}

/// The log holds everything that clients wrote, so only the member's own user may read it.
const FILE_MODE: u32 = 0o600;

impl LogIo for RealIo {
    type File = File;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(self.dir.join(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.dir.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(File::open(&self.dir)?)?)
    }

    fn len(&self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn read_at(&self, file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        file.read_exact_at(buf, offset)
    }

    fn write_at(&self, file: &File, offset: u64, buf: &[u8]) -> io::Result<()> {
        file.write_all_at(buf, offset)
    }

    /// Calls the kernel once: the standard library's own call would try again when interrupted.
    fn sync_data(&self, file: &File) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(file)?)
    }
}
