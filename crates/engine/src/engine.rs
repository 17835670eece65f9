//! The engine: requests in, steps on the device, tokens out.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridpoint_graph::verify::{VerifyOptions, VerifyProgress, VerifyReport};
use gridpoint_graph::{
    CaptureMode, CaptureProgress, CaptureSummary, GraphDescription, StepKind, StepReport, StepTotals,
};
use gridpoint_model::{LaunchOrder, ModelConfig, PointProducts, ProductTable, WeightSource};
use gridpoint_plan::traffic::StepHistogram;
use gridpoint_plan::{Dropped, GridPoint, Plan};
use gridpoint_runtime::Device;

use crate::error::{EngineError, RequestError};
use crate::lifecycle::Lifecycle;
use crate::memory::{MemoryReport, Sizes};
use crate::phases;
use crate::request::{FinishedRequest, NewRequest, RequestId, RequestStatus};
use crate::runner::{Answers, Ran, Runner};
use crate::scheduler::{Scheduler, SchedulerLimits};
use crate::step::{Event, Step};

/// What an engine is made for.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// Most requests running at once.
    pub max_requests: u32,
    /// Most tokens of a step; a smaller largest captured point with prefill slots lowers it, so that every step is a replay.
    pub max_tokens: u32,
    /// Most tokens of a request, prompt and new ones together; `None` is the model's.
    pub max_sequence_length: Option<u32>,
    /// Most pages of the kv cache, the dummy page among them; `None` is what `max_requests` sequences of the longest length
    /// need. There are fewer where `memory_utilization` does not allow as many.
    pub kv_pages: Option<u32>,
    /// The part of the device's memory that may be in use once the engine stands, in (0, 1]; what others use counts.
    pub memory_utilization: f64,
    /// Most bytes of device memory that the engine may take in all: weights, a step's memory, graphs, kv cache.
    pub memory_budget: Option<u64>,
    /// Most time that capture may take, by prediction: points that are missed least are dropped until the rest is within it, and likewise
    /// where memory does not suffice for all graphs.
    pub capture_budget: Option<Duration>,
    /// When graphs are captured; off, the same kernels are launched one by one.
    pub capture: CaptureMode,
    /// Threads that capture before the first step.
    pub capture_threads: NonZeroUsize,
    /// How the launches of a step depend on each other; `None` is the fastest order that the device has.
    pub launches: Option<LaunchOrder>,
    /// Whether only kernels are taken that run on every device, for comparisons: results are the same, bit for bit.
    pub portable: bool,
    /// The kernels that products take, as measured on the device; `None`, and what the table does not know, is the built-in choice.
    pub products: Option<Arc<ProductTable>>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_requests: 396,
            max_tokens: 16_384,
            max_sequence_length: None,
            kv_pages: None,
            memory_utilization: 0.9,
            memory_budget: None,
            capture_budget: None,
            capture: CaptureMode::All,
            capture_threads: NonZeroUsize::MIN,
            launches: None,
            portable: false,
            products: None,
        }
    }
}

/// What a step came to. It borrows from the engine, which writes the events of the next step over these.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome<'engine> {
    /// How it ran.
    pub report: StepReport,
    /// What happened to its requests, in the order of its rows.
    pub events: &'engine [Event],
}

/// A model that serves requests. Requests may be added and cancelled between any two steps.
pub struct Engine {
    pub(crate) scheduler: Scheduler,
    pub(crate) runner: Runner,
    pub(crate) lifecycle: Lifecycle,
    answers: Answers,
    logit_rows: u32,
    totals: StepTotals,
    shapes: StepHistogram,
    run_time: Duration,
    peak_pages: u32,
}

