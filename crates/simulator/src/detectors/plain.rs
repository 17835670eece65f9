//! Plain loads and stores of kernels compiled with `-fsanitize=thread`: the functions that such code calls before each of them
//! (gcc/sanitizer.def, "Thread sanitizer"; clang's ThreadSanitizer pass). The sanitizer's own library is never linked.
//!
//! All have one contract: a fiber calls them, or code that runs before any launch. The address is checked.

use std::ffi::{c_int, c_void};

use crate::machine::observer::Touch;
use crate::machine::plain_access;

/// An access whose caller is known: `site` is the code behind it.
///
/// # Safety
/// The module's contract.
unsafe extern "C" fn access<const BYTES: usize, const ALIGNMENT: u32, const WRITES: bool>(
    pointer: *const c_void,
    site: usize,
) {
    let touch = if WRITES { Touch::Write } else { Touch::Read };
    // SAFETY: by the module's contract.
    unsafe { plain_access((pointer as usize, BYTES), ALIGNMENT, touch, site) }
}

macro_rules! accesses {
    ($($name:ident, $bytes:literal, $alignment:literal, $writes:literal;)*) => {
        $(
            /// Adds the address that it returns to, where the calling convention says where that is.
            #[cfg(all(target_arch = "x86_64", unix))]
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            unsafe extern "C" fn $name(pointer: *const c_void) {
                std::arch::naked_asm!(
                    "mov rsi, [rsp]",
                    "jmp {access}",
                    access = sym access::<$bytes, $alignment, $writes>
                )
            }

            #[cfg(not(all(target_arch = "x86_64", unix)))]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name(pointer: *const c_void) {
                // SAFETY: by the module's contract.
                unsafe { access::<$bytes, $alignment, $writes>(pointer, 0) }
            }
        )*

        const ACCESSES: &[unsafe extern "C" fn(*const c_void)] = &[$($name),*];
    };
}

accesses! {
    __tsan_read1, 1, 1, false;
    __tsan_read2, 2, 2, false;
    __tsan_read4, 4, 4, false;
    __tsan_read8, 8, 8, false;
    __tsan_read16, 16, 16, false;
    __tsan_write1, 1, 1, true;
    __tsan_write2, 2, 2, true;
    __tsan_write4, 4, 4, true;
    __tsan_write8, 8, 8, true;
    __tsan_write16, 16, 16, true;
    __tsan_unaligned_read2, 2, 1, false;
    __tsan_unaligned_read4, 4, 1, false;
    __tsan_unaligned_read8, 8, 1, false;
    __tsan_unaligned_read16, 16, 1, false;
    __tsan_unaligned_write2, 2, 1, true;
    __tsan_unaligned_write4, 4, 1, true;
    __tsan_unaligned_write8, 8, 1, true;
    __tsan_unaligned_write16, 16, 1, true;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_read_range(pointer: *const c_void, bytes: usize) {
    // SAFETY: by the module's contract.
    unsafe { plain_access((pointer as usize, bytes), 1, Touch::Read, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_write_range(pointer: *const c_void, bytes: usize) {
    // SAFETY: by the module's contract.
    unsafe { plain_access((pointer as usize, bytes), 1, Touch::Write, 0) }
}

/// clang's form of a copy.
#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_memcpy(target: *mut c_void, source: *const c_void, bytes: usize) -> *mut c_void {
    // SAFETY: by the module's contract; the kernel makes this copy.
    unsafe {
        __tsan_read_range(source, bytes);
        __tsan_write_range(target, bytes);
        target.cast::<u8>().copy_from(source.cast(), bytes);
    }
    target
}

/// clang's form of a fill.
#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_memset(target: *mut c_void, value: c_int, bytes: usize) -> *mut c_void {
    // SAFETY: by the module's contract; the kernel makes this fill.
    unsafe {
        __tsan_write_range(target, bytes);
        target.cast::<u8>().write_bytes(value as u8, bytes);
    }
    target
}

/// Called when a module is loaded.
#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_init() {}

#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_func_entry(_: *const c_void) {}

#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_func_exit() {}

/// Makes the linker take these functions along with the detectors, wherever the kernels' archive stands on its command line.
pub(super) fn keep() {
    std::hint::black_box((ACCESSES, __tsan_read_range as *const (), __tsan_write_range as *const ()));
    std::hint::black_box((__tsan_memcpy as *const (), __tsan_memset as *const (), __tsan_init as *const ()));
    std::hint::black_box((__tsan_func_entry as *const (), __tsan_func_exit as *const ()));
}
