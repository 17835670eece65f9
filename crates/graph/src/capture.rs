//! Captures a plan: one executable graph for every different list of launches.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridpoint_plan::{GridPoint, Match, Matcher, Matching, Plan, StepShape};
use gridpoint_runtime::{Graph, Launches, RuntimeError, Stream};

use crate::{Bytes, Seconds};

/// What a model records for a point.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The step's launches, in order.
    pub launches: Launches,
    /// Bytes of the pool that a step of this point touches.
    pub pool_bytes: u64,
}

/// The pool that all graphs alias: the arena of activations, and what the driver takes for the graphs themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUse {
    /// Bytes set aside: the arena's, and the device memory that has gone since capture began.
    pub reserved: u64,
    /// Bytes that the points captured so far touch.
    pub allocated: u64,
}

/// One point was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureProgress {
    /// Which point of the plan, from 1.
    pub number: usize,
    /// Points of the plan.
    pub total: usize,
    /// The point.
    pub point: GridPoint,
    /// Whether its launches are those of an earlier point, whose graph it shares.
    pub shared: bool,
    /// The pool now.
    pub pool: PoolUse,
    /// The pool before.
    pub before: PoolUse,
}

impl std::fmt::Display for CaptureProgress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let change = |now: u64, before: u64| Bytes(i128::from(now) - i128::from(before));
        let Self { number, total, point, pool, before, .. } = self;
        write!(
            formatter,
            "[graph {number}/{total}] {point} | pool reserved={} (Δiter={}) pool allocated={} (Δiter={})",
            Bytes::from(pool.reserved),
            change(pool.reserved, before.reserved),
            Bytes::from(pool.allocated),
            change(pool.allocated, before.allocated),
        )
    }
}

/// What a capture came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CaptureSummary {
    /// Points captured.
    pub graphs: usize,
    /// Executable graphs: points with equal launches share one.
    pub distinct: usize,
    /// Kernel nodes of all executable graphs.
    pub nodes: usize,
    /// Wall time of the whole capture.
    pub time: Duration,
    /// The pool at the end.
    pub pool: PoolUse,
}

/// An executable graph and the launches that it replays; without graphs, the launches alone.
struct Executable {
    launches: Launches,
    graph: Option<Graph>,
}

/// Every point of a plan, captured. Which point a step takes is the matcher's answer; replaying it is one launch.
pub struct GraphSet {
    matcher: Matcher,
    points: Vec<GridPoint>,
    /// For each point, which executable.
    executable_of: Vec<usize>,
    executables: Vec<Executable>,
    summary: CaptureSummary,
}

