//! The machine: runs the blocks of a launch, each CUDA thread a fiber.
//!
//! Blocks run in parallel on rayon's threads; a block stays on one OS thread, on which its fibers take turns. A thread runs until it
//! waits for others in a collective instruction; the last to arrive executes the instruction for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::fault::{Fault, Reason};
use crate::memory::Snapshot;
use crate::module::HostKernel;
use multiprocessor::{BlockFault, Multiprocessor};
use random::Random;

mod atomics;
mod barrier;
mod block;
mod collective;
mod copies;
mod fault;
mod fiber;
pub mod instructions;
mod memory;
mod mma;
mod multiprocessor;
mod random;
mod schedule;
mod thread;
mod turn;
mod warp;

pub use thread::ThreadIdentity;

/// The most threads of a block on any GPU (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
pub const MAXIMUM_BLOCK_THREADS: u32 = 1024;
/// The alignment of the parameters' storage.
pub const PARAMETER_ALIGNMENT: usize = 8;

/// The order in which fibers, warps and blocks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Ascending, always the same.
    RoundRobin,
    /// Drawn from a seed, which a fault carries. The same seed gives the same order inside each block.
    Seeded(u64),
}

/// A launch of a kernel.
#[derive(Clone, Debug)]
pub struct LaunchDescription<'a> {
    /// The kernel.
    pub kernel: &'a HostKernel,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The parameter struct: exactly the kernel's size, at a multiple of [`PARAMETER_ALIGNMENT`].
    pub parameters: &'a [u8],
    /// Global memory that threads may access. It stays allocated until the launch ends.
    pub memory: Arc<Snapshot>,
    /// The order.
    pub schedule: Schedule,
}

/// Runs all blocks of a launch. Of the blocks that fault, the first is reported; blocks after it may have run or not.
pub fn run(launch: &LaunchDescription<'_>) -> Result<(), Fault> {
    instructions::keep();
    let at = |block, (thread, reason): BlockFault| Fault {
        kernel: launch.kernel.name().to_owned(),
        block,
        thread,
        seed: match launch.schedule {
            Schedule::RoundRobin => None,
            Schedule::Seeded(seed) => Some(seed),
        },
        reason,
    };
    check(launch).map_err(|detail| at([0; 3], ([0; 3], Reason::InvalidOperand { detail })))?;
    let [x, y, z] = launch.grid.map(u64::from);
    let count = x * y * z;
    let order = Order::new(launch.schedule, count);
    let first_fault = AtomicU64::new(u64::MAX);
    let run_block = |place: u64| {
        let block = order.block(place);
        if block > first_fault.load(Ordering::Relaxed) {
            return None;
        }
        let index = [block % x, block / x % y, block / (x * y)].map(|index| index as u32);
        match run_block(launch, index, block) {
            Ok(()) => None,
            Err(fault) => {
                first_fault.fetch_min(block, Ordering::Relaxed);
                Some((block, at(index, fault)))
            }
        }
    };
    let fault = if count == 1 {
        run_block(0)
    } else {
        (0..count).into_par_iter().filter_map(run_block).min_by_key(|(block, _)| *block)
    };
    fault.map_or(Ok(()), |(_, fault)| Err(fault))
}

fn run_block(launch: &LaunchDescription<'_>, index: [u32; 3], block: u64) -> Result<(), BlockFault> {
    let random = match launch.schedule {
        Schedule::RoundRobin => None,
        Schedule::Seeded(seed) => Some(Random::new(seed, block + 1)),
    };
    let mut multiprocessor = Multiprocessor::take().map_err(|reason| ([0; 3], reason))?;
    let answer = multiprocessor.run(launch, index, random);
    multiprocessor.put_back();
    answer
}

/// What a driver refuses before it comes here.
fn check(launch: &LaunchDescription<'_>) -> Result<(), String> {
    let threads = launch.block.iter().try_fold(1u32, |product, &extent| product.checked_mul(extent));
    let most = launch.kernel.maximum_threads().min(MAXIMUM_BLOCK_THREADS);
    if !threads.is_some_and(|threads| (1..=most).contains(&threads)) {
        return Err(format!("block {:?}: must have 1 to {most} threads", launch.block));
    }
    let blocks = launch.grid.iter().try_fold(1u64, |product, &extent| product.checked_mul(extent.into()));
    if !blocks.is_some_and(|blocks| (1..1 << 48).contains(&blocks)) {
        return Err(format!("grid {:?}: must have 1 to 2^48 blocks", launch.grid));
    }
    let expected = launch.kernel.parameter_bytes() as usize;
    if launch.parameters.len() != expected {
        return Err(format!("{} bytes of parameters: must be {expected}", launch.parameters.len()));
    }
    if !launch.parameters.as_ptr().addr().is_multiple_of(PARAMETER_ALIGNMENT) && expected != 0 {
        return Err(format!("parameters must lie at a multiple of {PARAMETER_ALIGNMENT}"));
    }
    Ok(())
}

/// Which block runs when.
struct Order {
    count: u64,
    /// Places are multiplied by this, which has no divisor in common with `count`, and shifted: a permutation.
    factor: u64,
    shift: u64,
}

impl Order {
    fn new(schedule: Schedule, count: u64) -> Self {
        let Schedule::Seeded(seed) = schedule else { return Self { count, factor: 1, shift: 0 } };
        let mut random = Random::new(seed, 0);
        let shift = random.next() % count;
        let mut factor = random.next() % count;
        while greatest_common_divisor(factor, count) != 1 {
            factor = (factor + 1) % count;
        }
        Self { count, factor, shift }
    }

    fn block(&self, place: u64) -> u64 {
        ((u128::from(place) * u128::from(self.factor) + u128::from(self.shift)) % u128::from(self.count)) as u64
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_one_place() {
        for (seed, count) in [(1, 1), (2, 2), (3, 7), (4, 30), (5, 1024)] {
            for schedule in [Schedule::RoundRobin, Schedule::Seeded(seed)] {
                let order = Order::new(schedule, count);
                let mut blocks: Vec<u64> = (0..count).map(|place| order.block(place)).collect();
                blocks.sort_unstable();
                assert!(blocks.into_iter().eq(0..count), "{schedule:?} of {count}");
            }
        }
    }
}
