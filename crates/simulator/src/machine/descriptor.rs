//! Matrix descriptors of wgmma (PTX ISA 9.7.15.5.1.2.2) and the layouts that they name (9.7.15.5.1.2.1.3, "Canonical Layouts").
//!
//! Bits 0 to 13 are the start address, 16 to 29 the leading byte offset, 32 to 45 the stride byte offset, each divided by 16; 49 to 51
//! are the base offset and 62 to 63 the swizzle: 0 none, 1 of 128 bytes, 2 of 64, 3 of 32.
//!
//! A matrix is read in chunks of 16 bytes, eight elements. With K-major layout a chunk holds eight k of one row; with MN-major layout
//! it holds eight rows at one k ("rows" are those of A or the columns of B).

use super::swizzle::Swizzle;

/// What a descriptor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Shared address of the first element.
    pub(crate) start: u32,
    /// Leading byte offset.
    pub(crate) leading: u32,
    /// Stride byte offset.
    pub(crate) stride: u32,
    /// Number modulo 8 of the 128-byte line at which the swizzle's pattern starts.
    pub(crate) base_offset: u32,
    /// The swizzle.
    pub(crate) swizzle: Swizzle,
}

impl Descriptor {
    /// Takes the fields out of the 64 bits.
    pub(crate) fn decode(bits: u64) -> Self {
        let field = |shift: u32| (bits >> shift & 0x3fff) as u32 * 16;
        let swizzle = match bits >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::Bytes128,
            2 => Swizzle::Bytes64,
            _ => Swizzle::Bytes32,
        };
        Self { start: field(0), leading: field(16), stride: field(32), base_offset: (bits >> 49 & 7) as u32, swizzle }
    }

    /// Why the bits are no descriptor: bits that mean nothing are set.
    pub(crate) fn refusal(bits: u64) -> Option<&'static str> {
        /// All bits that belong to no field: 14, 15, 30, 31, 46 to 48, 52 to 61.
        const NOTHING: u64 = 0x3ff1_c000_c000_c000;
        if bits & NOTHING != 0 {
            return Some("bits outside its fields are set");
        }
        let descriptor = Self::decode(bits);
        (descriptor.swizzle == Swizzle::None && descriptor.base_offset != 0)
            .then_some("a base offset without swizzle means nothing")
    }

    /// Shared address of the chunk that holds k from `8 * chunk` on of row `row`, K-major.
    #[inline(always)]
    pub(crate) fn k_major(&self, row: u32, chunk: u32) -> u32 {
        let across = if self.swizzle == Swizzle::None { self.leading } else { 16 };
        self.place(row % 8 * self.swizzle.span() + row / 8 * self.stride + chunk * across)
    }

    /// Shared address of the chunk that holds rows from `8 * chunk` on at `k`, MN-major.
    #[inline(always)]
    pub(crate) fn row_major(&self, chunk: u32, k: u32) -> u32 {
        let chunks = self.swizzle.span() / 16;
        let (next_chunks, next_k) =
            if self.swizzle == Swizzle::None { (self.stride, self.leading) } else { (self.leading, self.stride) };
        self.place(chunk % chunks * 16 + chunk / chunks * next_chunks + k % 8 * self.swizzle.span() + k / 8 * next_k)
    }

    #[inline(always)]
    fn place(&self, offset: u32) -> u32 {
        self.swizzle.place_from(self.start.wrapping_add(offset), self.base_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(start: u32, leading: u32, stride: u32, base: u32, mode: u64) -> u64 {
        u64::from(start / 16)
            | u64::from(leading / 16) << 16
            | u64::from(stride / 16) << 32
            | u64::from(base) << 49
            | mode << 62
    }

    #[test]
    fn fields_come_out_as_they_went_in() {
        let bits = encode(0x1_2340, 0x80, 0x3_fff0, 5, 1);
        let expected =
            Descriptor { start: 0x1_2340, leading: 0x80, stride: 0x3_fff0, base_offset: 5, swizzle: Swizzle::Bytes128 };
        assert_eq!(Descriptor::decode(bits), expected);
        assert_eq!(Descriptor::refusal(bits), None);
        assert!(Descriptor::refusal(bits | 1 << 14).is_some() && Descriptor::refusal(bits | 1 << 61).is_some());
        assert!(Descriptor::refusal(encode(0, 0, 0, 1, 0)).is_some());
    }

    /// The canonical layouts as the manual writes them, as (shape):(stride) in elements of two bytes with T = 8.
    #[test]
    fn chunks_lie_in_the_canonical_layouts() {
        const T: u32 = 8;
        let (leading, stride) = (0x1400, 0x2800);
        for (mode, width, bits) in [(0, 1, 0), (3, 2, 1), (2, 4, 2), (1, 8, 3)] {
            let descriptor = Descriptor::decode(encode(0x8000, leading, stride, 0, mode));
            let (lbo, sbo) = (leading / 2, stride / 2);
            // Swizzle<bits, 4, 3> on byte addresses.
            let swizzled = |element: u32| {
                let address = 0x8000 + element * 2;
                address ^ (address >> 7 & ((1 << bits) - 1)) << 4
            };
            for row in 0..64 {
                for k in (0..16).step_by(8) {
                    // K-major: ((8,m),(T,2k)) : ((width * T, SBO), (1, LBO or T)).
                    let next = if width == 1 { lbo } else { T };
                    let element = row % 8 * width * T + row / 8 * sbo + k / T * next;
                    assert_eq!(descriptor.k_major(row, k / 8), swizzled(element), "K-major, width {width}");
                }
            }
            for row in (0..256).step_by(8) {
                for k in 0..16 {
                    // MN-major: ((T,width,m),(8,k)) : ((1,T,LBO),(width * T,SBO)); LBO and SBO change places without swizzle.
                    let (m, n) = if width == 1 { (sbo, lbo) } else { (lbo, sbo) };
                    let element = row / T % width * T + row / T / width * m + k % 8 * width * T + k / 8 * n;
                    assert_eq!(descriptor.row_major(row / 8, k), swizzled(element), "MN-major, width {width}");
                }
            }
        }
    }
}
