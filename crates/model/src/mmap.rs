//! The one place of this crate that holds `unsafe`: mapping a weights file.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{ModelError, Result, regular_file};

/// Maps the regular file at `path`, read-only. The file must not be changed while the map lives; see
/// [`Checkpoint`](crate::Checkpoint).
#[expect(unsafe_code, reason = "memory maps are unsafe to make: another process could change the file")]
pub(crate) fn map(path: &Path, expected: &str) -> Result<Mmap> {
    regular_file(path, expected)?;
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the map is private to the checkpoint, only read, and read as plain bytes of which every pattern is valid;
    // that no other process changes the file meanwhile is the documented condition of `Checkpoint::open`.
    unsafe { Mmap::map(&file) }.map_err(io)
}
