//! Counters: what launches did, exactly, and the same in every run.
//!
//! [`record`] begins and [`take`] ends a recording on the simulated device; the machine alone counts for a [`Recorder`]. Nothing is
//! measured: every access, multiplication and barrier is told to an observer as it happens, so a count depends on the kernel and its
//! data alone, not on the order in which threads ran. (A kernel that polls asks as often as its schedule makes it.)
//!
//! What the machine is told of:
//!
//! | kernels compiled | counted |
//! |---|---|
//! | as ever | wrapped instructions: vector accesses, asynchronous and bulk copies, atomics, multiplications, barriers, `ldmatrix` and `stmatrix` |
//! | with `-fsanitize=thread` and `GRIDPOINT_TOLD` | also plain loads and stores, transcendental operations, and the banks of vector accesses |
//!
//! How: bytes of global memory are those that threads ask for. A copy reads its source when it is issued; a tensor prefetch is a read; an
//! atomic reads and writes. What lies outside a tensor, and the zeros that fill a copy up, is neither. Plain accesses are counted
//! as the compiler left them in the program.
//!
//! Bank conflicts of a warp's lanes ([`BankCounts`]) are found for `ldmatrix` and `stmatrix`; for vector accesses and `cp.async`, whose line
//! in the source is told; and, on x86-64, for plain accesses, which are known by the code behind them. These are the host compiler's: one
//! for GPUs may join them to vectors or split them. Atomics, `wgmma`, bulk copies, copies of a size known only at run time and
//! other blocks' memory have no banks here.

mod banks;
mod footprint;
mod tally;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::machine::observer::Observer;
use footprint::Footprint;
use tally::{LaunchTally, Tally};

pub use crate::driver::{record, take};

/// Bytes of global memory that were read, or written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteCounts {
    /// Bytes at different addresses.
    pub distinct: u64,
    /// Bytes that threads asked for, as often as they did.
    pub total: u64,
}

/// Matrix multiplications, in instructions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MultiplyCounts {
    /// `mma.sync.m16n8k16` on bfloat16, one a warp.
    pub bf16: u64,
    /// `mma.sync.m16n8k16` on float16.
    pub f16: u64,
    /// `wgmma.mma_async.m64nNk16` by N, one a warpgroup.
    pub warpgroup: BTreeMap<u32, u64>,
}

impl MultiplyCounts {
    /// The multiplications in units of m16n8k16: an m64nNk16 is N / 2 of them.
    #[must_use]
    pub fn m16n8k16(&self) -> u64 {
        let warpgroup: u64 = self.warpgroup.iter().map(|(&columns, &count)| u64::from(columns) / 2 * count).sum();
        self.bf16 + self.f16 + warpgroup
    }
}

/// Accesses of warps to banks of shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BankCounts {
    /// Groups of lanes that are served at once: a matrix of `ldmatrix`, or of a vector access 32 lanes at 4 bytes, 16 at 8, 8 at 16.
    pub phases: u64,
    /// Wavefronts beyond one a phase.
    pub conflicts: u64,
}

/// Operations of the special function units, and divisions, of single threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TranscendentalCounts {
    /// `ex2.approx`.
    pub exponentials_base_2: u64,
    /// `expf`.
    pub exponentials: u64,
    /// `logf` and `log1pf`.
    pub logarithms: u64,
    /// `1 / sqrt(x)`.
    pub reciprocal_square_roots: u64,
    /// Divisions in float32.
    pub divisions: u64,
}

impl TranscendentalCounts {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.exponentials_base_2 + self.exponentials + self.logarithms + self.reciprocal_square_roots + self.divisions
    }
}

/// Barriers, each time that one opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BarrierCounts {
    /// `bar.sync` of a whole block.
    pub block: u64,
    /// `bar.sync` and `bar.arrive` of some warps.
    pub named: u64,
    /// `bar.warp.sync`.
    pub warp: u64,
    /// Phases of a cluster's barrier.
    pub cluster: u64,
    /// Waits of threads for an mbarrier's phase that ended with it.
    pub mbarrier_waits: u64,
}

impl BarrierCounts {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.block + self.named + self.warp + self.cluster + self.mbarrier_waits
    }
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of global memory read.
    pub read: ByteCounts,
    /// Bytes of global memory written.
    pub written: ByteCounts,
    /// Matrix multiplications.
    pub multiplies: MultiplyCounts,
    /// Banks that `ldmatrix` and `stmatrix` asked for.
    pub matrices: BankCounts,
    /// Banks that vector accesses and `cp.async` asked for.
    pub vectors: BankCounts,
    /// Banks that plain accesses asked for, as the compiler left them.
    pub plain: BankCounts,
    /// Transcendental operations and divisions.
    pub transcendentals: TranscendentalCounts,
    /// Barriers.
    pub barriers: BarrierCounts,
    /// Blocks.
    pub blocks: u64,
    /// Blocks that wrote no byte of global memory.
    pub idle_blocks: u64,
}

