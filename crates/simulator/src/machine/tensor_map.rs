//! Tensor maps (PTX ISA 5.5, "Tensors"; CUDA driver API, `cuTensorMapEncodeTiled`): 128 bytes that describe a tensor in global memory, a
//! box that bulk-tensor copies move, and how the box lies in shared memory.
//!
//! The bytes are opaque to everybody but the driver that makes them and the machine that reads them. A real driver's look different.

use super::swizzle::Swizzle;

/// The most dimensions.
pub(crate) const MAXIMUM_RANK: usize = 5;
/// Bytes of the object.
pub(crate) const BYTES: usize = 128;
/// What the address of a tensor map is a multiple of.
pub(crate) const ALIGNMENT: usize = 64;
/// What the address of a box in shared memory is a multiple of (PTX ISA 5.5.7; CUDA C++ Programming Guide, "Tensor Memory Access").
pub(crate) const BOX_ALIGNMENT: u32 = 128;

/// "gptensor", little-endian.
const MAGIC: u64 = u64::from_le_bytes(*b"gptensor");

/// What elements outside the tensor are filled with by a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Zeros.
    Zeros,
    /// The NaN whose bits are all set but the sign; which NaN a GPU takes is not documented.
    Nan,
}

/// A tensor map whose fields keep CUDA's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TensorMap {
    /// Device address of element 0.
    pub(crate) address: u64,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub(crate) element_bytes: u32,
    /// Dimensions in use.
    pub(crate) rank: usize,
    /// Elements of each dimension, the innermost first; 1 beyond the rank.
    pub(crate) extents: [u64; MAXIMUM_RANK],
    /// Bytes from one element to the next in each dimension; the innermost's are an element's.
    pub(crate) strides: [u64; MAXIMUM_RANK],
    /// Elements of the box in each dimension; 1 beyond the rank.
    pub(crate) box_extents: [u32; MAXIMUM_RANK],
    /// How the box lies in shared memory.
    pub(crate) swizzle: Swizzle,
    /// What lies outside the tensor.
    pub(crate) fill: Fill,
}

/// A stretch of a box along its innermost dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its offset from the box's start in shared memory, before swizzling.
    pub(crate) offset: u32,
    /// Device address of its first element inside the tensor.
    pub(crate) address: u64,
    /// Bytes before, inside and behind the tensor; nothing is inside where another dimension is outside.
    pub(crate) before: u32,
    /// Bytes inside the tensor.
    pub(crate) inside: u32,
    /// Bytes behind it.
    pub(crate) behind: u32,
}

