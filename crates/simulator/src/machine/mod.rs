//! The machine: runs the blocks of a launch, each CUDA thread a fiber.
//!
//! Blocks run in parallel on rayon's threads; a block stays on one OS thread, on which its fibers take turns. A thread runs until it
//! waits for others in a collective instruction; the last to arrive executes the instruction for all. Under detectors, and
//! where somebody counts, all blocks run on one OS thread, so that a report repeats itself. The blocks of a kernel with static shared
//! memory run one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::counters::Recorder;
use crate::detectors::Detectors;
use crate::fault::{Fault, Reason};
use crate::memory::Snapshot;
use crate::module::HostKernel;
use multiprocessor::{BlockFault, Multiprocessor, NewBlock, Surroundings};
use observer::Observer;
use random::Random;
use residents::Progress;

mod asynchronous;
mod atomics;
mod barrier;
mod block;
mod bulk;
mod checked;
mod cluster;
mod collective;
mod copies;
mod copy_issue;
mod dependency;
mod descriptor;
mod fault;
mod fiber;
mod grid;
mod guard;
pub mod hopper;
pub mod instructions;
mod mbarrier;
mod memory;
mod mma;
mod multiprocessor;
pub(crate) mod observer;
mod operands;
mod plain;
mod proxy;
mod random;
mod reduce;
mod registers;
mod residents;
mod schedule;
mod static_shared;
mod stmatrix;
mod swizzle;
mod tensor;
mod tensor_map;
mod thread;
pub mod told;
mod turn;
mod warp;
mod warpgroup;
mod watch;
mod wgmma;

pub use cluster::MAXIMUM_BLOCKS as MAXIMUM_CLUSTER_BLOCKS;
pub use guard::Guard;
pub(crate) use memory::SHARED_BASE;
pub(crate) use plain::plain_access;
pub(crate) use static_shared::window_bytes;
pub use tensor::{TensorDescription, TensorElement, TensorError};
pub use thread::ThreadIdentity;
pub(crate) use thread::WARP_THREADS;

/// The most threads of a block on any GPU (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
pub const MAXIMUM_BLOCK_THREADS: u32 = 1024;
/// More dynamic shared memory than any GPU has, and few enough bytes that shared addresses leave room for a block's rank in its cluster.
const MAXIMUM_SHARED_BYTES: u32 = 1 << 23;
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

/// Where the blocks of a launch run. Without a seed and detectors each OS thread takes one block after another instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residency {
    /// Multiprocessors that the blocks of a launch are dealt out to; each runs on an OS thread. Under detectors, and for launches that
    /// overlap, there is one.
    pub multiprocessors: u32,
    /// Blocks that are resident on a multiprocessor at a time and take turns. Both are at least one, whatever is said.
    pub blocks: u32,
}

impl Default for Residency {
    /// Four multiprocessors of four blocks.
    fn default() -> Self {
        Self { multiprocessors: 4, blocks: 4 }
    }
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
    /// Blocks of a cluster in x, y, z, of which the grid's are multiples; ones where there are no clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block, in bytes: at most 8 MiB.
    pub shared_bytes: u32,
    /// The parameter block: exactly the kernel's size, at a multiple of [`PARAMETER_ALIGNMENT`].
    pub parameters: &'a [u8],
    /// Global memory that threads may access. It stays allocated until the launch ends.
    pub memory: Arc<Snapshot>,
    /// The order.
    pub schedule: Schedule,
    /// Where blocks run.
    pub residency: Residency,
    /// Who watches.
    pub detectors: Detectors,
    /// What is done about blocks that hang or crash.
    pub guard: Guard,
    /// Where its counts go.
    pub counters: Option<Recorder>,
}

/// Runs all blocks of a launch. Of the blocks that fault, the first is reported; blocks after it may have run or not.
pub fn run(launch: &LaunchDescription<'_>) -> Result<(), Box<Fault>> {
    run_chain(std::slice::from_ref(launch))
}

