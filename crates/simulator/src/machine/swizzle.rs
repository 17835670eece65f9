//! Swizzles of shared memory, the same for tensor maps and for wgmma's matrix descriptors (PTX ISA 5.5.7 and 9.7.15.5.1.2).
//!
//! A swizzle of `S` bytes exchanges the 16-byte chunks inside each span of `S` bytes: the chunk's number is xor-ed with the number of
//! the 128-byte line that it lies in. Both are bits of the shared address, so a pattern repeats every `8 * S` bytes from addresses
//! that are multiples of that.

/// A swizzle mode, by its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swizzle {
    /// None.
    None,
    /// 32 bytes.
    Bytes32,
    /// 64 bytes.
    Bytes64,
    /// 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// The span in bytes; 16, a chunk, without swizzle.
    pub(crate) fn span(self) -> u32 {
        match self {
            Self::None => 16,
            Self::Bytes32 => 32,
            Self::Bytes64 => 64,
            Self::Bytes128 => 128,
        }
    }

    /// Where the byte at `address` lies. Bit 4 and those above, as many as chunks need, are xor-ed with bit 7 and those above.
    #[inline(always)]
    pub(crate) fn place(self, address: u32) -> u32 {
        self.place_from(address, 0)
    }

    /// As [`Swizzle::place`], with a pattern that starts at a 128-byte line whose number is `line` modulo 8.
    #[inline(always)]
    pub(crate) fn place_from(self, address: u32, line: u32) -> u32 {
        let chunks = self.span() / 16 - 1;
        address ^ ((address >> 7).wrapping_sub(line) & chunks) << 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of the manual (PTX ISA 5.5.7, "Swizzling modes"): the chunk that stands at place `column` of 128-byte line `row`.
    fn chunk_at(span: u32, row: u32, column: u32) -> u32 {
        match span {
            16 => column,
            // Pairs of chunks are exchanged in every second line.
            32 => column ^ (row & 1),
            64 => column ^ (row & 3),
            _ => column ^ (row & 7),
        }
    }

    #[test]
    fn chunks_stand_as_the_manual_draws_them() {
        for swizzle in [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128] {
            for row in 0..16 {
                for column in 0..8 {
                    for byte in [0, 5, 15] {
                        let place = swizzle.place(row * 128 + chunk_at(swizzle.span(), row, column) * 16 + byte);
                        assert_eq!(place, row * 128 + column * 16 + byte, "{swizzle:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_pattern_may_start_at_another_line() {
        for line in 0..8 {
            for offset in (0..1024).step_by(16) {
                let here = Swizzle::Bytes128.place_from(4096 + line * 128 + offset, line);
                let moved = Swizzle::Bytes128.place(4096 + offset);
                assert_eq!((here - 4096 - line * 128) / 128, (moved - 4096) / 128);
                let column = |address: u32| address / 16 % 8;
                assert_eq!(column(here), column(offset) ^ (offset / 128 % 8));
            }
        }
    }
}
