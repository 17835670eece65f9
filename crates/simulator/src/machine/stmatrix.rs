//! What `stmatrix` does (PTX ISA 9.7.14.5.16): the way back of `ldmatrix`.

use super::warp::Warp;

/// Row `r` of matrix `i` goes to the address of lane `8 * i + r`; lane `4 * r + t` has elements `2 * t` and `2 * t + 1` of row `r`, or
/// with `transposed` of column `r`, in its register `i`.
///
/// # Safety
/// The first `8 * count` lanes' second pointers are valid for writes of 16 bytes of a row, and the first pointer of each lane is valid
/// for `count` words.
pub(crate) unsafe fn store_matrix(warp: &Warp, count: u32, transposed: bool) {
    for matrix in 0..count as usize {
        let mut elements = [[0u16; 8]; 8];
        for (lane, deposit) in warp.deposits.iter().enumerate() {
            // SAFETY: by this function's contract.
            let word = unsafe { (deposit.pointers[0] as *const u32).add(matrix).read() };
            for (i, half) in [word as u16, (word >> 16) as u16].into_iter().enumerate() {
                let (row, column) = (lane / 4, lane % 4 * 2 + i);
                let (row, column) = if transposed { (column, row) } else { (row, column) };
                elements[row][column] = half;
            }
        }
        for (row, elements) in elements.into_iter().enumerate() {
            let pointer = warp.deposits[8 * matrix + row].pointers[1] as *mut [u16; 8];
            // SAFETY: by this function's contract.
            unsafe { pointer.write_unaligned(elements) };
        }
    }
}
