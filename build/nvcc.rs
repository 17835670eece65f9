//! The device build of the kernels: one fatbin a `.cu` file, where nvcc is found.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use crate::architectures::{self, Architecture};
use crate::sources::{Source, Sources};

/// Folders of a CUDA toolkit, in the order in which they are asked.
const TOOLKIT_VARIABLES: [&str; 4] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];
/// Where `scripts/get-nvcc.sh` puts its toolkit.
const FETCHED: &str = "target/cuda/nvidia/cu13/bin/nvcc";

const FLAGS: [&str; 7] =
    ["-fatbin", "-std=c++17", "-O3", "-lineinfo", "-fmad=false", "-Werror=all-warnings", "--threads=1"];

/// Packs machine code too, which by default stays as it is: images a fifth as large, unpacked by the driver when a module is loaded. For
/// compilers that know the flag; the driver that such images need (13.0) knows the format.
const PACKED: &str = "--compress-mode=size";
const FIRST_PACKING: i32 = 13;

/// What nvcc made.
pub(crate) struct Images {
    /// The compiler's version in full, as `13.0.88`.
    pub(crate) version: String,
    /// What every image holds, as `sm_90a` or `compute_90`.
    pub(crate) architectures: Vec<String>,
    /// One fatbin for each module, in the modules' order.
    pub(crate) files: Vec<PathBuf>,
}

/// Whether a variable is set to something other than nothing or `0`.
pub(crate) fn is_set(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
}

/// What `CUDA_COMPUTE_CAP` asks for, or the default.
pub(crate) fn architectures() -> Result<Vec<Architecture>, String> {
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    let list = env::var("CUDA_COMPUTE_CAP").unwrap_or_default();
    architectures::parse(if list.trim().is_empty() { architectures::DEFAULT } else { &list })
}

/// Compiles every module for every architecture. `None` without nvcc or without the feature `cuda`; cargo's user is told.
pub(crate) fn build(sources: &Sources, architectures: &[Architecture], out: &Path) -> Result<Option<Images>, String> {
    for name in TOOLKIT_VARIABLES.iter().chain(&["NVCC", "NVCC_CCBIN", "GRIDPOINT_REQUIRE_NVCC"]) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let reason = if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        "the feature `cuda` is off"
    } else if let Some(nvcc) = find()? {
        println!("cargo::rerun-if-changed={}", nvcc.path.display());
        println!("cargo::rustc-cfg=have_kernels");
        refuse_unknown(&nvcc, architectures)?;
        let files = compile_all(&nvcc, architectures, sources, out)?;
        let architectures = architectures.iter().flat_map(Architecture::images).collect();
        return Ok(Some(Images { version: nvcc.version, architectures, files }));
    } else {
        println!(
            "cargo::warning=nvcc was not found (NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda): the kernels are built for the \
             simulated device only; `scripts/get-nvcc.sh` fetches nvcc"
        );
        "nvcc was not found"
    };
    match is_set("GRIDPOINT_REQUIRE_NVCC") {
        true => Err(format!("`GRIDPOINT_REQUIRE_NVCC` is set and {reason}")),
        false => Ok(None),
    }
}

struct Nvcc {
    path: PathBuf,
    version: String,
}

/// The first nvcc of: NVCC, a toolkit folder, PATH, /usr/local/cuda, the fetched toolkit. An NVCC that does not run is an error.
fn find() -> Result<Option<Nvcc>, String> {
    if let Some(path) = env::var_os("NVCC").filter(|path| !path.is_empty()).map(PathBuf::from) {
        let version = version(&path).map_err(|error| format!("`NVCC` is `{}`, which {error}", path.display()))?;
        return Ok(Some(Nvcc { path, version }));
    }
    let toolkits = TOOLKIT_VARIABLES.iter().filter_map(env::var_os).filter(|root| !root.is_empty());
    let on_path = env::var_os("PATH").unwrap_or_default();
    let candidates = toolkits
        .map(|root| Path::new(&root).join("bin/nvcc"))
        .chain(env::split_paths(&on_path).map(|folder| folder.join("nvcc")))
        .chain([PathBuf::from("/usr/local/cuda/bin/nvcc"), env::current_dir().unwrap_or_default().join(FETCHED)]);
    for path in candidates.filter(|path| path.is_file()) {
        match version(&path) {
            Ok(version) => return Ok(Some(Nvcc { path, version })),
            Err(error) => println!("cargo::warning=`{}` {error}: passed over", path.display()),
        }
    }
    Ok(None)
}

