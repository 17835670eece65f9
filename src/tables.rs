//! Files of measured choices of products' kernels: where they lie, how they are read and written.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gridpoint_model::{MeasuredDevice, ProductTable, TableError};

/// Why a file of measured choices is not used.
#[derive(Debug, thiserror::Error)]
pub enum TableFileError {
    /// The operating system's reason.
    #[error("the table of products `{}` cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Larger than any table.
    #[error("the table of products `{}` is larger than {} bytes, the most that is read", path.display(), ProductTable::MOST_BYTES)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// What stands in it.
    #[error("`{}`: {error}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        error: TableError,
    },
}

impl TableFileError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The file of a device in the user's cache folder: `$XDG_CACHE_HOME/gridpoint` or `$HOME/.cache/gridpoint`. A variable that is empty or names
/// no absolute path counts as unset (XDG Base Directory Specification); `None` where both are.
#[must_use]
pub fn cache_file(device: &MeasuredDevice) -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    cache_file_in(folder("XDG_CACHE_HOME"), folder("HOME"), device)
}

fn cache_file_in(cache: Option<PathBuf>, home: Option<PathBuf>, device: &MeasuredDevice) -> Option<PathBuf> {
    let cache = cache.or_else(|| Some(home?.join(".cache")))?;
    Some(cache.join("gridpoint").join(ProductTable::file_name(device)))
}

/// Reads a table that was measured on a device.
///
/// # Errors
/// A file that cannot be read, is no table, or is one of another version or device.
pub fn read(path: &Path, device: &MeasuredDevice) -> Result<ProductTable, TableFileError> {
    let mut bytes = Vec::new();
    // Bounded, since the path may name a device that never ends.
    let read = File::open(path).and_then(|file| file.take(ProductTable::MOST_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|source| TableFileError::Unreadable { path: path.to_owned(), source })?;
    if bytes.len() as u64 > ProductTable::MOST_BYTES {
        return Err(TableFileError::TooLarge { path: path.to_owned() });
    }
    let refused = |error| TableFileError::Refused { path: path.to_owned(), error };
    let table = ProductTable::from_json(&bytes).map_err(refused)?;
    table.fits(device).map_err(refused)?;
    Ok(table)
}

/// Writes a table, and the folder that it lies in. Whoever reads meanwhile finds the old file or the new one.
///
/// # Errors
/// The operating system's.
pub fn write(path: &Path, table: &ProductTable) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.part", std::process::id()));
    let written = std::fs::write(&beside, table.to_json()).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // What could not be put in place is of no use; the first error is the one that counts.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_in_the_cache_folder_under_the_devices_name() {
        let name = "A Card".to_owned();
        let device = MeasuredDevice { name, compute_capability: (9, 0), multiprocessors: 132, driver_version: 13_000 };
        let file = format!("products-a-card-{}.json", env!("CARGO_PKG_VERSION"));
        let in_folders = |cache: Option<&str>, home: Option<&str>| {
            cache_file_in(cache.map(PathBuf::from), home.map(PathBuf::from), &device)
        };
        assert_eq!(in_folders(Some("/c"), Some("/h")), Some(Path::new("/c/gridpoint").join(&file)));
        assert_eq!(in_folders(None, Some("/h")), Some(Path::new("/h/.cache/gridpoint").join(&file)));
        assert_eq!(in_folders(None, None), None);
    }

    #[test]
    fn a_table_is_written_in_folders_that_are_not_there_yet() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/b/table.json");
        let name = "a card".to_owned();
        let device = MeasuredDevice { name, compute_capability: (8, 0), multiprocessors: 108, driver_version: 13_000 };
        assert!(read(&path, &device).is_err_and(|error| error.is_absent()));
        let table = ProductTable::new(device.clone());
        write(&path, &table).expect("it is written");
        assert_eq!(read(&path, &device).expect("it reads"), table);
        assert_eq!(std::fs::read_dir(folder.path().join("a/b")).expect("the folder").count(), 1, "no part is left");
        let other = MeasuredDevice { name: "b".to_owned(), ..device };
        let error = read(&path, &other).expect_err("another device").to_string();
        assert!(error.contains("table.json`: the table of products was measured on another device"), "{error}");
    }
}