/// Runs launches each of which but the first is programmatically dependent on the one before it: it may begin once every block of that
/// one has executed `griddepcontrol.launch_dependents` or has exited, and waits for its end with `griddepcontrol.wait`. They overlap
/// under a seed or where somebody watches, and run one after another otherwise. The schedule and whoever watches are the first launch's.
pub fn run_chain(launches: &[LaunchDescription<'_>]) -> Result<(), Box<Fault>> {
    instructions::keep();
    hopper::keep();
    told::keep();
    let Some(first) = launches.first() else { return Ok(()) };
    for launch in launches {
        check(launch).map_err(|reason| fault_at(launch, [0; 3], reason.into()))?;
    }
    if launches.iter().any(|launch| launch.kernel.static_shared().is_some()) {
        return launches.iter().try_for_each(run_one_at_a_time);
    }
    let observer = observer_of(first);
    if observer.is_none() && (launches.len() == 1 || first.schedule == Schedule::RoundRobin) {
        return launches.iter().try_for_each(run_unwatched);
    }
    let chain: Vec<Progress<'_>> = launches.iter().map(Progress::new).collect();
    residents::run(&chain, observer, (1, 0))
}

/// Runs a launch whose module may have static shared memory, of which there is one: a block at a time.
fn run_one_at_a_time(launch: &LaunchDescription<'_>) -> Result<(), Box<Fault>> {
    let _one_at_a_time = static_shared::lock(launch.kernel);
    let alone = LaunchDescription { residency: Residency { multiprocessors: 1, blocks: 1 }, ..launch.clone() };
    residents::run(&[Progress::new(&alone)], observer_of(launch), (1, 0))
}

/// Whoever watches and counts a chain of launches, of which this is the first.
fn observer_of(first: &LaunchDescription<'_>) -> Option<Box<dyn Observer>> {
    let detectors = first.detectors.observer(first);
    match &first.counters {
        Some(recorder) => Some(recorder.observer(detectors)),
        None => detectors,
    }
}

/// Runs a launch alone on all of rayon's threads.
fn run_unwatched(launch: &LaunchDescription<'_>) -> Result<(), Box<Fault>> {
    let chain = [Progress::new(launch)];
    let [progress] = &chain;
    let count = progress.count();
    let faults: Option<(u64, Box<Fault>)> = if launch.residency.blocks > 1 && launch.schedule != Schedule::RoundRobin {
        let Residency { multiprocessors, blocks } = launch.residency;
        let parts = u64::from(multiprocessors).clamp(1, count.div_ceil(blocks.into()));
        let run_one = |offset| residents::run(&[Progress::new(launch)], None, (parts, offset)).err();
        let faulted = |offset| run_one(offset).map(|fault| (offset, fault));
        (0..parts).into_par_iter().filter_map(faulted).min_by_key(|(offset, _)| *offset)
    } else {
        let first_fault = AtomicU64::new(u64::MAX);
        let run_one = |place: u64| {
            let cluster = progress.cluster(place);
            if cluster > first_fault.load(Ordering::Relaxed) {
                return None;
            }
            let fault = run_cluster(launch, &progress.blocks(cluster)).err()?;
            first_fault.fetch_min(cluster, Ordering::Relaxed);
            Some((cluster, fault))
        };
        if count == 1 {
            run_one(0)
        } else {
            (0..count).into_par_iter().filter_map(run_one).min_by_key(|(cluster, _)| *cluster)
        }
    };
    faults.map_or(Ok(()), |(_, fault)| Err(fault))
}

/// Runs a cluster that is alone on its OS thread.
fn run_cluster(launch: &LaunchDescription<'_>, blocks: &[(u64, [u32; 3])]) -> Result<(), Box<Fault>> {
    let new: Vec<NewBlock> = blocks
        .iter()
        .map(|&(number, index)| NewBlock { index, random: block_random(launch.schedule, number), watcher: None })
        .collect();
    let mut multiprocessor = Multiprocessor::take();
    // Alone, a cluster neither pauses nor waits for a launch: its first turn ends it.
    let begun = multiprocessor.begin(launch, &new, Surroundings::default());
    let answer = begun.and_then(|()| multiprocessor.advance(launch, false));
    multiprocessor.put_back();
    answer.map(drop).map_err(|(rank, fault)| fault_at(launch, new[rank].index, fault))
}

/// What the order of block `number` is drawn from.
fn block_random(schedule: Schedule, number: u64) -> Option<Random> {
    match schedule {
        Schedule::RoundRobin => None,
        Schedule::Seeded(seed) => Some(Random::new(seed, number + 1)),
    }
}

/// A fault in a block.
fn fault_at(launch: &LaunchDescription<'_>, block: [u32; 3], fault: BlockFault) -> Box<Fault> {
    let seed = match launch.schedule {
        Schedule::RoundRobin => None,
        Schedule::Seeded(seed) => Some(seed),
    };
    let BlockFault { thread, reason, source } = fault;
    Box::new(Fault { kernel: launch.kernel.name().to_owned(), block, thread, seed, reason, source })
}

/// What a driver refuses before it comes here, and what is not modelled.
fn check(launch: &LaunchDescription<'_>) -> Result<(), Reason> {
    check_operands(launch).map_err(|detail| Reason::InvalidOperand { detail })?;
    if launch.cluster != [1; 3] && launch.kernel.static_shared_bytes() != 0 {
        let (size, bytes) = (launch.cluster, launch.kernel.static_shared_bytes());
        let rule = format!(
            "{size:?} blocks: a kernel whose module has static shared memory, here {bytes} bytes, runs in clusters of one"
        );
        return Err(Reason::Cluster { rule });
    }
    Ok(())
}

fn check_operands(launch: &LaunchDescription<'_>) -> Result<(), String> {
    let threads = launch.block.iter().try_fold(1u32, |product, &extent| product.checked_mul(extent));
    let most = launch.kernel.maximum_threads().min(MAXIMUM_BLOCK_THREADS);
    if !threads.is_some_and(|threads| (1..=most).contains(&threads)) {
        return Err(format!("block {:?}: must have 1 to {most} threads", launch.block));
    }
    let blocks = launch.grid.iter().try_fold(1u64, |product, &extent| product.checked_mul(extent.into()));
    if !blocks.is_some_and(|blocks| (1..1 << 48).contains(&blocks)) {
        return Err(format!("grid {:?}: must have 1 to 2^48 blocks", launch.grid));
    }
    let fits = |(&grid, &cluster): (&u32, &u32)| cluster != 0 && grid.is_multiple_of(cluster);
    let size = launch.cluster.iter().try_fold(1u32, |product, &extent| product.checked_mul(extent));
    if size.is_none_or(|size| size > MAXIMUM_CLUSTER_BLOCKS) || !launch.grid.iter().zip(&launch.cluster).all(fits) {
        return Err(format!(
            "clusters of {:?} blocks: must have 1 to {MAXIMUM_CLUSTER_BLOCKS} blocks and divide the grid of {:?}",
            launch.cluster, launch.grid
        ));
    }
    if launch.shared_bytes > MAXIMUM_SHARED_BYTES {
        return Err(format!("{} bytes of shared memory: must be at most {MAXIMUM_SHARED_BYTES}", launch.shared_bytes));
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
