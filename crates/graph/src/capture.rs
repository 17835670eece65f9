//! From recorded launches to executable graphs.

use std::error::Error;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use gridpoint_plan::{GridPoint, Plan};
use gridpoint_runtime::{Graph, RuntimeError, Stream};
use rayon::prelude::*;

use crate::background::Made;
use crate::recorded::{MakeTimes, PointLaunches};
use crate::set::{Executable, GraphSet, State};
use crate::{
    CaptureCause, CaptureError, CaptureProgress, CaptureSummary, CaptureTimes, PointRecording, PoolUse, RecordedPlan,
    ranges,
};

/// When graphs are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureMode {
    /// All before the first step.
    #[default]
    All,
    /// Each at the first step that needs it.
    Lazy,
    /// All on a thread and a stream of their own; steps whose graph is not made yet are launched kernel by kernel, and their graph is
    /// made next.
    Background,
    /// None: every step is launched kernel by kernel.
    Off,
}

/// How a recorded plan is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// When graphs are made.
    pub mode: CaptureMode,
    /// Threads that make graphs under [`CaptureMode::All`].
    pub threads: NonZeroUsize,
    /// Bytes of the memory that all graphs alias, for the report.
    pub arena_bytes: u64,
}

impl Default for CaptureOptions {
    /// All at once, on the calling thread.
    fn default() -> Self {
        Self { mode: CaptureMode::All, threads: NonZeroUsize::MIN, arena_bytes: 0 }
    }
}

/// A capture that ended early, with the set of the points that came before: it works for those.
pub struct Incomplete<M> {
    /// The point that failed, and why.
    pub error: CaptureError,
    /// The points before it.
    pub set: GraphSet<M>,
}

impl<M> fmt::Debug for Incomplete<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Incomplete").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for Incomplete<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(formatter)
    }
}

impl<M> Error for Incomplete<M> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl<M> GraphSet<M> {
    /// Records every point of `plan` and captures all: [`RecordedPlan::record`], then [`RecordedPlan::capture`] with
    /// [`CaptureOptions::default`].
    ///
    /// `record` launches a point's step, on [`PointRecording::raw_stream`] or as values. `memory` owns or borrows whatever the launches
    /// address; the set keeps it until the last replay is over.
    ///
    /// # Errors
    /// The first point that cannot be recorded or captured, and why, with a set of the points before it. `stream` captures no more.
    pub fn capture<E: Into<Box<dyn Error + Send + Sync>>>(
        plan: &Plan,
        stream: &Stream,
        memory: M,
        record: impl FnMut(&mut PointRecording<'_>, GridPoint) -> Result<(), E>,
    ) -> Result<Self, Box<Incomplete<M>>> {
        let options = CaptureOptions::default();
        match RecordedPlan::record(plan, stream, record) {
            Ok(recorded) => recorded.capture(stream, memory, &options, |_| {}),
            Err(failed) => {
                let (error, recorded) = *failed;
                let set = recorded.capture(stream, memory, &options, |_| {})?;
                Err(Box::new(Incomplete { error, set }))
            }
        }
    }
}

impl RecordedPlan {
    /// Makes the executable graphs as `options` say, on streams of their own; `stream` names the device. `memory` owns or borrows
    /// whatever the launches address; the set keeps it until the last replay is over. `observe` sees each point that is captured
    /// now; the same is logged as Megatron-LM logs it.
    ///
    /// # Errors
    /// The first point that the device fails at, with a set of the points before it.
    pub fn capture<M>(
        self,
        stream: &Stream,
        memory: M,
        options: &CaptureOptions,
        mut observe: impl FnMut(&CaptureProgress),
    ) -> Result<GraphSet<M>, Box<Incomplete<M>>> {
        let _range = ranges::CAPTURE.enter();
        let mut maker = Maker::new(self, stream, options.arena_bytes);
        let failed = match options.mode {
            CaptureMode::All if options.threads.get() > 1 => maker.make_on_threads(options.threads, &mut observe),
            CaptureMode::All => maker.make_here(&mut observe),
            CaptureMode::Lazy | CaptureMode::Background | CaptureMode::Off => None,
        };
        maker.finish(memory, options.mode, failed)
    }
}

/// A capture in progress.
struct Maker<'stream> {
    recorded: RecordedPlan,
    stream: &'stream Stream,
    graphs: Vec<Option<Graph<()>>>,
    times: CaptureTimes,
    started: Instant,
    arena_bytes: u64,
    free_before: Option<u64>,
    pool: PoolUse,
    /// The pool in the line of the point before.
    reported: PoolUse,
}

impl<'stream> Maker<'stream> {
    fn new(recorded: RecordedPlan, stream: &'stream Stream, arena_bytes: u64) -> Self {
        let pool = PoolUse { reserved: arena_bytes, allocated: 0 };
        Self {
            graphs: recorded.distinct.iter().map(|_| None).collect(),
            times: CaptureTimes { record: recorded.time, ..CaptureTimes::default() },
            recorded,
            stream,
            started: Instant::now(),
            arena_bytes,
            // What cannot be asked for shows as no growth; the next call of the driver says what is wrong with it.
            free_before: stream.device().memory().ok().map(|memory| memory.free),
            pool,
            reported: pool,
        }
    }

