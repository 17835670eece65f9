//! cust, unmodified, on a machine without a driver or toolkit: it links, starts, and answers an error.

use std::path::Path;

use gridpoint_driver::{CUresult, Table, cuInit, install};

#[test]
fn cust_links_without_a_driver_and_answers_an_error() {
    // A library that does not exist stands for a machine without a driver, also where this test runs beside one.
    let table = Table::load(Some(Path::new("libcuda-that-does-not-exist.so.1"))).unwrap_or_else(|_| Table::absent());
    install(table).unwrap();
    let error = cust::init(cust::CudaFlags::empty()).unwrap_err();
    assert!(matches!(error, cust::error::CudaError::SharedObjectInitFailed), "{error:?}");
    assert!(!error.to_string().is_empty());
    assert!(cust::device::Device::num_devices().is_err());
    // SAFETY: takes a plain number.
    assert_eq!(unsafe { cuInit(0) }, CUresult::ERROR_SHARED_OBJECT_INIT_FAILED);
}

/// Whether `bytes` occurs in `haystack`.
fn contains(haystack: &[u8], bytes: &[u8]) -> bool {
    haystack.windows(bytes.len()).any(|window| window == bytes)
}

/// The dynamic section of an ELF file of 64-bit little-endian machines: the names of needed libraries and of defined symbols.
fn dynamic_names(file: &[u8]) -> (Vec<String>, Vec<String>) {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    let half = |at: usize| u16::from_le_bytes(file[at..at + 2].try_into().unwrap()) as usize;
    let int = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(&file[..6], b"\x7fELF\x02\x01");
    let (sections, size, count) = (word(40), half(58), half(60));
    let (mut needed, mut defined) = (Vec::new(), Vec::new());
    for section in (0..count).map(|index| sections + index * size) {
        let (kind, offset, bytes, link) = (int(section + 4), word(section + 24), word(section + 32), int(section + 40));
        let strings = word(sections + link * size + 24);
        let name = |at: usize| {
            let text = &file[strings + at..];
            String::from_utf8_lossy(&text[..text.iter().position(|&byte| byte == 0).unwrap()]).into_owned()
        };
        match kind {
            // SHT_DYNAMIC: pairs of tag and value; tag 1 is DT_NEEDED.
            6 => needed
                .extend((offset..offset + bytes).step_by(16).filter(|&at| word(at) == 1).map(|at| name(word(at + 8)))),
            // SHT_DYNSYM: a symbol with a section index other than zero is defined here.
            11 => defined
                .extend((offset..offset + bytes).step_by(24).filter(|&at| half(at + 6) != 0).map(|at| name(int(at)))),
            _ => {}
        }
    }
    (needed, defined)
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[test]
fn the_executable_needs_no_driver_library_and_exports_no_driver_symbol() {
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let (needed, defined) = dynamic_names(&file);
    assert!(needed.iter().any(|name| name.starts_with("libc.so")), "the reader found no C library in {needed:?}");
    assert!(!needed.iter().any(|name| name.contains("libcuda")), "{needed:?}");
    let exported: Vec<_> = Table::NAMES.iter().filter(|name| defined.iter().any(|symbol| symbol == *name)).collect();
    assert!(exported.is_empty(), "exported: {exported:?}");
    // The detector sees what it looks for: the library's name is in the file, as the loader's argument.
    assert!(contains(&file, b"libcuda.so.1"));
}
