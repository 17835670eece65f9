//! The host build of the kernels, for the simulated device, and the check that host and Rust see the same parameter structs.

use std::fs;
use std::path::Path;

use gridpoint_simulator_build::{FLAGS, INCLUDE, tell};

use crate::bindings;
use crate::sources::Sources;

/// Compiles every kernel, and the layout check, into one static archive that the library links.
///
/// The optimisation level is the same in every profile, so that a debug build computes the same bits as a release build and
/// is not slower; no flag depends on the machine that builds.
pub(crate) fn build(sources: &Sources, out: &Path) -> Result<(), String> {
    let checked_in = fs::read_to_string(bindings::CHECKED_IN)
        .map_err(|error| format!("cannot read `{}`: {error}", bindings::CHECKED_IN))?;
    let layout = out.join("layout.cpp");
    fs::write(&layout, layout_check(&bindings::statements(&checked_in)))
        .map_err(|error| format!("cannot write `{}`: {error}", layout.display()))?;

    let mut compiler = compiler(sources);
    compiler
        // The layout first: where it fails, what the kernels say of it is noise.
        .file(&layout)
        .files(sources.modules.iter().map(|module| &module.path));
    compiler
        .try_compile("gridpoint_kernels")
        .map_err(|error| format!("cannot compile the kernels for the host: {error}"))
}

/// What the C name of a checked module's table becomes.
const CHECKED: &str = "gridpoint_checked_module_##module";

/// Compiles the kernels of tests, plain and checked, into archives of their own, which no program takes anything from.
pub(crate) fn build_tests(sources: &Sources) -> Result<(), String> {
    let mut compiler = compiler(sources);
    compiler.files(sources.modules.iter().map(|module| &module.path));
    compiler
        .try_compile("gridpoint_test_kernels")
        .map_err(|error| format!("cannot compile the tests' kernels for the host: {error}"))?;
    let files = sources.modules.iter().map(|module| &module.path);
    build_told(sources, files, CHECKED, "gridpoint_checked_test_kernels")
}

/// Compiles every kernel once more, for the simulated device's detectors.
pub(crate) fn build_checked(sources: &Sources) -> Result<(), String> {
    let files = sources.modules.iter().map(|module| &module.path);
    build_told(sources, files, CHECKED, "gridpoint_checked_kernels")
}

/// Compiles kernels into an archive `library` so that the simulated device is told of each of their plain loads and stores; `symbol` is
/// what the C name of a module's table becomes.
///
/// The sanitizer's library is not linked: the simulator defines what such code calls. Nothing of this is in a program that does not name
/// the tables.
pub(crate) fn build_told<P: AsRef<Path>>(
    sources: &Sources,
    files: impl IntoIterator<Item = P>,
    symbol: &str,
    library: &str,
) -> Result<(), String> {
    let mut compiler = compiler(sources);
    compiler.define("GRIDPOINT_MODULE_SYMBOL(module)", symbol).define("GRIDPOINT_TOLD", None);
    tell(&mut compiler).files(files);
    compiler.try_compile(library).map_err(|error| format!("cannot compile `{library}` for the host: {error}"))
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
        // Kernels call nothing of the C++ library, so the program does not need it where it runs.
        .cpp_link_stdlib(None)
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
