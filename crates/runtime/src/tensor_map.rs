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

/// The 16-bit elements that tensor maps are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorElement {
    /// bfloat16.
    Bf16,
    /// float16.
    F16,
}

/// A tensor of 16-bit elements in device memory and the box that copies of it move; 128 opaque bytes, to be a member of a parameter struct at a
/// multiple of 64. It stays valid as long as the memory does, whatever lies there.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TensorMap {
    opaque: [u64; 16],
}

fn invalid_value() -> RuntimeError {
    driver::Error { call: "cuTensorMapEncodeTiled", code: driver::CUresult::ERROR_INVALID_VALUE }.into()
}

impl TensorMap {
    /// [`Self::new`] of bfloat16.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn bf16<const RANK: usize>(
        address: u64,
        extents: [u64; RANK],
        strides: &[u64],
        box_extents: [u32; RANK],
        swizzle: Swizzle,
    ) -> Result<Self, RuntimeError> {
        Self::new(TensorElement::Bf16, address, extents, strides, box_extents, swizzle)
    }

    /// A matrix of `rows` rows of `columns` elements, of which only the first `live` are there, a number that each copy says itself: the
    /// ragged maps of kernels/gemm_hopper.cu. The box of `box_extents` columns and rows whose first row is `r` has coordinates
    /// `(column, rows - live + r, live)`; rows from `live` on are loaded as zeros and not stored.
    ///
    /// The map's address lies `rows` rows in front of the matrix, where nothing is read or written.
    ///
    /// # Errors
    /// As [`Self::new`]; `INVALID_VALUE` also where the address is smaller than the matrix is long.
    pub fn ragged(
        element: TensorElement,
        address: u64,
        [columns, rows]: [u64; 2],
        [box_columns, box_rows]: [u32; 2],
        swizzle: Swizzle,
    ) -> Result<Self, RuntimeError> {
        let row_bytes = columns.saturating_mul(2);
        let start = address.checked_sub(rows.saturating_mul(row_bytes)).ok_or_else(invalid_value)?;
        let extents = [columns, rows, rows + 1];
        Self::new(element, start, extents, &[row_bytes, row_bytes], [box_columns, box_rows, 1], swizzle)
    }

    /// A tensor at device address `address` with dimensions `extents`, the innermost first, whose elements lie `strides` bytes apart in each
    /// dimension but the innermost. Copies move boxes of `box_extents` elements; elements outside the tensor are loaded as zeros and not
    /// stored.
    ///
    /// # Errors
    /// The driver's error: `INVALID_VALUE` where an address or stride is no multiple of 16, a box has more than 256 elements in a dimension
    /// or a row of it no multiple of 16 bytes or more than the swizzle's span.
    pub fn new<const RANK: usize>(
        element: TensorElement,
        address: u64,
        extents: [u64; RANK],
        strides: &[u64],
        box_extents: [u32; RANK],
        swizzle: Swizzle,
    ) -> Result<Self, RuntimeError> {
        const { assert!(RANK >= 1 && RANK <= 5, "tensors have 1 to 5 dimensions") };
        if strides.len() + 1 != RANK {
            return Err(invalid_value());
        }
        let mut map = CUtensorMap { opaque: [0; 16] };
        let swizzle = match swizzle {
            Swizzle::None => CUtensorMapSwizzle::NONE,
            Swizzle::Bytes32 => CUtensorMapSwizzle::SWIZZLE_32B,
            Swizzle::Bytes64 => CUtensorMapSwizzle::SWIZZLE_64B,
            Swizzle::Bytes128 => CUtensorMapSwizzle::SWIZZLE_128B,
        };
        let element = match element {
            TensorElement::Bf16 => CUtensorMapDataType::BFLOAT16,
            TensorElement::F16 => CUtensorMapDataType::FLOAT16,
        };
        let element_strides = [1_u32; RANK];
        // SAFETY: the map can be written, and the arrays hold as many elements as the rank asks for: `RANK`, one less for the strides. The
        // address is only a number here.
        let code = unsafe {
            (driver::table().cuTensorMapEncodeTiled)(
                &mut map,
                element,
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