/// The `13.0.88` of `Cuda compilation tools, release 13.0, V13.0.88`.
fn version(nvcc: &Path) -> Result<String, String> {
    let output = Command::new(nvcc).arg("--version").output().map_err(|error| format!("does not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.rsplit_once(", V")).map(|(_, version)| version.trim().to_owned());
    version.filter(|_| output.status.success()).ok_or_else(|| "does not answer `--version` as nvcc does".to_owned())
}

/// Fails when an architecture is not among those that nvcc lists; an nvcc without the list is asked by compiling.
fn refuse_unknown(nvcc: &Nvcc, architectures: &[Architecture]) -> Result<(), String> {
    let Ok(output) = Command::new(&nvcc.path).arg("--list-gpu-arch").output() else { return Ok(()) };
    let text = String::from_utf8_lossy(&output.stdout);
    let known: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("compute_")).collect();
    let unknown = |architecture: &&Architecture| !known.contains(&architecture.name.trim_end_matches(['a', 'f']));
    match architectures.iter().find(unknown) {
        Some(architecture) if !known.is_empty() => Err(format!(
            "`CUDA_COMPUTE_CAP` names `{}`, which nvcc {} does not compile for; it takes {}",
            architecture.name,
            nvcc.version,
            known.join(", ")
        )),
        _ => Ok(()),
    }
}

/// Compiles as many modules at a time as cargo grants jobs. The first failure in the modules' order is returned.
fn compile_all(
    nvcc: &Nvcc,
    architectures: &[Architecture],
    sources: &Sources,
    out: &Path,
) -> Result<Vec<PathBuf>, String> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1_usize);
    let queue = Mutex::new(sources.modules.iter().enumerate());
    let results = Mutex::new(Vec::new());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, sources.modules.len().max(1)) {
            scope.spawn(|| {
                while let Some((index, module)) = next() {
                    let result = compile(nvcc, architectures, &sources.folder, module, out);
                    if let Ok(mut results) = results.lock() {
                        results.push((index, result));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().map_err(|_| "a compiling thread panicked".to_owned())?;
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Compiles one module, unless what stands was made from the same sources by the same command.
fn compile(
    nvcc: &Nvcc,
    architectures: &[Architecture],
    include: &Path,
    module: &Source,
    out: &Path,
) -> Result<PathBuf, String> {
    let fatbin = out.join(&module.name).with_extension("fatbin");
    let mut command = Command::new(&nvcc.path);
    command.args(FLAGS);
    let major = nvcc.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major >= FIRST_PACKING {
        command.arg(PACKED);
    }
    for architecture in architectures {
        command.arg("-gencode").arg(architecture.gencode());
    }
    if let Some(host_compiler) = env::var_os("NVCC_CCBIN").filter(|path| !path.is_empty()) {
        command.arg("-ccbin").arg(host_compiler);
    }
    // Relative paths: the line tables of an image name the sources as the repository does.
    command.arg("-I").arg(include).arg(&module.path).arg("-o").arg(&fatbin);

    let key = format!("{} {:?} {:x}", nvcc.version, command, module.fingerprint);
    let key_file = fatbin.with_extension("key");
    if fatbin.is_file() && fs::read_to_string(&key_file).is_ok_and(|standing| standing == key) {
        return Ok(fatbin);
    }
    let output = command.output().map_err(|error| format!("cannot run `{}`: {error}", nvcc.path.display()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        return Err(format!("nvcc cannot compile `{}`:\n{}", module.path.display(), String::from_utf8_lossy(&said)));
    }
    fs::write(&key_file, key).map_err(|error| format!("cannot write `{}`: {error}", key_file.display()))?;
    Ok(fatbin)
}