impl Engine {
    /// Loads the model onto the device, from a checkpoint or with random weights ([`WeightSource`]), makes its memory, and captures every point of `plan`; `observe` sees each.
    ///
    /// # Errors
    /// Limits that contradict each other or the model, a plan that the device has no memory for, or the device's error.
    pub fn new<'a>(
        device: &Arc<Device>,
        config: &ModelConfig,
        weights: impl Into<WeightSource<'a>>,
        plan: &Plan,
        options: &EngineOptions,
        observe: impl FnMut(&CaptureProgress),
    ) -> Result<Self, EngineError> {
        let sizes = Sizes::new(config, plan, options)?;
        let runner = Runner::new(device, config, weights.into(), (plan, &sizes), options, observe)?;
        let scheduler = Scheduler::new(SchedulerLimits {
            max_requests: sizes.max_requests,
            step_budget: sizes.step_budget,
            max_sequence_length: sizes.max_sequence_length,
            vocabulary: config.vocab_size as u32,
            pages: runner.memory().kv_pages,
        })?;
        Ok(Self {
            scheduler,
            runner,
            lifecycle: Lifecycle::default(),
            answers: Answers::default(),
            logit_rows: sizes.logit_rows,
            totals: StepTotals::default(),
            shapes: StepHistogram::default(),
            run_time: Duration::ZERO,
            peak_pages: 0,
        })
    }

    /// Puts a request at the end of the line.
    ///
    /// # Errors
    /// What is wrong with the request; no other request notices.
    pub fn add(&mut self, request: NewRequest) -> Result<RequestId, RequestError> {
        self.scheduler.add(request)
    }

    /// Ends a request that has not ended, and says whether there was one.
    pub fn cancel(&mut self, request: RequestId) -> bool {
        self.scheduler.cancel(request)
    }

    /// The result of a finished request, once.
    pub fn take(&mut self, request: RequestId) -> Option<FinishedRequest> {
        self.scheduler.take(request)
    }

    /// Where a request stands; `None` if it was never added or its result was taken.
    #[must_use]
    pub fn status(&self, request: RequestId) -> Option<RequestStatus> {
        self.scheduler.status(request)
    }

    /// Runs the next step; `None` exactly if no request is waiting or running.
    ///
    /// A step allocates nothing on the host where the engine has been: no request is admitted in it or ends, it replays, and steps of
    /// as many rows and of the same shape went before.
    ///
    /// # Errors
    /// [`EngineError::NotReady`] while the engine sleeps or lacks weights, or the device's error. Nothing of the step has been committed:
    /// called again, it is planned anew.
    pub fn step(&mut self) -> Result<Option<StepOutcome<'_>>, EngineError> {
        self.ready()?;
        let started = Instant::now();
        let Some(step) = self.plan_step() else { return Ok(None) };
        self.peak_pages = self.peak_pages.max(self.scheduler.pool().used());
        let ran = self.runner.run(&step, &mut self.answers)?;
        tracing::debug!(target: "gridpoint::products", "step {} takes {}", ran.shape, self.runner.products_of(&ran));
        {
            let _range = phases::COMMIT.enter();
            let made_true = self.scheduler.make_true(&step, self.answers.outputs(&step));
            self.scheduler.reuse(step);
            made_true?;
        }
        let Ran { shape, kind, waited, device } = ran;
        let report = StepReport { shape, kind, host: started.elapsed().saturating_sub(waited), device };
        self.totals.add(&report);
        log(&report);
        // It refuses only what no batch is and counts beyond 64 bits.
        if let Err(error) = self.shapes.add(report.shape, 1) {
            tracing::warn!("step {} is not recorded: {error}", report.shape);
        }
        self.run_time += started.elapsed();
        Ok(Some(StepOutcome { report, events: self.scheduler.events() }))
    }

    /// Replays every graph that serves with real steps, and compares what each leaves with eager launches, bit for bit; see
    /// [`gridpoint_graph::verify`]. Requests that wait are not touched, and the engine serves as before. On the host it takes three
    /// times [`VerifyOptions::cache_bytes`] for as long.
    ///
    /// # Errors
    /// [`EngineError::Busy`] while requests are running, since steps are tried in the kv cache; [`EngineError::Verify`] when the device
    /// fails, with what was seen before.
    pub fn verify(
        &mut self,
        options: &VerifyOptions,
        observe: impl FnMut(&VerifyProgress),
    ) -> Result<VerifyReport, EngineError> {
        match self.scheduler.running() {
            0 => self.runner.verify(options, observe),
            running => Err(EngineError::Busy { running }),
        }
    }

    /// The next step, within the rows of the language-model head that there is memory for.
    fn plan_step(&mut self) -> Option<Step> {
        let _range = phases::PLAN.enter();
        let step = self.scheduler.next_step()?;
        if step.logit_rows() <= self.logit_rows as usize {
            return Some(step);
        }
        // A step has at most as many logit rows as tokens.
        self.scheduler.reuse(step);
        self.scheduler.next_step_within(self.logit_rows)
    }

    /// Steps so far, by how they ran.
    #[must_use]
    pub fn totals(&self) -> &StepTotals {
        &self.totals
    }

    /// Shapes of the steps so far, each with how often it came: what a plan can be fitted to.
    #[must_use]
    pub fn recorded_steps(&self) -> &StepHistogram {
        &self.shapes
    }

    /// Wall time of all steps so far.
    #[must_use]
    pub fn run_time(&self) -> Duration {
        self.run_time
    }

    /// What the capture came to.
    #[must_use]
    pub fn capture(&self) -> &CaptureSummary {
        self.runner.graphs().summary()
    }

    /// Makes every graph that lazy or background capture has not made yet.
    pub fn capture_rest(&mut self) {
        self.runner.capture_rest();
    }

    /// Points of the plan that are not captured, since memory or the budget of capture does not suffice for all, each with what its
    /// batches replay instead.
    #[must_use]
    pub fn dropped_points(&self) -> &[Dropped] {
        self.runner.dropped()
    }

    /// How the launches of a step depend on each other.
    #[must_use]
    pub fn launch_order(&self) -> LaunchOrder {
        self.runner.model().launch_order()
    }

    /// The points of the plan, in the order of their capture.
    #[must_use]
    pub fn points(&self) -> &[GridPoint] {
        self.runner.graphs().points()
    }

    /// Which kernels the products of a step of `point` take.
    #[must_use]
    pub fn products(&self, point: GridPoint) -> PointProducts {
        self.runner.model().product_choices(point)
    }

    /// The distinct graphs with their kernels, parameters and points; without graphs, what would be captured.
    #[must_use]
    pub fn describe_graphs(&self) -> Vec<GraphDescription> {
        self.runner.graphs().describe()
    }

    /// Has the driver write a graph to a file for Graphviz.
    ///
    /// # Errors
    /// The file, where it cannot be written, or the device's error.
    ///
    /// # Panics
    /// If the description is that of an engine with more points.
    pub fn print_graph(&self, graph: &GraphDescription, path: &Path) -> Result<(), EngineError> {
        Ok(self.runner.print_graph(graph.captured_at, path)?)
    }

    /// How the device's memory is divided.
    #[must_use]
    pub fn memory(&self) -> &MemoryReport {
        self.runner.memory()
    }

    /// Most pages of the kv cache that were held at once.
    #[must_use]
    pub fn peak_pages(&self) -> u32 {
        self.peak_pages
    }

    /// Most tokens of a step.
    #[must_use]
    pub fn step_budget(&self) -> u32 {
        self.scheduler.limits().step_budget
    }

    /// The longest sequence, in tokens.
    #[must_use]
    pub fn max_sequence_length(&self) -> u32 {
        self.scheduler.limits().max_sequence_length
    }

    /// The raw logits of row `row` of the step that ran last, `[vocab]`: one row for each scored prompt token and each sampled
    /// token, in the order of the step's rows.
    ///
    /// # Errors
    /// A row beyond the workspace, or the device's error.
    pub fn logits(&self, row: u32) -> Result<Vec<f32>, EngineError> {
        Ok(self.runner.model().logits(row)?)
    }
}

/// An event with the report's parts as fields: target `gridpoint::step`, level debug.
fn log(report: &StepReport) {
    let StepReport { shape, kind, host, device } = *report;
    let padding = kind.point().map_or(0, |(_, slack)| slack.tokens);
    let reason = match kind {
        StepKind::Replay { .. } => None,
        StepKind::Eager { reason, .. } => Some(reason.name()),
    };
    tracing::debug!(
        target: "gridpoint::step",
        tokens = shape.tokens,
        prefills = shape.prefills,
        decodes = shape.decodes,
        replay = reason.is_none(),
        reason,
        padded_tokens = padding,
        host_microseconds = host.as_secs_f64() * 1e6,
        device_microseconds = device.as_secs_f64() * 1e6,
        "{report}"
    );
}
