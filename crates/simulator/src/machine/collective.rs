//! What the last lane to arrive in a collective instruction does for all lanes of it.

use super::thread::WARP_THREADS;
use super::warp::Warp;
use crate::fault::Reason;

/// Modes of `gridpoint_shuffle`.
const INDEX: u32 = 0;
const UP: u32 = 1;
const DOWN: u32 = 2;
/// Exclusive-or; modes above are refused before.
pub(crate) const BUTTERFLY: u32 = 3;

/// Bytes of a row of an ldmatrix matrix.
pub(crate) const MATRIX_ROW_BYTES: u32 = 16;

/// `shfl.sync` over whole warps (PTX ISA 9.7.9.6): the low five bits of the operand count, and a lane whose source would lie outside the
/// warp keeps its own value. A source outside the mask, which PTX leaves undefined, is an error with the lane that asked.
pub(crate) fn shuffle(warp: &mut Warp, mode: u32, mask: u32) -> Result<(), (u32, Reason)> {
    for lane in lanes(mask) {
        let operand = warp.deposits[lane as usize].operand % WARP_THREADS;
        let source = match mode {
            INDEX => operand,
            UP => lane.checked_sub(operand).unwrap_or(lane),
            DOWN => Some(lane + operand).filter(|&source| source < WARP_THREADS).unwrap_or(lane),
            _ => lane ^ operand,
        };
        if mask >> source & 1 == 0 {
            let detail = format!("shfl.sync: lane {lane} reads lane {source}, which mask `{mask:#010x}` does not name");
            return Err((lane, Reason::InvalidOperand { detail }));
        }
        warp.results[lane as usize] = warp.deposits[source as usize].value;
    }
    Ok(())
}

/// `vote.sync.ballot` (PTX ISA 9.7.13.9): bit `i` is lane `i`'s predicate, zero for lanes outside the mask.
pub(crate) fn ballot(warp: &mut Warp, mask: u32) {
    let votes = lanes(mask).fold(0, |votes, lane| votes | u32::from(warp.deposits[lane as usize].value != 0) << lane);
    for lane in lanes(mask) {
        warp.results[lane as usize] = votes;
    }
}

/// `ldmatrix` of `count` 8x8 matrices (PTX ISA 9.7.14.5.15): row `r` of matrix `i` lies at the address of lane `8 * i + r`; lane
/// `4 * r + t` gets elements `2 * t` and `2 * t + 1` of row `r`, or with `transposed` of column `r`.
///
/// # Safety
/// The first `8 * count` lanes' second pointers are valid for 16 bytes of a row and are a multiple of 16, the first pointer of each
/// lane is valid for `count` words, and the rows do not change meanwhile.
#[inline]
pub(crate) unsafe fn load_matrix(warp: &Warp, count: u32, transposed: bool) {
    for matrix in 0..count as usize {
        let rows: [*const [u16; 8]; 8] =
            std::array::from_fn(|row| warp.deposits[8 * matrix + row].pointers[1] as *const [u16; 8]);
        if transposed {
            // SAFETY: by this function's contract.
            let elements = rows.map(|row| unsafe { row.read() });
            for (lane, deposit) in warp.deposits.iter().enumerate() {
                let (column, pair) = (lane / 4, lane % 4);
                let (low, high) = (elements[2 * pair][column], elements[2 * pair + 1][column]);
                // SAFETY: by this function's contract.
                unsafe {
                    (deposit.pointers[0] as *mut u32).add(matrix).write(u32::from(low) | u32::from(high) << 16);
                }
            }
        } else {
            for (row, pointer) in rows.into_iter().enumerate() {
                // SAFETY: by this function's contract; the row is a multiple of 16. Words are read in the host's order, which is the
                // device's: both are little-endian.
                let words = unsafe { pointer.cast::<[u32; 4]>().read() };
                for (t, word) in words.into_iter().enumerate() {
                    let registers = warp.deposits[4 * row + t].pointers[0] as *mut u32;
                    // SAFETY: by this function's contract.
                    unsafe { registers.add(matrix).write(word) };
                }
            }
        }
    }
}

fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    (0..WARP_THREADS).filter(move |lane| mask >> lane & 1 != 0)
}
