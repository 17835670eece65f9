//! Compiles ordinary `.cu` files for the simulated device of `gridpoint-simulator`, from a build script.
//!
//! ```no_run
//! fn main() -> Result<(), gridpoint_simulator_build::BuildError> {
//!     gridpoint_simulator_build::Kernels::new("kernels/sums.cu").compile()
//! }
//! ```
//!
//! The file is compiled by the C++ compiler that the `cc` crate finds, g++ or clang++, so that each plain load and store of a kernel is told
//! to the simulated device (`-fsanitize=thread`, without the sanitizer's library). Between compiler and assembler the listing is
//! edited ([`Kernels`] says how), which takes an ELF target: Linux.

mod listing;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of `gridpoint_cuda.h` and `gridpoint_simulator.h`.
pub const INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../include");

/// What makes a host compiler mean what CUDA means: no contraction of products and sums, wrapping and untyped memory; and what the
/// simulated device needs, which may leave a kernel at any instruction and names the line: stacks that can be unwound there and hold
/// nothing to drop, and line tables.
pub const FLAGS: [&str; 7] = [
    "-ffp-contract=off",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-fasynchronous-unwind-tables",
    "-g1",
];

/// Makes a compiler tell the simulated device of plain loads and stores.
pub fn tell(compiler: &mut cc::Build) -> &mut cc::Build {
    compiler.flag("-fsanitize=thread");
    // How gcc and clang leave out calls at each function's start and end.
    compiler.flag_if_supported("--param=tsan-instrument-func-entry-exit=0");
    if compiler.try_get_compiler().is_ok_and(|compiler| compiler.is_like_clang()) {
        compiler.flag("-mllvm").flag("-tsan-instrument-func-entry-exit=0");
    }
    compiler
}

/// One `.cu` file to compile. It may be compiled more than once, as [`Kernels::variant`]s.
///
/// In the compiler's listing all symbols but the module's table become the file's own, so that inline functions of a variant, or a kernel
/// of the same name in another file, are never taken for one another; and variables that are static in a function, as `__shared__` ones
/// are for a host compiler, go to a section of their own, inline functions' and templates' too.
#[derive(Clone, Debug)]
pub struct Kernels {
    source: PathBuf,
    variant: Option<String>,
    defines: Vec<(String, Option<String>)>,
    includes: Vec<PathBuf>,
    telling: bool,
}

impl Kernels {
    /// The `.cu` file at a path relative to the package. Its stem, of ASCII letters, digits and `_`, names the archive.
    pub fn new(source: impl Into<PathBuf>) -> Self {
        Self { source: source.into(), variant: None, defines: Vec::new(), includes: Vec::new(), telling: true }
    }

    /// Another build of the file: its module is called `MODULE_NAME`, and the table `gridpoint_module_MODULE_NAME`.
    pub fn variant(mut self, name: impl Into<String>) -> Self {
        self.variant = Some(name.into());
        self
    }

    /// With a macro, as `-DNAME` or `-DNAME=VALUE`.
    pub fn define(mut self, name: impl Into<String>, value: Option<&str>) -> Self {
        self.defines.push((name.into(), value.map(str::to_owned)));
        self
    }

    /// With a folder of headers.
    pub fn include(mut self, folder: impl Into<PathBuf>) -> Self {
        self.includes.push(folder.into());
        self
    }

    /// Without telling of plain loads and stores: quicker, and blind for what they do. Instructions are still checked.
    pub fn untold(mut self) -> Self {
        self.telling = false;
        self
    }

