//! From addresses of instructions to lines of kernel files, by the program's line tables.

use std::ffi::c_void;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// The most places that a fault names.
const MOST_LINES: usize = 8;

/// A place in a kernel's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLine {
    /// The file: its path from the folder `kernels` on, or its name.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The function, without the parameters of a template.
    pub function: String,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{} in `{}`", self.file, self.line, self.function)
    }
}

/// A function that an instruction belongs to, or that was inlined there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    /// As a reader knows it.
    name: Option<String>,
    /// As the line tables or the symbol table say it.
    symbol: Option<Vec<u8>>,
    file: Option<PathBuf>,
    line: u32,
}

impl Function {
    /// Whether it stands in a kernel file: one of CUDA C++, or the one that the kernel itself stands in, which may be Rust. Without line
    /// tables only the kernel itself is known, by its symbol.
    fn is_kernels(&self, kernel: &Kernel) -> bool {
        match &self.file {
            Some(file) => is_cuda(file) || kernel.file.as_ref() == Some(file),
            None => self.symbol.is_some() && self.symbol == kernel.symbol,
        }
    }

    /// Whether it is the machine's, or what the machine is made of.
    fn is_machines(&self) -> bool {
        let names = |name: &String| name.starts_with("gridpoint_") || name.contains("gridpoint_simulator");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        self.name.as_ref().is_some_and(names) || self.file.as_ref().is_some_and(|file| file.starts_with(&sources))
    }

    fn source_line(&self) -> Option<SourceLine> {
        let function = plain(self.name.as_deref().unwrap_or("?"));
        Some(SourceLine { file: short(self.file.as_ref()?), line: self.line, function })
    }
}

/// A function's name without the types of a C++ signature: result, template arguments and parameters.
fn plain(name: &str) -> String {
    let name = name.replace("(anonymous namespace)::", "");
    if name.starts_with('<') {
        return name;
    }
    let end = name.find(['<', '(']).unwrap_or(name.len());
    let start = name[..end].rfind(' ').map_or(0, |space| space + 1);
    name[start..end].to_owned()
}

/// A kernel, as its code is found.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// Its symbol, and the file that it stands in, where they are known.
    symbol: Option<Vec<u8>>,
    file: Option<PathBuf>,
}

impl Kernel {
    /// The kernel that starts at `entry`.
    pub(crate) fn new(entry: usize) -> Self {
        // An address behind a call is looked up one byte before it.
        let Function { symbol, file, .. } = functions(entry + 1).pop().unwrap_or_default();
        Self { symbol, file }
    }

    /// The lines of a stack of return addresses, innermost first.
    pub(crate) fn lines(&self, stack: &[usize]) -> Vec<SourceLine> {
        let frames = stack.iter().flat_map(|&address| functions(address));
        let own = frames.filter(|function| function.is_kernels(self));
        own.filter(|function| !function.file.as_deref().is_some_and(is_wrapper))
            .filter_map(|function| function.source_line())
            .take(MOST_LINES)
            .collect()
    }

    /// Whether the innermost code of a stack of return addresses that can be told belongs to the kernel and not to the machine. Code of
    /// neither, a `memcpy` say, counts for its caller.
    pub(crate) fn runs(&self, stack: &[usize]) -> bool {
        for functions in stack.iter().map(|&address| functions(address)) {
            if functions.iter().any(Function::is_machines) {
                return false;
            }
            if functions.iter().any(|function| function.is_kernels(self)) {
                return true;
            }
        }
        false
    }
}

/// The functions at the call before `address`, the innermost inlined one first.
fn functions(address: usize) -> Vec<Function> {
    let mut functions = Vec::new();
    backtrace::resolve(std::ptr::without_provenance_mut::<c_void>(address), |symbol| {
        functions.push(Function {
            name: symbol.name().map(|name| format!("{name:#}")),
            file: symbol.filename().map(Path::to_path_buf),
            line: symbol.lineno().unwrap_or(0),
            symbol: symbol.name().map(|name| name.as_bytes().to_vec()),
        });
    });
    functions
}

fn is_cuda(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "cu" || extension == "cuh")
}

/// Whether the file wraps instructions.
fn is_wrapper(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name == "ptx.cuh" || name.starts_with("ptx_") && name.ends_with(".cuh")
}

/// The path from the last folder `kernels` on; without such a folder the file's name.
fn short(file: &Path) -> String {
    let components: Vec<Component<'_>> = file.components().collect();
    let kernels = components.iter().rposition(|component| component.as_os_str() == "kernels");
    let first = kernels.unwrap_or(components.len().saturating_sub(1));
    components[first..].iter().collect::<PathBuf>().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shown_without_the_machine_that_built_them() {
        assert_eq!(short(Path::new("/home/somebody/gridpoint/kernels/gemm.cu")), "kernels/gemm.cu");
        assert_eq!(short(Path::new("kernels/gemm.cu")), "kernels/gemm.cu");
        assert_eq!(short(Path::new("/build/out/gemm_plant.cu")), "gemm_plant.cu");
    }

    #[test]
    fn wrappers_are_known_by_name() {
        let names = ["kernels/ptx.cuh", "kernels/ptx_bulk.cuh", "kernels/tile.cuh", "kernels/gemm.cu"];
        assert_eq!(names.map(|name| is_wrapper(Path::new(name))), [true, true, false, false]);
        assert_eq!(names.map(|name| is_cuda(Path::new(name))), [true; 4]);
    }

    #[test]
    fn names_lose_their_types() {
        let function = |name: &str| Function {
            name: Some(name.to_owned()),
            file: Some(PathBuf::from("a.cu")),
            line: 3,
            symbol: None,
        };
        let shown = |name| function(name).source_line().map(|line| line.to_string());
        assert_eq!(shown("multiply_tile<Tile<16, 64>, 2>").as_deref(), Some("a.cu:3 in `multiply_tile`"));
        assert_eq!(shown("rms_norm").as_deref(), Some("a.cu:3 in `rms_norm`"));
        assert_eq!(shown("float block_sum<float>(float)").as_deref(), Some("a.cu:3 in `block_sum`"));
        let nested = "void gridpoint::(anonymous namespace)::copy(float const*, int)";
        assert_eq!(shown(nested).as_deref(), Some("a.cu:3 in `gridpoint::copy`"));
        assert_eq!(shown("<T as Kernel>::run").as_deref(), Some("a.cu:3 in `<T as Kernel>::run`"));
    }
}
