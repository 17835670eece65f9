//! The host build of the kernels, for the simulated device, and the check that host and Rust see the same parameter structs.

use std::fs;
use std::path::Path;

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

    let mut compiler = cc::Build::new();
    compiler
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .include(&sources.folder)
        // No contraction, wrapping and untyped memory: what nvcc is asked for and what PTX means.
        .flag("-ffp-contract=off")
        .flag("-fwrapv")
        .flag("-fno-strict-aliasing")
        // The simulated device may unwind the stacks of its threads through a kernel, which owns nothing.
        .flag("-fno-exceptions")
        .flag("-fno-rtti")
        .flag("-funwind-tables")
        .extra_warnings(true)
        // Kernels call nothing of the C++ library, so the program does not need it where it runs.
        .cpp_link_stdlib(None)
        // `.cu` says nothing to a host compiler.
        .flag("-x")
        .flag("c++")
        // The layout first: where it fails, what the kernels say of it is noise.
        .file(&layout)
        .files(sources.modules.iter().map(|module| &module.path));
    compiler
        .try_compile("gridpoint_kernels")
        .map_err(|error| format!("cannot compile the kernels for the host: {error}"))
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
