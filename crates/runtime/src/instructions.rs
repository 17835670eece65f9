//! The parameter struct of the kernels in tests/instructions, which try each instruction by itself.

use bytemuck::{Pod, Zeroable};

use crate::TensorMap;

/// `InstructionParameters` of tests/instructions/parameters.h.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct InstructionParameters {
    /// Tensor maps.
    pub maps: [TensorMap; 3],
    /// Device address of the operands.
    pub input: u64,
    /// Device address of the results.
    pub output: u64,
    /// Whatever the kernel wants.
    pub numbers: [u32; 12],
}

const _: () = assert!(size_of::<InstructionParameters>() == 448, "the header states 448 bytes");

/// [`InstructionParameters`] for the module of the product.
#[doc(hidden)]
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct GroupGemmParameters(pub InstructionParameters);
