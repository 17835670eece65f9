//! What is asked of `cuTensorMapEncodeTiled`, and CUDA's rules for it (driver API, "Tensor Map Object Management").

use super::swizzle::Swizzle;
use super::tensor_map::{self, Fill, MAXIMUM_RANK, TensorMap};

/// The type of a tensor's elements, as the machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorElement {
    /// Bytes: 1, 2, 4 or 8.
    pub bytes: u32,
    /// It is a floating-point number.
    pub floating: bool,
}

/// A tensor and the box that copies of it move: the arguments of `cuTensorMapEncodeTiled`, dimensions from the innermost.
#[derive(Clone, Debug)]
pub struct TensorDescription<'a> {
    /// The elements.
    pub element: TensorElement,
    /// Device address of the first one.
    pub address: u64,
    /// Elements of each dimension.
    pub extents: &'a [u64],
    /// Bytes from one element to the next in each dimension but the innermost.
    pub strides: &'a [u64],
    /// Elements of the box in each dimension.
    pub box_extents: &'a [u32],
    /// Steps through the tensor in each dimension; only ones are modelled.
    pub element_strides: &'a [u32],
    /// Bytes of the swizzle's span: 0, 32, 64 or 128.
    pub swizzle_bytes: u32,
    /// What lies outside is filled with NaN instead of zeros.
    pub fill_nan: bool,
}

/// Why there is no such tensor map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// CUDA refuses it.
    #[error("{0}")]
    Invalid(String),
    /// CUDA allows it, and the machine does not have it.
    #[error("{0}: not modelled")]
    NotModelled(&'static str),
}

impl TensorDescription<'_> {
    /// The opaque object, 128 bytes.
    ///
    /// # Errors
    /// [`TensorError`] names the first rule that is broken.
    pub fn encode(&self) -> Result<[u64; tensor_map::BYTES / 8], TensorError> {
        let invalid = |words: String| Err(TensorError::Invalid(words));
        let rank = self.extents.len();
        if !(1..=MAXIMUM_RANK).contains(&rank) {
            return invalid(format!("rank {rank}: must be 1 to {MAXIMUM_RANK}"));
        }
        if self.strides.len() + 1 != rank || self.box_extents.len() != rank || self.element_strides.len() != rank {
            return invalid("extents, strides and boxes have different ranks".to_owned());
        }
        if !self.address.is_multiple_of(16) {
            return invalid(format!("address `{:#x}`: must be a multiple of 16", self.address));
        }
        if let Some(extent) = self.extents.iter().find(|extent| !(1..=1 << 32).contains(*extent)) {
            return invalid(format!("extent {extent}: must be 1 to 2^32"));
        }
        if let Some(stride) = self.strides.iter().find(|stride| !stride.is_multiple_of(16) || **stride >= 1 << 40) {
            return invalid(format!("stride {stride}: must be a multiple of 16 below 2^40"));
        }
        if let Some(extent) = self.box_extents.iter().find(|extent| !(1..=256).contains(*extent)) {
            return invalid(format!("box extent {extent}: must be 1 to 256"));
        }
        let row_bytes = self.box_extents[0] * self.element.bytes;
        if !row_bytes.is_multiple_of(16) {
            return invalid(format!("a box's row has {row_bytes} bytes: must be a multiple of 16"));
        }
        if let Some(step) = self.element_strides.iter().find(|step| !(1..=8).contains(*step)) {
            return invalid(format!("element stride {step}: must be 1 to 8"));
        }
        // The innermost one is ignored without interleave.
        if self.element_strides[1..].iter().any(|&step| step != 1) {
            return Err(TensorError::NotModelled("an element stride other than 1"));
        }
        let swizzle = match self.swizzle_bytes {
            0 => Swizzle::None,
            32 => Swizzle::Bytes32,
            64 => Swizzle::Bytes64,
            128 => Swizzle::Bytes128,
            other => return invalid(format!("a swizzle of {other} bytes: must be 32, 64 or 128")),
        };
        if swizzle != Swizzle::None && row_bytes > swizzle.span() {
            let span = swizzle.span();
            return invalid(format!("a box's row has {row_bytes} bytes: a swizzle of {span} takes at most {span}"));
        }
        if self.fill_nan && !self.element.floating {
            return invalid("elements that are no floating-point numbers cannot be filled with NaN".to_owned());
        }
        let mut map = TensorMap {
            address: self.address,
            element_bytes: self.element.bytes,
            rank,
            extents: [1; MAXIMUM_RANK],
            strides: [0; MAXIMUM_RANK],
            box_extents: [1; MAXIMUM_RANK],
            swizzle,
            fill: if self.fill_nan { Fill::Nan } else { Fill::Zeros },
        };
        map.extents[..rank].copy_from_slice(self.extents);
        map.strides[0] = self.element.bytes.into();
        map.strides[1..rank].copy_from_slice(self.strides);
        map.box_extents[..rank].copy_from_slice(self.box_extents);
        Ok(map.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BF16: TensorElement = TensorElement { bytes: 2, floating: true };

    fn description<'a>() -> TensorDescription<'a> {
        TensorDescription {
            element: BF16,
            address: 0x1000,
            extents: &[128, 64],
            strides: &[256],
            box_extents: &[64, 64],
            element_strides: &[1, 1],
            swizzle_bytes: 128,
            fill_nan: true,
        }
    }

    #[test]
    fn every_rule_is_kept() {
        assert!(description().encode().is_ok());
        let broken = [
            TensorDescription { address: 0x1008, ..description() },
            TensorDescription { extents: &[128, 0], ..description() },
            TensorDescription { extents: &[128, (1 << 32) + 1], ..description() },
            TensorDescription { strides: &[264], ..description() },
            TensorDescription { strides: &[1 << 40], ..description() },
            TensorDescription { strides: &[], ..description() },
            TensorDescription { extents: &[], strides: &[], box_extents: &[], element_strides: &[], ..description() },
            TensorDescription { box_extents: &[64, 257], ..description() },
            TensorDescription { box_extents: &[0, 64], ..description() },
            TensorDescription { box_extents: &[4, 64], ..description() },
            TensorDescription { box_extents: &[72, 64], ..description() },
            TensorDescription { box_extents: &[64, 64], swizzle_bytes: 64, ..description() },
            TensorDescription { box_extents: &[64, 64], swizzle_bytes: 96, ..description() },
            TensorDescription { element_strides: &[1, 9], ..description() },
            TensorDescription { element: TensorElement { bytes: 2, floating: false }, ..description() },
        ];
        for (index, broken) in broken.iter().enumerate() {
            assert!(matches!(broken.encode(), Err(TensorError::Invalid(_))), "{index}");
        }
        let steps = TensorDescription { element_strides: &[1, 2], ..description() };
        assert!(matches!(steps.encode(), Err(TensorError::NotModelled(_))));
        // 2^32 elements are allowed.
        assert!(TensorDescription { extents: &[128, 1 << 32], ..description() }.encode().is_ok());
    }
}
