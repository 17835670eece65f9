//! What compilers made, kept in the target folder for all profiles: `cargo clippy`, `doc`, `test` and `build --release` each run the build
//! script in a folder of their own, and compile the kernels once between them.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Mutex;
use std::thread;
use std::time::SystemTime;

/// Results of one name that are kept, the newest: as many kinds of builds may alternate without compiling anew.
const KEPT: usize = 4;

/// The kept results.
#[derive(Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// That of the target folder in which the build script's folder `out` lies, as `target/debug/build/PACKAGE/out`.
    pub(crate) fn around(out: &Path) -> Result<Self, String> {
        let builds = out.ancestors().find(|folder| folder.file_name() == Some(OsStr::new("build")));
        let target = builds.and_then(Path::parent).and_then(Path::parent).unwrap_or(out);
        let folder = target.join("compiled-kernels");
        fs::create_dir_all(&folder).map_err(|error| format!("cannot make `{}`: {error}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Where they lie.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts at `file` what `make` makes, which leaves it at the path that it answers, or what it made before under the same key. The key says
    /// everything that the result depends on.
    pub(crate) fn fill(
        &self,
        file: &Path,
        key: &impl Hash,
        make: impl FnOnce() -> Result<PathBuf, String>,
    ) -> Result<(), String> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let name = file.file_name().and_then(OsStr::to_str).unwrap_or("");
        let kept = self.folder.join(format!("{name}.{:016x}", hasher.finish()));
        if !kept.is_file() {
            let made = make()?;
            // Another build may look for it at the same time: it is there as a whole or not at all.
            let unfinished = kept.with_extension(format!("{}-unfinished", process::id()));
            fs::copy(&made, &unfinished)
                .and_then(|_| fs::rename(&unfinished, &kept))
                .map_err(|error| format!("cannot write `{}`: {error}", kept.display()))?;
            self.drop_old(name);
        }
        // A link to what is kept would be written through by a compiler that is told to write there.
        if file.exists() {
            fs::remove_file(file).map_err(|error| format!("cannot replace `{}`: {error}", file.display()))?;
        }
        fs::hard_link(&kept, file)
            .or_else(|_| fs::copy(&kept, file).map(drop))
            .map_err(|error| format!("cannot write `{}`: {error}", file.display()))
    }

    /// Drops all but the newest results of a name. What cannot be dropped stays: it harms nothing.
    fn drop_old(&self, name: &str) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut kept: Vec<(SystemTime, PathBuf)> = entries
            .filter(|entry| {
                let file = entry.file_name();
                let key = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('.'));
                key.is_some_and(|key| key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
            })
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        kept.sort();
        for (_, path) in kept.iter().rev().skip(KEPT) {
            let _ = fs::remove_file(path);
        }
    }
}

/// A file to make.
pub(crate) struct Job<'a> {
    /// The longest begin first: something that grows with the time it takes.
    pub(crate) weight: u64,
    /// Makes it.
    pub(crate) run: Box<dyn FnOnce() -> Result<(), String> + Send + 'a>,
}

/// Runs as many jobs at a time as cargo grants. The first failure in the order of the list is returned.
pub(crate) fn run(jobs: Vec<Job<'_>>) -> Result<(), String> {
    let threads = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1_usize);
    let threads = threads.clamp(1, jobs.len().max(1));
    let mut queue: Vec<_> = jobs.into_iter().enumerate().collect();
    queue.sort_by_key(|(_, job)| job.weight);
    let (queue, failures) = (Mutex::new(queue), Mutex::new(Vec::new()));
    let next = || queue.lock().ok().and_then(|mut queue| queue.pop());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((index, job)) = next() {
                    if let (Err(sentence), Ok(mut failures)) = ((job.run)(), failures.lock()) {
                        failures.push((index, sentence));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().map_err(|_| "a compiling thread panicked".to_owned())?;
    failures.into_iter().min().map_or(Ok(()), |(_, sentence)| Err(sentence))
}
