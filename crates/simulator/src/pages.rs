//! Host address space for virtual memory: reserved ranges, and memory that can be mapped into them and out again.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::memory::POISON;

/// Addresses that belong to nobody else; what nothing is mapped to cannot be accessed.
#[derive(Debug)]
pub(crate) struct Reservation {
    base: usize,
    bytes: usize,
}

/// Memory without an address.
#[derive(Debug)]
pub(crate) struct Backing {
    file: File,
}

/// Inaccessible pages at `address` (0 is anywhere, an address with `MAP_FIXED` in `more` replaces what is there).
fn inaccessible(address: usize, bytes: usize, more: libc::c_int) -> Option<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | more;
    let wanted = std::ptr::without_provenance_mut(address);
    // SAFETY: anonymous pages; only callers that own the range replace pages.
    let found = unsafe { libc::mmap(wanted, bytes, libc::PROT_NONE, flags, -1, 0) };
    (found != libc::MAP_FAILED).then(|| found.expose_provenance())
}

/// Gives pages back that this file took; `bytes` may be 0.
fn give_back(address: usize, bytes: usize) {
    if bytes > 0 {
        // SAFETY: the callers own the pages, and nothing refers to them any more.
        unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(address), bytes) };
    }
}

impl Reservation {
    /// `bytes` bytes at a multiple of `alignment`, a power of two, both multiples of the page size; at `wanted` where that is
    /// free. None when the host has no such range.
    pub(crate) fn new(bytes: usize, alignment: usize, wanted: usize) -> Option<Self> {
        if wanted != 0 && wanted.is_multiple_of(alignment) {
            match inaccessible(wanted, bytes, 0)? {
                base if base == wanted => return Some(Self { base, bytes }),
                elsewhere => give_back(elsewhere, bytes),
            }
        }
        let taken = bytes.checked_add(alignment)?;
        let start = inaccessible(0, taken, 0)?;
        let base = start.next_multiple_of(alignment);
        give_back(start, base - start);
        give_back(base + bytes, start + taken - (base + bytes));
        Some(Self { base, bytes })
    }

    pub(crate) fn start(&self) -> usize {
        self.base
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `bytes` bytes at `address` lie inside.
    pub(crate) fn holds(&self, address: usize, bytes: usize) -> bool {
        let offset = address.wrapping_sub(self.base);
        offset <= self.bytes && bytes <= self.bytes - offset
    }

    /// Puts the start of `backing`, which holds as many bytes, at `address`, not accessible at first. False when the host refuses or
    /// the range does not lie inside.
    pub(crate) fn map(&self, address: usize, bytes: usize, backing: &Backing) -> bool {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let at = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: the range lies in this reservation, so the pages that are replaced are its own.
        self.holds(address, bytes)
            && unsafe { libc::mmap(at, bytes, libc::PROT_NONE, flags, backing.file.as_raw_fd(), 0) } != libc::MAP_FAILED
    }

    /// Makes what is mapped at `address` accessible, or takes that back. False when the host refuses or the range does not lie inside.
    pub(crate) fn allow(&self, address: usize, bytes: usize, accessible: bool) -> bool {
        let rights = if accessible { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
        // SAFETY: the range lies in this reservation, so the pages are its own.
        self.holds(address, bytes)
            && unsafe { libc::mprotect(std::ptr::with_exposed_provenance_mut(address), bytes, rights) } == 0
    }

    /// Takes what is mapped at `address` out; the addresses stay reserved. False as for [`Self::map`].
    pub(crate) fn unmap(&self, address: usize, bytes: usize) -> bool {
        self.holds(address, bytes) && inaccessible(address, bytes, libc::MAP_FIXED).is_some()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        give_back(self.base, self.bytes);
    }
}

impl Backing {
    /// `bytes` poisoned bytes, a multiple of the page size.
    ///
    /// # Errors
    /// The host's, where it has no memory left.
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let file = unnamed_file()?;
        file.set_len(bytes as u64)?;
        // SAFETY: a new mapping of a file that only this value has, at an address of the host's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as many bytes were mapped, and nobody else knows of them.
        unsafe { start.cast::<u8>().write_bytes(POISON, bytes) };
        give_back(start.expose_provenance(), bytes);
        Ok(Self { file })
    }
}

/// A file in memory.
#[cfg(target_os = "linux")]
fn unnamed_file() -> io::Result<File> {
    use std::os::fd::FromRawFd;
    // SAFETY: the name is a zero-terminated string.
    let descriptor = unsafe { libc::memfd_create(c"gridpoint-simulator".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// A file in the folder for temporary ones whose name is gone.
#[cfg(not(target_os = "linux"))]
fn unnamed_file() -> io::Result<File> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!("gridpoint-simulator-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
