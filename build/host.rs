//! The host build of the kernels, for the simulated device, and the check that host and Rust see the same parameter structs.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use gridpoint_simulator_build::{FLAGS, INCLUDE, tell};

use crate::bindings;
use crate::cache::{Cache, Job};
use crate::sources::{Source, Sources};

/// Objects that become a static archive of the library.
pub(crate) struct Archive {
    library: String,
    objects: Vec<Object>,
}

/// A file that becomes an object.
struct Object {
    compiler: cc::Build,
    source: PathBuf,
    file: PathBuf,
    /// Bytes of the source.
    length: u64,
    /// What the object depends on beside the compiler and its flags: the source, the headers, the folder that line tables name.
    fingerprint: (String, u64, PathBuf),
}

/// Every kernel, and the layout check, which fails here: what the kernels would say of wrong layouts is noise.
///
/// The optimisation level is the same in every profile, so that a debug build computes the same bits as a release build and
/// is not slower; no flag depends on the machine that builds.
pub(crate) fn kernels(sources: &Sources, out: &Path, cache: &Cache) -> Result<Archive, String> {
    let checked_in = fs::read_to_string(bindings::CHECKED_IN)
        .map_err(|error| format!("cannot read `{}`: {error}", bindings::CHECKED_IN))?;
    let layout = out.join("layout.cpp");
    fs::write(&layout, layout_check(&bindings::statements(&checked_in)))
        .map_err(|error| format!("cannot write `{}`: {error}", layout.display()))?;
    let compiler = compiler(sources);
    let layout = Object::new(&compiler, "gridpoint_kernels", layout, sources, out)?;
    layout.make(cache)?;
    let mut archive = Archive::of("gridpoint_kernels", &compiler, sources, out)?;
    archive.objects.push(layout);
    Ok(archive)
}

/// What the C name of a checked module's table becomes.
const CHECKED: &str = "gridpoint_checked_module_##module";

/// The kernels of tests, plain and checked, in archives of their own, which no program takes anything from.
pub(crate) fn test_kernels(sources: &Sources, out: &Path) -> Result<[Archive; 2], String> {
    let checked = told(sources, CHECKED);
    Ok([
        Archive::of("gridpoint_test_kernels", &compiler(sources), sources, out)?,
        Archive::of("gridpoint_checked_test_kernels", &checked, sources, out)?,
    ])
}

/// Every kernel once more, for the simulated device's detectors.
pub(crate) fn checked_kernels(sources: &Sources, out: &Path) -> Result<Archive, String> {
    Archive::of("gridpoint_checked_kernels", &told(sources, CHECKED), sources, out)
}

/// A file compiled as a checked kernel is, in an archive `library`; `symbol` is what the C name of its module's table becomes.
pub(crate) fn told_file(
    sources: &Sources,
    file: PathBuf,
    symbol: &str,
    library: &str,
    out: &Path,
) -> Result<Archive, String> {
    let object = Object::new(&told(sources, symbol), library, file, sources, out)?;
    Ok(Archive { library: library.to_owned(), objects: vec![object] })
}

/// A compiler whose code tells the simulated device of each of its plain loads and stores; `symbol` is what the C name of a module's table
/// becomes.
///
/// The sanitizer's library is not linked: the simulator defines what such code calls. Nothing of this is in a program that does not name
/// the tables.
fn told(sources: &Sources, symbol: &str) -> cc::Build {
    let mut compiler = compiler(sources);
    compiler.define("GRIDPOINT_MODULE_SYMBOL(module)", symbol).define("GRIDPOINT_TOLD", None);
    tell(&mut compiler);
    compiler
}

impl Archive {
    /// All modules of a folder.
    fn of(library: &str, compiler: &cc::Build, sources: &Sources, out: &Path) -> Result<Self, String> {
        let object = |module: &Source| Object::new(compiler, library, module.path.clone(), sources, out);
        let objects = sources.modules.iter().map(object).collect::<Result<_, _>>()?;
        Ok(Self { library: library.to_owned(), objects })
    }

    /// What makes its objects.
    pub(crate) fn jobs<'a>(&'a self, cache: &'a Cache) -> impl Iterator<Item = Job<'a>> {
        self.objects.iter().map(move |object| Job { weight: object.length, run: Box::new(move || object.make(cache)) })
    }

