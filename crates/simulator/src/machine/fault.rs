//! Reports of operands that an instruction does not take, and of a block that stands still.

use std::fmt::Write;

use super::block::Block;
use crate::fault::Reason;

/// `what` is `value`, which is not `right`.
#[cold]
pub(super) fn operand(what: &str, value: u32, right: &str) -> Reason {
    Reason::InvalidOperand { detail: format!("{what} `{value}`: must be {right}") }
}

/// A number of mma tiles that no thread has registers for.
#[cold]
pub(super) fn tiles(m_tiles: u32, n_tiles: u32) -> Reason {
    let most = super::mma::MAXIMUM_TILES;
    Reason::InvalidOperand { detail: format!("mma of {m_tiles} x {n_tiles} tiles: must be 1 to {most} tiles") }
}

/// A host address that is converted to a shared address, but lies elsewhere.
#[cold]
pub(super) fn not_shared(pointer: usize) -> Reason {
    Reason::InvalidOperand { detail: format!("`{pointer:#x}` is no address in the block's shared memory") }
}

/// Who waits for what in a block in which nobody can run, and the first thread that waits.
pub(super) fn deadlock(block: &Block) -> (u32, Reason) {
    let left = block.warps.iter().map(|warp| warp.exists & !warp.exited);
    let first = (0..).zip(left).find(|(_, left)| *left != 0);
    let first = first.map_or(0, |(warp, left)| warp * super::thread::WARP_THREADS + left.trailing_zeros());
    (first, Reason::Deadlock { waiting: waiting(block) })
}

/// Who waits for what in a block whose threads only yield: the running one, by what it asked last, and those that wait.
pub(super) fn spinning(block: &Block) -> String {
    // SAFETY: the running thread is one of the block's.
    let (index, polled) = unsafe { ((*block.current).index(), (*block.current).polled) };
    let asks = match polled {
        0 => format!("thread {index} yields"),
        address => format!("thread {index} asks `{address:#x}`"),
    };
    format!("{asks}; {}", waiting(block))
}

/// Who waits for what in a block.
pub(super) fn waiting(block: &Block) -> String {
    let mut waiting = String::new();
    for (index, warp) in block.warps.iter().enumerate() {
        let left = warp.exists & !warp.exited;
        // Lanes that stand elsewhere are told of below.
        if warp.barrier.is_none() && left != 0 && warp.gatherings().is_empty() {
            continue;
        }
        let separator = if waiting.is_empty() { "" } else { "; " };
        let _ = write!(waiting, "{separator}warp {index}: ");
        if let Some(id) = warp.barrier {
            let barrier = block.barriers[id as usize];
            let _ = write!(waiting, "waits at barrier {id}, {} of {} threads there", barrier.arrived, barrier.expected);
        } else if left == 0 {
            waiting.push_str("exited");
        }
        for (place, gathering) in warp.gatherings().iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            let there = gathering.arrived;
            let _ = write!(waiting, "{separator}lanes {there:#010x} wait in {gathering}");
        }
    }
    block.asynchronous.mbarriers.describe(block, &mut waiting);
    block.asynchronous.warpgroups.describe(&mut waiting);
    super::cluster::describe(block, &mut waiting);
    match waiting.strip_prefix("; ") {
        Some(rest) => rest.to_owned(),
        None if waiting.is_empty() => "no thread waits for another".to_owned(),
        None => waiting,
    }
}