impl GraphSet {
    /// Captures every point of `plan` on `stream`, in the plan's order.
    ///
    /// `record` gives a point's launches; a point whose launches an earlier point has gets that point's executable graph. Every
    /// graph keeps `retained` alive, which owns the `arena_bytes` bytes of memory that the launches address. `observe` sees
    /// each point; the same is logged as Megatron-LM logs it.
    ///
    /// # Errors
    /// The error of the first point that cannot be recorded, or that the device fails at.
    pub fn capture(
        stream: &Stream,
        plan: &Plan,
        retained: &Arc<dyn Any + Send + Sync>,
        arena_bytes: u64,
        mut record: impl FnMut(GridPoint) -> Result<Recorded, RuntimeError>,
        mut observe: impl FnMut(&CaptureProgress),
    ) -> Result<Self, RuntimeError> {
        let started = Instant::now();
        let free_before = stream.device().memory()?.free;
        let mut executables: Vec<Executable> = Vec::new();
        let mut executable_of = Vec::with_capacity(plan.len());
        let mut known: HashMap<Launches, usize> = HashMap::new();
        let mut pool = PoolUse { reserved: arena_bytes, allocated: 0 };
        for (index, &point) in plan.points().iter().enumerate() {
            let Recorded { launches, pool_bytes } = record(point)?;
            let before = pool;
            let shared = known.get(&launches).copied();
            let executable = match shared {
                Some(executable) => executable,
                None => {
                    let recording = stream.record()?;
                    launches.launch(stream)?;
                    let graph = recording.finish(Arc::clone(retained))?;
                    known.insert(launches.clone(), executables.len());
                    executables.push(Executable { launches, graph: Some(graph) });
                    executables.len() - 1
                }
            };
            executable_of.push(executable);
            let taken = free_before.saturating_sub(stream.device().memory()?.free);
            pool = PoolUse { reserved: arena_bytes + taken, allocated: before.allocated.max(pool_bytes) };
            let (number, total) = (index + 1, plan.len());
            let progress = CaptureProgress { number, total, point, shared: shared.is_some(), pool, before };
            tracing::info!("{progress}");
            observe(&progress);
        }
        let summary = CaptureSummary {
            graphs: plan.len(),
            distinct: executables.len(),
            nodes: executables.iter().filter_map(|executable| executable.graph.as_ref()).map(Graph::nodes).sum(),
            time: started.elapsed(),
            pool,
        };
        tracing::info!(
            "> built {} cuda graph(s), {} distinct, in {} sec. Pool: reserved {}, allocated {}.",
            summary.graphs,
            summary.distinct,
            Seconds(summary.time),
            Bytes::from(pool.reserved),
            Bytes::from(pool.allocated)
        );
        Ok(Self {
            matcher: Matcher::new(plan.points()),
            points: plan.points().to_vec(),
            executable_of,
            executables,
            summary,
        })
    }

    /// Records every point of `plan` and captures none: every step is launched kernel by kernel.
    ///
    /// # Errors
    /// That of the first point that cannot be recorded.
    pub fn without_graphs(
        plan: &Plan,
        mut record: impl FnMut(GridPoint) -> Result<Recorded, RuntimeError>,
    ) -> Result<Self, RuntimeError> {
        let eager = |&point: &GridPoint| Ok(Executable { launches: record(point)?.launches, graph: None });
        let executables: Vec<Executable> = plan.points().iter().map(eager).collect::<Result<_, RuntimeError>>()?;
        Ok(Self {
            matcher: Matcher::new(plan.points()),
            points: plan.points().to_vec(),
            executable_of: (0..executables.len()).collect(),
            executables,
            summary: CaptureSummary::default(),
        })
    }

    /// Which point a step takes, or why none fits. Surplus decodes may take prefill slots: attention-only models need no more.
    #[must_use]
    pub fn find(&self, step: StepShape) -> Match {
        self.matcher.find(step, Matching::NonStrict)
    }

    /// The points, in capture order.
    #[must_use]
    pub fn points(&self) -> &[GridPoint] {
        &self.points
    }

    /// The launches that point `index` of [`GraphSet::points`] was captured from.
    ///
    /// # Panics
    /// If there is no such point.
    #[must_use]
    pub fn launches(&self, index: usize) -> &Launches {
        &self.executables[self.executable_of[index]].launches
    }

    /// What the capture came to.
    #[must_use]
    pub fn summary(&self) -> &CaptureSummary {
        &self.summary
    }

    /// Enqueues the replay of point `index` of [`GraphSet::points`]: one launch, or, without graphs, its kernels one by one.
    ///
    /// # Errors
    /// The device's error.
    ///
    /// # Panics
    /// If there is no such point.
    pub fn replay(&self, index: usize, stream: &Stream) -> Result<(), RuntimeError> {
        let Executable { launches, graph } = &self.executables[self.executable_of[index]];
        match graph {
            Some(graph) => graph.launch(stream),
            None => launches.launch(stream),
        }
    }

    /// Enqueues the same kernels as [`GraphSet::replay`], one by one.
    ///
    /// # Errors
    /// The device's error.
    ///
    /// # Panics
    /// If there is no such point.
    pub fn launch_eagerly(&self, index: usize, stream: &Stream) -> Result<(), RuntimeError> {
        self.executables[self.executable_of[index]].launches.launch(stream)
    }
}