    /// Makes the archive of objects that are there, and tells cargo to link it.
    pub(crate) fn link(&self) -> Result<(), String> {
        let mut archiver = cc::Build::new();
        // Kernels call nothing of the C++ library, so the program does not need it where it runs.
        archiver.cpp(true).cpp_link_stdlib(None).objects(self.objects.iter().map(|object| &object.file));
        archiver
            .try_compile(&self.library)
            .map_err(|error| format!("cannot make the archive `{}`: {error}", self.library))
    }
}

impl Object {
    fn new(
        compiler: &cc::Build,
        library: &str,
        source: PathBuf,
        sources: &Sources,
        out: &Path,
    ) -> Result<Self, String> {
        let failed = |error| format!("cannot read `{}`: {error}", source.display());
        let text = fs::read(&source).map_err(failed)?;
        let stem = source.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        let file = out.join(format!("{library}.{stem}.o"));
        let mut compiler = compiler.clone();
        // The compiler names an object by its source alone, and a source is compiled more than once.
        let folder = out.join("objects").join(library);
        fs::create_dir_all(&folder).map_err(|error| format!("cannot make `{}`: {error}", folder.display()))?;
        compiler.file(&source).out_dir(folder);
        let tool = compiler.try_get_compiler().map_err(|error| format!("there is no C++ compiler: {error}"))?;
        let version = tool.to_command().arg("--version").output().map(|output| output.stdout).unwrap_or_default();
        let mut contents = DefaultHasher::new();
        (text.as_slice(), sources.headers, simulator_headers()?, version).hash(&mut contents);
        let folder = env::current_dir().map_err(failed)?;
        let fingerprint = (format!("{:?}", tool.to_command()), contents.finish(), folder);
        Ok(Self { compiler, source, file, length: text.len() as u64, fingerprint })
    }

    fn make(&self, cache: &Cache) -> Result<(), String> {
        let name = self.source.display();
        cache.fill(&self.file, &self.fingerprint, || {
            let made = self.compiler.try_compile_intermediates();
            let made = made.map_err(|error| format!("cannot compile `{name}` for the host: {error}"))?;
            made.into_iter().next().ok_or_else(|| format!("the compiler made nothing of `{name}`"))
        })
    }
}

/// Changes when a header of the simulated device changes.
fn simulator_headers() -> Result<u64, String> {
    let failed = |error| format!("cannot read `{INCLUDE}`: {error}");
    let mut paths = Vec::new();
    for entry in fs::read_dir(INCLUDE).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    let mut hasher = DefaultHasher::new();
    for path in paths {
        fs::read(&path).map_err(failed)?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// A compiler that computes what the kernels mean.
fn compiler(sources: &Sources) -> cc::Build {
    let mut compiler = cc::Build::new();
    compiler
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .include(&sources.folder)
        .include(INCLUDE)
        // The line tables of the flags, the same in every profile.
        .debug(false)
        .flags(FLAGS)
        .extra_warnings(true)
        // `.cu` says nothing to a host compiler.
        .flag("-x")
        .flag("c++");
    compiler
}

/// C++ that compiles only where every size, alignment, offset and constant is the one that the bindings state.
fn layout_check(statements: &[(String, u64)]) -> String {
    let mut text = String::from("#include <stddef.h>\n#include \"parameters.h\"\n");
    for (what, value) in statements {
        let measured = if let Some(name) = what.strip_prefix("Size of ") {
            format!("sizeof({name})")
        } else if let Some(name) = what.strip_prefix("Alignment of ") {
            format!("alignof({name})")
        } else if let Some(name) = what.strip_prefix("Value of ") {
            name.to_owned()
        } else if let Some((name, field)) =
            what.strip_prefix("Offset of field: ").and_then(|path| path.split_once("::"))
        {
            format!("offsetof({name}, {field})")
        } else {
            continue;
        };
        let advice = format!("{} is stale: run {}", bindings::CHECKED_IN, bindings::UPDATE);
        text += &format!("static_assert({measured} == {value}, \"{what} is not {value}; {advice}\");\n");
    }
    text
}
