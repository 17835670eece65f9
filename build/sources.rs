//! The kernel sources of one folder: every `.cu` file is a module, everything else beside them is a header.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// One `.cu` file.
pub(crate) struct Source {
    /// The module's name: the file's stem.
    pub(crate) name: String,
    /// Where the file lies, relative to the package.
    pub(crate) path: PathBuf,
    /// Changes when the file or any header beside it changes.
    pub(crate) fingerprint: u64,
    /// Bytes of the file.
    pub(crate) length: u64,
}

/// All `.cu` files of a folder, by name.
pub(crate) struct Sources {
    /// The folder, which is also the include path.
    pub(crate) folder: PathBuf,
    /// The modules in ascending order of their names.
    pub(crate) modules: Vec<Source>,
    /// Changes when a header changes, also one of the other folder that these include.
    pub(crate) headers: u64,
}

impl Sources {
    /// Reads the folder; fails when it cannot be read or when a file's stem is no C identifier.
    pub(crate) fn read(folder: impl AsRef<Path>) -> Result<Self, String> {
        Self::read_upon(folder, 0)
    }

    /// As [`Self::read`], for a folder whose headers include some of `others`.
    pub(crate) fn read_on_top_of(folder: impl AsRef<Path>, others: &Self) -> Result<Self, String> {
        Self::read_upon(folder, others.headers)
    }

    fn read_upon(folder: impl AsRef<Path>, included: u64) -> Result<Self, String> {
        let folder = folder.as_ref().to_path_buf();
        let failed = |path: &Path, error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
        let mut paths = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|error| failed(&folder, error))? {
            paths.push(entry.map_err(|error| failed(&folder, error))?.path());
        }
        paths.sort();

        let extension = |path: &Path| path.extension().and_then(|e| e.to_str()).unwrap_or("").to_owned();
        let mut headers = DefaultHasher::new();
        included.hash(&mut headers);
        for path in paths.iter().filter(|path| matches!(extension(path).as_str(), "h" | "cuh")) {
            path.hash(&mut headers);
            fs::read(path).map_err(|error| failed(path, error))?.hash(&mut headers);
        }
        let headers = headers.finish();

        let mut modules = Vec::new();
        for path in paths.into_iter().filter(|path| extension(path) == "cu") {
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("").to_owned();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
                return Err(format!(
                    "`{}`: a kernel file's name is lower-case letters, digits and `_`",
                    path.display()
                ));
            }
            let mut hasher = DefaultHasher::new();
            headers.hash(&mut hasher);
            let text = fs::read(&path).map_err(|error| failed(&path, error))?;
            text.hash(&mut hasher);
            modules.push(Source { name, path, fingerprint: hasher.finish(), length: text.len() as u64 });
        }
        Ok(Self { folder, modules, headers })
    }
}