impl TensorMap {
    /// The opaque object.
    pub(crate) fn encode(&self) -> [u64; BYTES / 8] {
        let mut words = [0; BYTES / 8];
        let swizzle = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 1,
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes128 => 3,
        };
        let fill = u64::from(self.fill == Fill::Nan);
        words[0] = MAGIC;
        words[1] = self.address;
        words[2] = u64::from(self.element_bytes) | (self.rank as u64) << 8 | swizzle << 16 | fill << 24;
        for dimension in 0..MAXIMUM_RANK {
            // A dimension has at most 2^32 elements, which is kept as the last index; a box at most 256.
            words[3 + dimension] =
                (self.extents[dimension] - 1) & 0xffff_ffff | u64::from(self.box_extents[dimension]) << 32;
            words[8 + dimension] = self.strides[dimension];
        }
        words
    }

    /// The map that an object holds; none when it was not made by [`TensorMap::encode`].
    pub(crate) fn decode(words: &[u64; BYTES / 8]) -> Option<Self> {
        if words[0] != MAGIC {
            return None;
        }
        let field = |shift: u32| (words[2] >> shift & 0xff) as u32;
        let swizzle = match field(16) {
            0 => Swizzle::None,
            1 => Swizzle::Bytes32,
            2 => Swizzle::Bytes64,
            3 => Swizzle::Bytes128,
            _ => return None,
        };
        let map = Self {
            address: words[1],
            element_bytes: field(0),
            rank: field(8) as usize,
            extents: std::array::from_fn(|dimension| (words[3 + dimension] & 0xffff_ffff) + 1),
            strides: std::array::from_fn(|dimension| words[8 + dimension]),
            box_extents: std::array::from_fn(|dimension| (words[3 + dimension] >> 32) as u32),
            swizzle,
            fill: if field(24) == 0 { Fill::Zeros } else { Fill::Nan },
        };
        let fits = (1..=MAXIMUM_RANK).contains(&map.rank)
            && matches!(map.element_bytes, 1 | 2 | 4 | 8)
            && map.box_extents.iter().all(|extent| (1..=256).contains(extent));
        fits.then_some(map)
    }

    /// Bytes of a row of the box.
    pub(crate) fn row_bytes(&self) -> u32 {
        self.box_extents[0] * self.element_bytes
    }

    /// Bytes of the box: what a load announces to its mbarrier, whatever lies outside the tensor.
    pub(crate) fn box_bytes(&self) -> u32 {
        self.box_extents.iter().product::<u32>() * self.element_bytes
    }

    /// Calls `visit` with each row of the box whose first element has `coordinates`, in ascending order, until it fails.
    pub(crate) fn rows<E>(
        &self,
        coordinates: [i32; MAXIMUM_RANK],
        mut visit: impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let row_bytes = self.row_bytes();
        let elements = i64::from(self.box_extents[0]);
        let first = i64::from(coordinates[0]);
        let start = first.clamp(0, self.extents[0] as i64);
        let end = (first + elements).clamp(start, self.extents[0] as i64);
        let before = (start - first).clamp(0, elements) as u32 * self.element_bytes;
        let inside = (end - start) as u32 * self.element_bytes;
        let rows: u32 = self.box_extents[1..].iter().product();
        let mut index = [0u32; MAXIMUM_RANK];
        for row in 0..rows {
            let mut address = self.address.wrapping_add((start as u64).wrapping_mul(self.element_bytes.into()));
            let mut outside = false;
            for dimension in 1..MAXIMUM_RANK {
                let place = i64::from(coordinates[dimension]) + i64::from(index[dimension]);
                outside |= place < 0 || place >= self.extents[dimension] as i64;
                address = address.wrapping_add((place as u64).wrapping_mul(self.strides[dimension]));
            }
            let (before, inside) = if outside { (row_bytes, 0) } else { (before, inside) };
            visit(Row { offset: row * row_bytes, address, before, inside, behind: row_bytes - before - inside })?;
            for (index, &extent) in index[1..].iter_mut().zip(&self.box_extents[1..]) {
                *index += 1;
                if *index < extent {
                    break;
                }
                *index = 0;
            }
        }
        Ok(())
    }

    /// The bytes of one element outside the tensor.
    pub(crate) fn fill_element(&self) -> [u8; 8] {
        match self.fill {
            Fill::Zeros => [0; 8],
            Fill::Nan => {
                let mut bytes = [0xff; 8];
                bytes[self.element_bytes as usize - 1] = 0x7f;
                bytes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> TensorMap {
        TensorMap {
            address: 0x1_0000,
            element_bytes: 2,
            rank: 3,
            extents: [100, 7, 1 << 32, 1, 1],
            strides: [2, 208, 1 << 20, 0, 0],
            box_extents: [64, 4, 2, 1, 1],
            swizzle: Swizzle::Bytes128,
            fill: Fill::Nan,
        }
    }

    #[test]
    fn an_object_holds_its_map() {
        assert_eq!(TensorMap::decode(&map().encode()), Some(map()));
        assert_eq!(TensorMap::decode(&[0; 16]), None);
        assert_eq!(map().fill_element()[..2], [0xff, 0x7f]);
    }

    #[test]
    fn rows_are_cut_at_the_tensor() {
        // Every element of every box against the definition.
        let map = map();
        for coordinates in [[0, 0, 0], [64, 4, 1], [-3, -1, -1], [99, 6, 5], [100, 0, 0], [-64, 0, 0], [-65, 7, 0]] {
            let coordinates = [coordinates[0], coordinates[1], coordinates[2], 0, 0];
            let mut offset = 0;
            let visited: Result<(), ()> = map.rows(coordinates, |row| {
                assert_eq!(row.offset, offset);
                let index = [offset / 128 % 4, offset / 512];
                for element in 0..64u32 {
                    let place = [
                        i64::from(coordinates[0]) + i64::from(element),
                        i64::from(coordinates[1]) + i64::from(index[0]),
                        i64::from(coordinates[2]) + i64::from(index[1]),
                    ];
                    let inside = (0..100).contains(&place[0])
                        && (0..7).contains(&place[1])
                        && (0..1i64 << 32).contains(&place[2]);
                    let byte = element * 2;
                    assert_eq!(
                        byte >= row.before && byte < row.before + row.inside,
                        inside,
                        "{coordinates:?} {place:?}"
                    );
                    if inside {
                        let address = 0x1_0000 + place[0] * 2 + place[1] * 208 + (place[2] << 20);
                        assert_eq!(row.address + u64::from(byte - row.before), address as u64);
                    }
                }
                assert_eq!(row.before + row.inside + row.behind, 128);
                offset += 128;
                Ok(())
            });
            assert_eq!((visited, offset), (Ok(()), 1024));
        }
    }
}
