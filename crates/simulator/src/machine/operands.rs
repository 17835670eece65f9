//! The operands of `wgmma`: which shared memory an operation reads, and how matrices become panels of float32.

use super::descriptor::Descriptor;
use super::memory::SharedMemory;
use super::mma::{GROUP_ROWS, GroupPanels, Half};
use super::proxy::Proxy;
use super::thread::WARP_THREADS;
use crate::fault::{Access, Reason};

/// Warps of a warpgroup.
pub(crate) const WARPS: usize = 4;
/// Rows of a warp.
pub(crate) const WARP_ROWS: usize = GROUP_ROWS / WARPS;
/// Columns of a tile.
pub(crate) const COLUMNS: usize = 8;
const DEPTH: u32 = 16;
/// Bytes of a chunk: eight elements.
const CHUNK: u32 = 16;

/// Fragments of a in registers, by warp and lane.
pub(crate) type Fragments = [[[u32; 4]; WARP_THREADS as usize]; WARPS];

/// The qualifiers of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// N: a multiple of 8 to 256.
    pub(crate) columns: usize,
    pub(crate) half: Half,
    /// a lies in registers.
    pub(crate) a_in_registers: bool,
    /// a is M-major.
    pub(crate) a_transposed: bool,
    /// b is N-major.
    pub(crate) b_transposed: bool,
    pub(crate) a_negated: bool,
    pub(crate) b_negated: bool,
    /// d takes part in the sum.
    pub(crate) scale_d: bool,
}

impl Shape {
    #[inline(always)]
    fn value(self, bits: u16, negated: bool) -> f32 {
        self.half.value(if negated { bits ^ 0x8000 } else { bits })
    }
}

/// Whether the operands in shared memory hold no generic write that wgmma would not see.
pub(crate) fn check_visible(proxy: &Proxy, shape: Shape, a: u64, b: u64) -> Result<(), Reason> {
    if proxy.clean() {
        return Ok(());
    }
    chunks(shape, a, b, |address| {
        let hidden = proxy.unfenced(address.saturating_sub(super::SHARED_BASE), CHUNK);
        super::copy_issue::unfenced("wgmma's read", hidden)
    })
}

/// Calls `visit` with the shared address of each 16-byte chunk that the operation reads, until it fails.
pub(crate) fn chunks<E>(shape: Shape, a: u64, b: u64, mut visit: impl FnMut(u32) -> Result<(), E>) -> Result<(), E> {
    let mut matrix = |bits: u64, transposed: bool, rows: u32| {
        let descriptor = Descriptor::decode(bits);
        if transposed {
            let mut chunks = (0..rows / 8).flat_map(|row| (0..DEPTH).map(move |k| (row, k)));
            chunks.try_for_each(|(row, k)| visit(descriptor.row_major(row, k)))
        } else {
            let mut chunks = (0..rows).flat_map(|row| (0..2).map(move |k| (row, k)));
            chunks.try_for_each(|(row, k)| visit(descriptor.k_major(row, k)))
        }
    };
    if !shape.a_in_registers {
        matrix(a, shape.a_transposed, GROUP_ROWS as u32)?;
    }
    matrix(b, shape.b_transposed, shape.columns as u32)
}

/// The stretches of shared memory that the operation reads: addresses and bytes, ascending.
pub(crate) fn stretches(shape: Shape, a: u64, b: u64) -> Vec<(u32, u32)> {
    let mut addresses = Vec::new();
    let visited: Result<(), std::convert::Infallible> = chunks(shape, a, b, |address| {
        addresses.push(address);
        Ok(())
    });
    let Ok(()) = visited;
    addresses.sort_unstable();
    addresses.dedup();
    let mut stretches: Vec<(u32, u32)> = Vec::new();
    for address in addresses {
        match stretches.last_mut() {
            Some((first, bytes)) if *first + *bytes == address => *bytes += CHUNK,
            _ => stretches.push((address, CHUNK)),
        }
    }
    stretches
}

/// The chunk at a shared address.
#[inline(always)]
fn chunk(shared: &SharedMemory, address: u32) -> Result<[u16; 8], Reason> {
    match shared.find_observed(address, CHUNK, CHUNK) {
        // SAFETY: sixteen bytes of the window at a multiple of sixteen.
        Some(pointer) => Ok(unsafe { pointer.cast::<[u16; 8]>().read() }),
        None => Err(shared.refusal(Access::Read, address, CHUNK, CHUNK)),
    }
}

/// Converts a out of registers: those of `mma.sync.m16n8k16` for each warp's sixteen rows.
pub(crate) fn a_in_registers(panels: &mut GroupPanels, shape: Shape, fragments: &Fragments) {
    for (warp, lanes) in fragments.iter().enumerate() {
        for (lane, words) in lanes.iter().enumerate() {
            for (i, word) in words.iter().enumerate() {
                let row = &mut panels.a[warp * WARP_ROWS + lane / 4 + 8 * (i % 2)];
                let column = 2 * (lane % 4) + 8 * (i / 2);
                row[column] = shape.value(*word as u16, shape.a_negated);
                row[column + 1] = shape.value((*word >> 16) as u16, shape.a_negated);
            }
        }
    }
}

/// Converts a out of shared memory.
pub(crate) fn a_in_memory(
    panels: &mut GroupPanels,
    shape: Shape,
    bits: u64,
    shared: &SharedMemory,
) -> Result<(), Reason> {
    let a = Descriptor::decode(bits);
    if shape.a_transposed {
        for (chunk_of_rows, rows) in (0u32..).zip(panels.a.chunks_exact_mut(8)) {
            for k in 0..DEPTH {
                for (row, bits) in rows.iter_mut().zip(chunk(shared, a.row_major(chunk_of_rows, k))?) {
                    row[k as usize] = shape.value(bits, shape.a_negated);
                }
            }
        }
        return Ok(());
    }
    for (row, values) in (0u32..).zip(&mut panels.a) {
        for (k, values) in (0u32..).zip(values.chunks_exact_mut(8)) {
            for (value, bits) in values.iter_mut().zip(chunk(shared, a.k_major(row, k))?) {
                *value = shape.value(bits, shape.a_negated);
            }
        }
    }
    Ok(())
}

/// Converts b out of shared memory.
pub(crate) fn b(panels: &mut GroupPanels, shape: Shape, bits: u64, shared: &SharedMemory) -> Result<(), Reason> {
    let b = Descriptor::decode(bits);
    for (tile, rows) in (0u32..).zip(&mut panels.b[..shape.columns / COLUMNS]) {
        if shape.b_transposed {
            for (k, row) in (0u32..).zip(rows.iter_mut()) {
                *row = chunk(shared, b.row_major(tile, k))?.map(|bits| shape.value(bits, shape.b_negated));
            }
            continue;
        }
        for column in 0..COLUMNS as u32 {
            for (k, rows) in (0u32..).zip(rows.chunks_exact_mut(8)) {
                let bits = chunk(shared, b.k_major(tile * COLUMNS as u32 + column, k))?;
                for (row, bits) in rows.iter_mut().zip(bits) {
                    row[column as usize] = shape.value(bits, shape.b_negated);
                }
            }
        }
    }
    Ok(())
}
