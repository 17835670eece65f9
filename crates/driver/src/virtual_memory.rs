//! Types of virtual memory management (CUDA driver API, "Virtual Memory Management").

use std::ffi::{c_int, c_uchar, c_uint, c_ushort, c_void};

use crate::types::constants;

/// Physical memory.
pub type CUmemGenericAllocationHandle = u64;

constants! {
    /// The kind of a place where memory is.
    CUmemLocationType { INVALID = 0; DEVICE = 1; HOST = 2; }
    /// The kind of physical memory.
    CUmemAllocationType { INVALID = 0; PINNED = 1; }
    /// Which granularity is asked for.
    CUmemAllocationGranularity_flags { MINIMUM = 0; RECOMMENDED = 1; }
    /// What a place may do with mapped memory.
    CUmemAccess_flags { PROT_NONE = 0; PROT_READ = 1; PROT_READWRITE = 3; }
}

/// A place where memory is, or from where it is accessed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CUmemLocation {
    /// Its kind.
    pub kind: CUmemLocationType,
    /// For a device: its ordinal.
    pub id: c_int,
}

/// Properties of physical memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUmemAllocationProp {
    /// Its kind.
    pub kind: CUmemAllocationType,
    /// How it may be shared with other processes; 0 is not at all.
    pub requested_handle_types: c_uint,
    /// Where it is.
    pub location: CUmemLocation,
    /// For Windows.
    pub win32_handle_meta_data: *mut c_void,
    /// Whether it is compressible.
    pub compression_type: c_uchar,
    /// Whether remote direct access is wanted.
    pub gpu_direct_rdma_capable: c_uchar,
    /// Intended use.
    pub usage: c_ushort,
    /// Zero.
    pub reserved: [c_uchar; 4],
}

impl Default for CUmemAllocationProp {
    fn default() -> Self {
        Self {
            kind: CUmemAllocationType::INVALID,
            requested_handle_types: 0,
            location: CUmemLocation::default(),
            win32_handle_meta_data: std::ptr::null_mut(),
            compression_type: 0,
            gpu_direct_rdma_capable: 0,
            usage: 0,
            reserved: [0; 4],
        }
    }
}

/// Who may access mapped memory, and how.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CUmemAccessDesc {
    /// Who.
    pub location: CUmemLocation,
    /// How.
    pub flags: CUmemAccess_flags,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    /// Sizes and offsets as a C compiler lays them out from the CUDA 13.0 headers on x86-64 and aarch64 Linux.
    #[test]
    fn layouts_are_those_of_the_c_headers() {
        assert_eq!(size_of::<CUmemLocation>(), 8);
        assert_eq!(size_of::<CUmemAllocationProp>(), 32);
        assert_eq!(
            [
                offset_of!(CUmemAllocationProp, location),
                offset_of!(CUmemAllocationProp, win32_handle_meta_data),
                offset_of!(CUmemAllocationProp, compression_type),
                offset_of!(CUmemAllocationProp, usage)
            ],
            [8, 16, 24, 26]
        );
        assert_eq!((size_of::<CUmemAccessDesc>(), offset_of!(CUmemAccessDesc, flags)), (12, 8));
    }
}