    /// Makes each point's graph in the order of the plan, and says at which point that failed.
    fn make_here(&mut self, observe: &mut impl FnMut(&CaptureProgress)) -> Option<(usize, RuntimeError)> {
        for index in 0..self.recorded.points.len() {
            let _range = ranges::capture_of(self.recorded.points[index]);
            let executable = self.recorded.executable_of[index];
            let shared = self.graphs[executable].is_some();
            if !shared {
                let made = self.recorded.distinct[executable].make(self.stream);
                if let Err(error) = self.keep(executable, made) {
                    return Some((index, error));
                }
            }
            self.captured(index, shared, observe);
        }
        self.wait_for_uploads()
    }

    fn make_on_threads(
        &mut self,
        threads: NonZeroUsize,
        observe: &mut impl FnMut(&CaptureProgress),
    ) -> Option<(usize, RuntimeError)> {
        let distinct = &self.recorded.distinct;
        let device = self.stream.device();
        let stream = || device.make_current().and_then(|()| Stream::new(device));
        let points = self.recorded.first_points();
        let make = |stream: &mut Result<Stream, RuntimeError>, (launches, point): (&Arc<PointLaunches>, &GridPoint)| {
            let stream = stream.as_ref().map_err(Clone::clone)?;
            launches.make_for(*point, stream)
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build();
        let Ok(pool) = pool else { return self.make_here(observe) };
        // A worker's stream is dropped when its part is done, which waits for the uploads on it.
        let made: Vec<Made> = pool.install(|| distinct.par_iter().zip(&points).map_init(stream, make).collect());
        let mut errors: Vec<Option<RuntimeError>> = vec![None; made.len()];
        for (executable, made) in made.into_iter().enumerate() {
            errors[executable] = self.keep(executable, made).err();
        }
        let mut seen = vec![false; errors.len()];
        for index in 0..self.recorded.points.len() {
            let executable = self.recorded.executable_of[index];
            if let Some(error) = errors[executable].take() {
                return Some((index, error));
            }
            let shared = std::mem::replace(&mut seen[executable], true);
            self.captured(index, shared, observe);
        }
        None
    }

    fn keep(&mut self, executable: usize, made: Made) -> Result<(), RuntimeError> {
        let (graph, times) = made?;
        self.times.add(&times);
        self.graphs[executable] = Some(graph);
        if let (Some(before), Ok(now)) = (self.free_before, self.stream.device().memory()) {
            self.pool.reserved = self.arena_bytes + before.saturating_sub(now.free);
        }
        Ok(())
    }

    /// The graphs' memory is at its place on the device when the capture is over, and errors of uploads are known.
    fn wait_for_uploads(&mut self) -> Option<(usize, RuntimeError)> {
        if self.recorded.points.is_empty() {
            return None;
        }
        let started = Instant::now();
        let waited = self.stream.synchronize();
        self.times.upload += started.elapsed();
        waited.err().map(|error| (0, error))
    }

    fn captured(&mut self, index: usize, shared: bool, observe: &mut impl FnMut(&CaptureProgress)) {
        let before = self.reported;
        self.pool.allocated = self.pool.allocated.max(self.recorded.pool_bytes[index]);
        self.reported = self.pool;
        let (number, total) = (index + 1, self.recorded.points.len());
        let point = self.recorded.points[index];
        let progress = CaptureProgress { number, total, point, shared, pool: self.pool, before };
        tracing::info!("{progress}");
        observe(&progress);
    }

    fn finish<M>(
        self,
        memory: M,
        mode: CaptureMode,
        failed: Option<(usize, RuntimeError)>,
    ) -> Result<GraphSet<M>, Box<Incomplete<M>>> {
        let Self { recorded, stream, graphs, times, started, pool, .. } = self;
        let error = failed.map(|(index, error)| CaptureError {
            point: recorded.points[index],
            number: index + 1,
            total: recorded.points.len(),
            cause: CaptureCause::Runtime(error),
        });
        let recorded = match &error {
            None => recorded,
            Some(error) => recorded.first(error.number - 1),
        };
        // Executables stand in the order of their first points, so that those kept are the first ones.
        let executables: Vec<Executable> = recorded
            .distinct
            .iter()
            .zip(graphs)
            .map(|(launches, graph)| Executable {
                launches: Arc::clone(launches),
                state: graph.map_or(State::Waiting, State::Ready),
            })
            .collect();
        let summary = CaptureSummary {
            times: CaptureTimes { total: recorded.time + started.elapsed(), ..times },
            pool,
            ..CaptureSummary::default()
        };
        let mut set = GraphSet::new(recorded, executables, stream.clone(), memory, mode, summary);
        if mode == CaptureMode::Background
            && let Err(refused) = set.start_background()
        {
            tracing::warn!("no thread to capture on, graphs are made at their first step: {refused}");
            set.capture_lazily();
        }
        if mode == CaptureMode::All {
            tracing::info!("{}", set.summary());
        }
        match error {
            None => Ok(set),
            Some(error) => Err(Box::new(Incomplete { error, set })),
        }
    }
}

impl CaptureTimes {
    pub(crate) fn add(&mut self, made: &MakeTimes) {
        self.capture += made.capture;
        self.instantiate += made.instantiate;
        self.upload += made.upload;
    }
}