impl Counts {
    /// Adds `other`; distinct bytes are added too, as those of different launches.
    pub fn add(&mut self, other: &Self) {
        let bytes = |sum: &mut ByteCounts, more: &ByteCounts| {
            sum.distinct += more.distinct;
            sum.total += more.total;
        };
        bytes(&mut self.read, &other.read);
        bytes(&mut self.written, &other.written);
        self.multiplies.bf16 += other.multiplies.bf16;
        self.multiplies.f16 += other.multiplies.f16;
        for (&columns, &count) in &other.multiplies.warpgroup {
            *self.multiplies.warpgroup.entry(columns).or_default() += count;
        }
        for (sum, more) in [
            (&mut self.matrices, &other.matrices),
            (&mut self.vectors, &other.vectors),
            (&mut self.plain, &other.plain),
        ] {
            sum.phases += more.phases;
            sum.conflicts += more.conflicts;
        }
        let (sum, more) = (&mut self.transcendentals, &other.transcendentals);
        sum.exponentials_base_2 += more.exponentials_base_2;
        sum.exponentials += more.exponentials;
        sum.logarithms += more.logarithms;
        sum.reciprocal_square_roots += more.reciprocal_square_roots;
        sum.divisions += more.divisions;
        let (sum, more) = (&mut self.barriers, &other.barriers);
        sum.block += more.block;
        sum.named += more.named;
        sum.warp += more.warp;
        sum.cluster += more.cluster;
        sum.mbarrier_waits += more.mbarrier_waits;
        self.blocks += other.blocks;
        self.idle_blocks += other.idle_blocks;
    }
}

/// What a launch did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchCounts {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Blocks of a cluster in x, y, z.
    pub cluster: [u32; 3],
    /// The graph launch that it was part of: its place in [`Recorded::graphs`].
    pub graph: Option<u64>,
    /// The counts.
    pub counts: Counts,
}

/// What the launches of one graph launch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphCounts {
    /// How many launches.
    pub launches: u64,
    /// Their sum, but distinct bytes are those of the whole graph: what two launches read counts once.
    pub counts: Counts,
}

/// A recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Launches in the order in which they ended.
    pub launches: Vec<LaunchCounts>,
    /// Launches of graphs in the order in which they began.
    pub graphs: Vec<GraphCounts>,
}

/// A graph launch so far.
#[derive(Debug, Default)]
struct GraphTally {
    /// What the driver calls it.
    number: u64,
    graph: GraphCounts,
    read: Footprint,
    written: Footprint,
}

#[derive(Debug, Default)]
struct Record {
    launches: Vec<LaunchCounts>,
    graphs: Vec<GraphTally>,
    /// Whether, and in which of the driver's graph launches, launches run now.
    current: Option<u64>,
}

/// Where the counts of launches go. Launches that end with a fault leave none.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Record>>);

impl Recorder {
    /// An empty recording.
    #[must_use]
    pub fn new() -> Self {
        crate::detectors::keep_plain();
        Self::default()
    }

    /// What was recorded since the last call, in the order in which launches ended.
    #[must_use]
    pub fn take(&self) -> Recorded {
        let Record { launches, graphs, .. } = self.with(std::mem::take);
        let finish = |tally: GraphTally| {
            let GraphTally { mut graph, read, written, .. } = tally;
            graph.counts.read.distinct = read.bytes();
            graph.counts.written.distinct = written.bytes();
            graph
        };
        Recorded { launches, graphs: graphs.into_iter().map(finish).collect() }
    }

    /// From now on launches are part of the graph launch `number`, or of none.
    pub(crate) fn enter_graph(&self, number: Option<u64>) {
        self.with(|record| record.current = number);
    }

    /// Whoever counts the launches of a chain and tells `inner` too.
    pub(crate) fn observer(&self, inner: Option<Box<dyn Observer>>) -> Box<dyn Observer> {
        Box::new(Tally::new(self.clone(), inner))
    }

    fn add(&self, chain: Vec<LaunchTally>) {
        self.with(|record| {
            let place = record.current.map(|number| {
                record.graphs.iter().position(|graph| graph.number == number).unwrap_or_else(|| {
                    record.graphs.push(GraphTally { number, ..GraphTally::default() });
                    record.graphs.len() - 1
                })
            });
            for tally in chain {
                let counts = tally.finish(place.map(|place| place as u64));
                if let Some(place) = place {
                    let graph = &mut record.graphs[place];
                    graph.graph.launches += 1;
                    graph.graph.counts.add(&counts.counts);
                    graph.read.unite(&tally.read);
                    graph.written.unite(&tally.written);
                }
                record.launches.push(counts);
            }
        });
    }

    fn with<T>(&self, body: impl FnOnce(&mut Record) -> T) -> T {
        // Whoever panicked while it held the lock left a record that is whole, or the process has ended.
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
