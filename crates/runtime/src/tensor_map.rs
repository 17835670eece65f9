//! Tensor maps: what a kernel hands to bulk-tensor copies.

use bytemuck::{Pod, Zeroable};
use gridpoint_driver::{
    self as driver, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};

use crate::RuntimeError;

/// How a box lies in shared memory: chunks of 16 bytes are exchanged within spans of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Rows one after another.
    None,
    /// Spans of 32 bytes.
    Bytes32,
    /// Spans of 64 bytes.
    Bytes64,
    /// Spans of 128 bytes.
    Bytes128,
}

/// A tensor of bfloat16 in device memory and the box that copies of it move; 128 opaque bytes, to be a member of a parameter struct at a
/// multiple of 64. It stays valid as long as the memory does, whatever lies there.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TensorMap {
    opaque: [u64; 16],
}

impl TensorMap {
    /// A tensor at device address `address` with dimensions `extents`, the innermost first, whose elements lie `strides` bytes apart in each
    /// dimension but the innermost. Copies move boxes of `box_extents` elements; elements outside the tensor are loaded as zeros and not
    /// stored.
    ///
    /// # Errors
    /// The driver's error: `INVALID_VALUE` where an address or stride is no multiple of 16, a box has more than 256 elements in a dimension
    /// or a row of it no multiple of 16 bytes or more than the swizzle's span.
    pub fn bf16<const RANK: usize>(
        address: u64,
        extents: [u64; RANK],
        strides: &[u64],
        box_extents: [u32; RANK],
        swizzle: Swizzle,
    ) -> Result<Self, RuntimeError> {
        const { assert!(RANK >= 1 && RANK <= 5, "tensors have 1 to 5 dimensions") };
        if strides.len() + 1 != RANK {
            return Err(
                driver::Error { call: "cuTensorMapEncodeTiled", code: driver::CUresult::ERROR_INVALID_VALUE }.into()
            );
        }
        let mut map = CUtensorMap { opaque: [0; 16] };
        let swizzle = match swizzle {
            Swizzle::None => CUtensorMapSwizzle::NONE,
            Swizzle::Bytes32 => CUtensorMapSwizzle::SWIZZLE_32B,
            Swizzle::Bytes64 => CUtensorMapSwizzle::SWIZZLE_64B,
            Swizzle::Bytes128 => CUtensorMapSwizzle::SWIZZLE_128B,
        };
        let element_strides = [1_u32; RANK];
        // SAFETY: the map can be written, and the arrays hold as many elements as the rank asks for: `RANK`, one less for the strides. The
        // address is only a number here.
        let code = unsafe {
            (driver::table().cuTensorMapEncodeTiled)(
                &mut map,
                CUtensorMapDataType::BFLOAT16,
                RANK as u32,
                std::ptr::with_exposed_provenance_mut(address as usize),
                extents.as_ptr(),
                strides.as_ptr(),
                box_extents.as_ptr(),
                element_strides.as_ptr(),
                CUtensorMapInterleave::NONE,
                swizzle,
                CUtensorMapL2promotion::L2_128B,
                CUtensorMapFloatOOBfill::NONE,
            )
        };
        driver::check("cuTensorMapEncodeTiled", code)?;
        Ok(Self { opaque: map.opaque })
    }
}
