//! Tensor maps (CUDA driver API, "Tensor Map Object Management": cuTensorMapEncodeTiled).

use std::ffi::c_void;

use gridpoint_driver::{
    CUresult, CUtensorMap, CUtensorMapDataType as DataType, CUtensorMapFloatOOBfill as Fill,
    CUtensorMapInterleave as Interleave, CUtensorMapL2promotion as Promotion, CUtensorMapSwizzle as Swizzle, Table,
};

use super::{Answer, get, in_context, put};
use crate::machine::{TensorDescription, TensorElement, TensorError};

pub(super) fn fill(table: &mut Table) {
    table.cuTensorMapEncodeTiled = encode_tiled;
}

/// What CUDA aligns the object to when it is encoded.
const ALIGNMENT: usize = 64;
const MAXIMUM_RANK: u32 = 5;

fn element(kind: DataType) -> Answer<TensorElement> {
    let of = |bytes, floating| Ok(TensorElement { bytes, floating });
    match kind {
        DataType::UINT8 => of(1, false),
        DataType::UINT16 => of(2, false),
        DataType::UINT32 | DataType::INT32 => of(4, false),
        DataType::UINT64 | DataType::INT64 => of(8, false),
        DataType::FLOAT16 | DataType::BFLOAT16 => of(2, true),
        DataType::FLOAT32 => of(4, true),
        DataType::FLOAT64 => of(8, true),
        // Loads that flush or round on the way, and packed elements.
        DataType::FLOAT32_FTZ
        | DataType::TFLOAT32
        | DataType::TFLOAT32_FTZ
        | DataType::PACKED_16U4_ALIGN8B
        | DataType::PACKED_16U4_ALIGN16B
        | DataType::PACKED_16U6_ALIGN16B => Err(CUresult::ERROR_NOT_SUPPORTED),
        _ => Err(CUresult::ERROR_INVALID_VALUE),
    }
}

/// The first `count` elements of an array.
fn array<T: Copy>(pointer: *const T, count: u32) -> Answer<Vec<T>> {
    (0..count as usize)
        .map(|index| get!(if pointer.is_null() { pointer } else { pointer.wrapping_add(index) }))
        .collect()
}

/// Interleaved layouts, packed elements, element strides other than 1 and swizzles of larger atoms answer `NOT_SUPPORTED`.
unsafe extern "C" fn encode_tiled(
    map: *mut CUtensorMap,
    data_type: DataType,
    rank: u32,
    address: *mut c_void,
    extents: *const u64,
    strides: *const u64,
    box_extents: *const u32,
    element_strides: *const u32,
    interleave: Interleave,
    swizzle: Swizzle,
    promotion: Promotion,
    fill: Fill,
) -> CUresult {
    in_context(|_| {
        let invalid = Err(CUresult::ERROR_INVALID_VALUE);
        if !(map as usize).is_multiple_of(ALIGNMENT) || !(1..=MAXIMUM_RANK).contains(&rank) {
            return invalid;
        }
        if promotion > Promotion::L2_256B || fill > Fill::NAN_REQUEST_ZERO_FMA {
            return invalid;
        }
        let element = element(data_type)?;
        let swizzle_bytes = match swizzle {
            Swizzle::NONE => 0,
            Swizzle::SWIZZLE_32B => 32,
            Swizzle::SWIZZLE_64B => 64,
            Swizzle::SWIZZLE_128B => 128,
            Swizzle::SWIZZLE_128B_ATOM_32B
            | Swizzle::SWIZZLE_128B_ATOM_32B_FLIP_8B
            | Swizzle::SWIZZLE_128B_ATOM_64B => {
                return Err(CUresult::ERROR_NOT_SUPPORTED);
            }
            _ => return invalid,
        };
        match interleave {
            Interleave::NONE => {}
            Interleave::INTERLEAVE_16B | Interleave::INTERLEAVE_32B => return Err(CUresult::ERROR_NOT_SUPPORTED),
            _ => return invalid,
        }
        let (extents, strides) = (array(extents, rank)?, array(strides, rank - 1)?);
        let (box_extents, element_strides) = (array(box_extents, rank)?, array(element_strides, rank)?);
        let description = TensorDescription {
            element,
            address: address.expose_provenance() as u64,
            extents: &extents,
            strides: &strides,
            box_extents: &box_extents,
            element_strides: &element_strides,
            swizzle_bytes,
            fill_nan: fill == Fill::NAN_REQUEST_ZERO_FMA,
        };
        match description.encode() {
            Ok(opaque) => put!(map, CUtensorMap { opaque }),
            Err(TensorError::Invalid(_)) => invalid,
            Err(TensorError::NotModelled(_)) => Err(CUresult::ERROR_NOT_SUPPORTED),
        }
    })
}
