//! What kernels that were compiled to tell of plain accesses (`GRIDPOINT_TOLD`) tell beside: the last part of
//! `include/gridpoint_simulator.h`. Their
//! contract is that of [`super::instructions`]; nothing here can fault.

use std::ffi::c_void;

use super::block::{self, Block};
use super::observer::{Observer, Site, Who};

/// Tells whoever watches the running block of something that the running thread does.
///
/// # Safety
/// A fiber runs.
unsafe fn tell(what: impl FnOnce(&mut dyn Observer, Who)) {
    // SAFETY: by this function's contract; the borrows end before anything else runs.
    unsafe {
        let block: *mut Block = block::current();
        if let Some(watcher) = (*block).watcher {
            what(watcher.observer(), watcher.who((*(*block).current).index()));
        }
    }
}

/// The thread's next access to shared memory stands at place `site` of the source.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_site(site: u32) {
    // SAFETY: a fiber runs.
    unsafe { tell(|observer, who| observer.site(who, Site::Line(site))) }
}

/// The thread executes a transcendental operation: 0 `ex2.approx`, 1 exp, 2 log or log1p, 3 1 / sqrt, 4 a division.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_transcendental(kind: u32) {
    // SAFETY: a fiber runs.
    unsafe { tell(|observer, who| observer.transcendental(who, kind)) }
}

/// Moves the data of an access that was told of and checked before.
///
/// # Safety
/// The contract of [`super::instructions`]: both places are valid for `bytes` bytes and do not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_move(target: *mut c_void, source: *const c_void, bytes: u32) {
    // SAFETY: by this function's contract.
    unsafe { target.cast::<u8>().copy_from_nonoverlapping(source.cast(), bytes as usize) };
}

/// Makes the linker take these functions along with the machine, as [`super::instructions::keep`].
pub(super) fn keep() {
    std::hint::black_box((
        gridpoint_site as *const (),
        gridpoint_transcendental as *const (),
        gridpoint_move as *const (),
    ));
}
