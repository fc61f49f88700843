//! Whether files of a folder can be written past the kernel's page cache.

use std::{fs::File, path::Path};

use rustix::fs::{Mode, OFlags};

/// What direct writes are aligned to: no disk or file system asks for more.
const ALIGNMENT: usize = 4096;

/// Tries it with one block. A file system may refuse to open a file so (tmpfs of older kernels), or refuse the write.
///
/// The file has no name, so a crash leaves nothing behind; where such files do not exist the answer is no.
pub(super) fn works(folder: &Path) -> bool {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) else { return false };
    let block = vec![0; 2 * ALIGNMENT];
    let start = block.as_ptr().align_offset(ALIGNMENT);
    let written = block.get(start..start + ALIGNMENT).map(|aligned| rustix::io::pwrite(File::from(file), aligned, 0));
    matches!(written, Some(Ok(ALIGNMENT)))
}