    /// Compiles the file into an archive in `OUT_DIR` and tells cargo to link it, and when to compile again.
    ///
    /// # Errors
    /// There is no compiler, it refuses the file, or a name is none.
    pub fn compile(&self) -> Result<(), BuildError> {
        let stem = self.source.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let library = match &self.variant {
            None => stem.to_owned(),
            Some(variant) => format!("{stem}_{variant}"),
        };
        if library.is_empty() || !library.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(BuildError::Name { path: self.source.clone(), name: library });
        }
        let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or(BuildError::NoOutputFolder)?);
        let (listing, dependencies) = (out.join(format!("{library}.s")), out.join(format!("{library}.d")));
        let section = format!("gridpoint_block_shared_{library}");

        // A compiler that writes none in silence must not leave an older one to be edited again.
        let _ = std::fs::remove_file(&listing);
        let mut command = self.compiler(&section).try_get_compiler()?.to_command();
        command.args(["-S", "-MMD", "-MF"]).arg(&dependencies);
        command.args(["-x", "c++"]).arg(&self.source).arg("-o").arg(&listing);
        run(command, &self.source)?;
        let text = read(&listing)?;
        let edited = listing::edit(&text, &section);
        std::fs::write(&listing, edited).map_err(|error| BuildError::File { path: listing.clone(), error })?;

        cc::Build::new().file(&listing).try_compile(&library)?;
        for path in listing::prerequisites(&read(&dependencies)?) {
            tell_cargo(&format!("rerun-if-changed={path}"));
        }
        Ok(())
    }

    fn compiler(&self, section: &str) -> cc::Build {
        let mut compiler = cc::Build::new();
        compiler.cpp(true).std("c++17").opt_level(2).include(INCLUDE).includes(&self.includes).cpp_link_stdlib(None);
        // The line tables of the flags, the same in every profile.
        compiler.debug(false).flags(FLAGS);
        compiler.define("GRIDPOINT_SHARED_SECTION", section).define("GRIDPOINT_SHARED_IS_MOVED", None);
        if let Some(variant) = &self.variant {
            compiler.define("GRIDPOINT_VARIANT", variant.as_str());
        }
        for (name, value) in &self.defines {
            compiler.define(name, value.as_deref());
        }
        if self.telling {
            tell(&mut compiler);
        }
        compiler
    }
}

fn run(mut command: Command, source: &Path) -> Result<(), BuildError> {
    let output =
        command.output().map_err(|error| BuildError::File { path: PathBuf::from(command.get_program()), error })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Err(BuildError::Refused { path: source.to_owned(), compiler: command.get_program().to_owned(), said })
}

fn read(path: &Path) -> Result<String, BuildError> {
    std::fs::read_to_string(path).map_err(|error| BuildError::File { path: path.to_owned(), error })
}

#[expect(clippy::print_stdout, reason = "cargo reads a build script's output")]
fn tell_cargo(what: &str) {
    println!("cargo::{what}");
}

/// Why a `.cu` file was not compiled.
pub enum BuildError {
    /// The archive's name is no C identifier.
    Name {
        /// The `.cu` file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// `OUT_DIR` is not set.
    NoOutputFolder,
    /// A file or the compiler could not be used.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The compiler refused the file.
    Refused {
        /// The file.
        path: PathBuf,
        /// The compiler.
        compiler: OsString,
        /// Its words.
        said: String,
    },
    /// No compiler was found, or the listing could not be made an archive.
    Compiler(cc::Error),
}

impl From<cc::Error> for BuildError {
    fn from(error: cc::Error) -> Self {
        Self::Compiler(error)
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { path, name } => write!(
                formatter,
                "the archive of `{}` would be called `{name}`: the file's stem and a variant are ASCII letters, digits and `_`",
                path.display()
            ),
            Self::NoOutputFolder => write!(formatter, "`OUT_DIR` is not set: call this from a build script"),
            Self::File { path, error } => write!(formatter, "cannot use `{}`: {error}", path.display()),
            Self::Refused { path, compiler, said } => {
                write!(formatter, "`{}` cannot compile `{}`:\n{said}", compiler.display(), path.display())
            }
            Self::Compiler(error) => write!(formatter, "{error}"),
        }
    }
}

/// As it is displayed: what a build script's `main` returns is shown so.
impl fmt::Debug for BuildError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl std::error::Error for BuildError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none_are_refused() {
        for (path, variant, name) in
            [("two words.cu", None, "two words"), ("a.cu", Some("x-y"), "a_x-y"), ("", None, "")]
        {
            let kernels = Kernels { variant: variant.map(str::to_owned), ..Kernels::new(path) };
            let error = kernels.compile().expect_err(name);
            assert!(matches!(&error, BuildError::Name { name: found, .. } if found == name), "{error}");
            assert!(error.to_string().contains(&format!("would be called `{name}`")), "{error}");
        }
    }
}
