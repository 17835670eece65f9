//! The device build of the kernels: one fatbin a `.cu` file, where nvcc is found.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::architectures::{self, Architecture};
use crate::cache::{Cache, Job};
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

/// Makes ptxas say what each kernel takes, for scripts/check-kernels.sh.
const TELLING: [&str; 2] = ["-Xptxas", "-v"];

/// What nvcc makes.
pub(crate) struct Images {
    /// The compiler's version in full, as `13.0.88`.
    pub(crate) version: String,
    /// What every image holds, as `sm_90a` or `compute_90`.
    pub(crate) architectures: Vec<String>,
    /// One fatbin for each module, in the modules' order.
    compilations: Vec<Compilation>,
}

/// A module that becomes a fatbin.
struct Compilation {
    nvcc: PathBuf,
    arguments: Vec<OsString>,
    source: PathBuf,
    file: PathBuf,
    /// What the images are called, and the compiler's version.
    images: Vec<Architecture>,
    version: String,
    /// Bytes of the source.
    length: u64,
    /// What the fatbin depends on beside the arguments: the compiler's version, the source and the headers.
    fingerprint: (String, u64),
}

/// A compilation by nvcc takes longer than one by the host's compiler: all of them begin first.
const DEVICE_WEIGHT: u64 = 100;

impl Images {
    /// What makes the fatbins.
    pub(crate) fn jobs<'a>(&'a self, cache: &'a Cache) -> impl Iterator<Item = Job<'a>> {
        self.compilations.iter().map(move |compilation| Job {
            weight: DEVICE_WEIGHT * compilation.length,
            run: Box::new(move || compilation.make(cache)),
        })
    }

    /// The fatbin of a module, by its place among the modules.
    pub(crate) fn file(&self, index: usize) -> Option<&Path> {
        self.compilations.get(index).map(|compilation| compilation.file.as_path())
    }
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

/// What every module is to become, compiled for every architecture by [`Images::jobs`]. `None` without nvcc or without the feature `cuda`;
/// cargo's user is told.
pub(crate) fn images(sources: &Sources, architectures: &[Architecture], out: &Path) -> Result<Option<Images>, String> {
    for name in TOOLKIT_VARIABLES.iter().chain(&["NVCC", "NVCC_CCBIN", "GRIDPOINT_REQUIRE_NVCC"]) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let reason = if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        "the feature `cuda` is off"
    } else if let Some(nvcc) = find()? {
        println!("cargo::rerun-if-changed={}", nvcc.path.display());
        println!("cargo::rustc-cfg=have_kernels");
        refuse_unknown(&nvcc, architectures)?;
        let compilations =
            sources.modules.iter().map(|module| Compilation::new(&nvcc, architectures, &sources.folder, module, out));
        let compilations = compilations.collect();
        let architectures = architectures.iter().flat_map(Architecture::images).collect();
        return Ok(Some(Images { version: nvcc.version, architectures, compilations }));
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

impl Compilation {
    fn new(nvcc: &Nvcc, architectures: &[Architecture], include: &Path, module: &Source, out: &Path) -> Self {
        let mut arguments: Vec<OsString> = FLAGS.iter().chain(&TELLING).map(Into::into).collect();
        let major = nvcc.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        if major >= FIRST_PACKING {
            arguments.push(PACKED.into());
        }
        for architecture in architectures {
            arguments.extend(["-gencode".into(), architecture.gencode().into()]);
        }
        if let Some(host_compiler) = env::var_os("NVCC_CCBIN").filter(|path| !path.is_empty()) {
            arguments.extend(["-ccbin".into(), host_compiler]);
        }
        // Relative paths: the line tables of an image name the sources as the repository does.
        arguments.extend(["-I".into(), include.into(), module.path.clone().into()]);
        Self {
            nvcc: nvcc.path.clone(),
            arguments,
            source: module.path.clone(),
            file: out.join(&module.name).with_extension("fatbin"),
            images: architectures.to_vec(),
            version: nvcc.version.clone(),
            length: module.length,
            fingerprint: (nvcc.version.clone(), module.fingerprint),
        }
    }

    /// Compiles the module, unless it was compiled before from the same sources by the same command.
    fn make(&self, cache: &Cache) -> Result<(), String> {
        let Self { nvcc, arguments, source, file, fingerprint, .. } = self;
        cache.fill(file, &(arguments, fingerprint), || {
            // The file that stands may be a link to what is kept.
            let (made, steps) = (file.with_extension("made"), file.with_extension("steps"));
            fs::create_dir_all(&steps).map_err(|error| format!("cannot make `{}`: {error}", steps.display()))?;
            let mut command = Command::new(nvcc);
            command.args(arguments).arg("--keep").arg("--keep-dir").arg(&steps).arg("-o").arg(&made);
            let output = command.output().map_err(|error| format!("cannot run `{}`: {error}", nvcc.display()))?;
            let said = [output.stdout, output.stderr].concat();
            if !output.status.success() {
                return Err(format!("nvcc cannot compile `{}`:\n{}", source.display(), String::from_utf8_lossy(&said)));
            }
            let shown = self.show(cache, &steps, &said);
            shown.map_err(|error| format!("cannot keep the images of `{}`: {error}", source.display()))?;
            // Only what was shown is read again.
            let _ = fs::remove_dir_all(&steps);
            Ok(made)
        })
    }

    /// Leaves for scripts/check-kernels.sh, in the cache's folder `MODULE.device`, the machine code and PTX of the module, what ptxas said,
    /// and as `made-from` the compiler's version, its options and all sources, by which the script knows them to be those that it would make.
    fn show(&self, cache: &Cache, steps: &Path, said: &[u8]) -> io::Result<()> {
        let stem = self.source.file_stem().and_then(OsStr::to_str).unwrap_or("");
        let folder = cache.folder().join(format!("{stem}.device"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        for Architecture { name, machine_code, ptx } in &self.images {
            for (wanted, extension, image) in [(machine_code, "cubin", "sm"), (ptx, "ptx", "compute")] {
                if *wanted {
                    // nvcc leaves the architecture out of the name where there is one only.
                    let of_one = steps.join(format!("{stem}.{extension}"));
                    let of_many = steps.join(format!("{stem}.compute_{name}.{extension}"));
                    let step = if of_many.is_file() { of_many } else { of_one };
                    fs::copy(step, folder.join(format!("{image}_{name}.{extension}")))?;
                }
            }
        }
        fs::write(folder.join("report"), said)?;
        let output = |flag: &&&str| **flag == "-fatbin" || flag.starts_with("--threads");
        let flags: Vec<&str> = FLAGS.iter().filter(|flag| !output(flag)).copied().collect();
        let mut text = format!("{}\n{}\n", self.version, flags.join(" ")).into_bytes();
        for (place, extension) in [("kernels", "h"), ("kernels", "cuh"), ("tests/instructions", "h")] {
            let mut headers = fs::read_dir(place)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
            headers.retain(|path| path.extension() == Some(OsStr::new(extension)));
            headers.sort();
            headers.iter().try_for_each(|path| fs::read(path).map(|header| text.extend(header)))?;
        }
        text.extend(fs::read(&self.source)?);
        fs::write(folder.join("made-from"), text)
    }
}
