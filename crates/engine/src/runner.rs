//! Runs planned steps on the device: one metadata copy and one graph launch each.

mod verify;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridpoint_graph::{
    CaptureMode, CaptureOptions, CaptureProgress, EagerReason, GraphSet, Launched, LogitRequest, PointRecording,
    RecordedPlan, RequestKind, StepError as BlockError, StepKind, StepLayout, StepRing, StepWriter, step_range,
};
use gridpoint_model::{Model, ModelConfig, PointProducts, WeightSource};
use gridpoint_plan::{Dropped, GridPoint, Match, Plan, StepShape};
use gridpoint_runtime::{Arena, Device, RuntimeError, Staging, Stream, ranges};

use crate::budget::Forecast;
use crate::engine::EngineOptions;
use crate::error::EngineError;
use crate::memory::{MemoryReport, Placed, Sizes, place};
use crate::step::{RowKind, RowOutput, Sampled, Step};

/// What graphs keep alive: the model's arenas.
type Retained = [Arc<Arena>; 3];

/// A model, its captured graphs, and the stream that they run on.
pub(crate) struct Runner {
    // Declared first: dropping the stream waits for its work, which uses all that follows.
    stream: Stream,
    graphs: GraphSet<Retained>,
    ring: StepRing,
    model: Model,
    staging: Staging,
    memory: MemoryReport,
    dropped: Vec<Dropped>,
}

/// How a step ran on the device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ran {
    pub(crate) shape: StepShape,
    pub(crate) kind: StepKind,
    /// What the host waited for the device.
    pub(crate) waited: Duration,
    /// What the device took.
    pub(crate) device: Duration,
}

/// What a step's logit rows came to, in the order of the rows.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
}

impl Answers {
    /// One output for each row of `step`.
    pub(crate) fn outputs<'a>(&'a self, step: &'a Step) -> impl ExactSizeIterator<Item = RowOutput<'a>> + Clone {
        let mut next = 0;
        step.records().iter().map(move |row| {
            let scored = next..next + row.target_count();
            next = scored.end;
            let sampled = row.samples.then(|| {
                next += 1;
                Sampled { token: self.tokens[next - 1], logprob: self.logprobs[next - 1] }
            });
            RowOutput { sampled, prompt_logprobs: &self.logprobs[scored] }
        })
    }
}

impl Runner {
    /// Places the model in memory and captures the plan.
    pub(crate) fn new(
        device: &Arc<Device>,
        config: &ModelConfig,
        weights: WeightSource<'_>,
        (plan, sizes): (&Plan, &Sizes),
        options: &EngineOptions,
        observe: impl FnMut(&CaptureProgress),
    ) -> Result<Self, EngineError> {
        let Placed { model, run, block, staging, mut report, forecast } =
            place(device, config, weights, (plan, sizes), options)?;
        let Forecast { plan, dropped, kept, .. } = forecast;
        let stream = Stream::new(device)?;
        ranges::name_stream(&stream, c"steps");
        let ring = StepRing::new(&run, block, sizes.logit_rows)?;
        let record = |recording: &mut PointRecording<'_>, point: GridPoint| {
            recording.set_pool_bytes(model.workspace().bytes_for(point));
            recording.launch(model.record(point, ring.address())?)
        };
        let recorded = RecordedPlan::record(&plan, &stream, record).map_err(|failed| failed.0)?;
        let capture =
            CaptureOptions { mode: options.capture, threads: options.capture_threads, arena_bytes: report.workspace };
        let graphs =
            recorded.capture(&stream, model.memory(), &capture, observe).map_err(|incomplete| incomplete.error)?;
        if options.capture == CaptureMode::All {
            let reserved = graphs.summary().pool.reserved;
            report.graphs.measured = Some(kept + reserved.saturating_sub(report.workspace));
            tracing::info!(target: "gridpoint::memory", "{report}");
        }
        log_products(graphs.points(), &model);
        Ok(Self { stream, graphs, ring, model, staging, memory: report, dropped })
    }

    /// Makes the device's context current on the calling thread: an engine may be moved to another, and other libraries may have
    /// contexts of their own.
    pub(crate) fn enter(&self) -> Result<(), RuntimeError> {
        self.stream.device().make_current()
    }

    /// Which kernels the products of a step took.
    pub(crate) fn products_of(&self, ran: &Ran) -> PointProducts {
        self.model.product_choices(ran.kind.point().map_or_else(|| own_point(ran.shape), |(point, _)| point))
    }

    pub(crate) fn graphs(&self) -> &GraphSet<Retained> {
        &self.graphs
    }

    /// Makes every graph that is missing.
    pub(crate) fn capture_rest(&mut self) {
        self.graphs.capture_rest();
    }

    pub(crate) fn dropped(&self) -> &[Dropped] {
        &self.dropped
    }

    pub(crate) fn memory(&self) -> &MemoryReport {
        &self.memory
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn print_graph(&self, index: usize, path: &Path) -> Result<(), RuntimeError> {
        self.graphs.print(index, &self.stream, path)
    }

    /// What sleep and updates take: the stream of the steps, the way for bytes of the host, and the model.
    pub(crate) fn update_parts(&mut self) -> (&Stream, &mut Staging, &Model) {
        (&self.stream, &mut self.staging, &self.model)
    }

    /// Runs one step and waits for it.
    pub(crate) fn run(&mut self, step: &Step, answers: &mut Answers) -> Result<Ran, EngineError> {
        let shape = shape_of(step);
        let found = self.graphs.find(shape);
        let point = found.point().unwrap_or_else(|| own_point(shape));
        let prepared = self.prepared(&found);
        let _range = step_range(shape, prepared);
        let logit_rows = (step.logit_rows() as u32).max(self.fitting_logit_rows(point));
        let layout = StepLayout::new(point, logit_rows, step.page_columns())?;
        let packed = self.ring.pack(layout, |block| write(step, block))?;

        let Self { stream, graphs, ring, model, .. } = self;
        let (kind, ticket) = match found {
            Match::Replay { index, point, slack } => {
                let mut launched = Launched::Replay;
                let ticket = ring.submit(packed, stream, |stream| {
                    launched = match prepared {
                        Ok(_) => graphs.replay(index, stream)?,
                        Err(reason) => graphs.launch_eagerly(index, stream).map(|()| Launched::Eager(reason))?,
                    };
                    Ok::<(), RuntimeError>(())
                })?;
                let kind = match launched {
                    Launched::Replay => StepKind::Replay { point, slack },
                    Launched::Eager(reason) => StepKind::Eager { point: Some((point, slack)), reason },
                };
                (kind, ticket)
            }
            Match::Eager { reason } => {
                let launches = model.record(point, ring.address())?;
                let ticket = ring.submit(packed, stream, |stream| launches.launch(stream))?;
                (StepKind::Eager { point: None, reason: EagerReason::Miss(reason) }, ticket)
            }
        };
        let submitted = Instant::now();
        let results = ring.wait(&ticket)?;
        let waited = submitted.elapsed();
        answers.tokens.clear();
        answers.tokens.extend(results.iter().map(|result| result.token as u32));
        answers.logprobs.clear();
        answers.logprobs.extend(results.iter().map(|result| result.log_probability));
        Ok(Ran { shape, kind, waited, device: ring.device_time(&ticket)? })
    }

    /// The point that a step replays, or why it will run eagerly; a graph that is made at its first need is made here.
    fn prepared(&mut self, found: &Match) -> Result<GridPoint, EagerReason> {
        match *found {
            Match::Replay { index, point, .. } => self.graphs.prepare(index).map(|()| point),
            Match::Eager { reason } => Err(EagerReason::Miss(reason)),
        }
    }

    /// Logit rows that the block of a point has room for: one for each request, within what there is memory for.
    fn fitting_logit_rows(&self, point: GridPoint) -> u32 {
        point.requests().min(u64::from(self.model.capacity().logit_rows)) as u32
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Memory is given back in the current context. A destructor has no caller to tell.
        if let Err(error) = self.enter() {
            tracing::warn!("{error}");
        }
    }
}

/// Says which kernels products take, in a line for all points that take the same.
fn log_products(points: &[GridPoint], model: &Model) {
    let mut groups: Vec<(PointProducts, BTreeSet<u32>)> = Vec::new();
    for &point in points {
        let products = model.product_choices(point);
        match groups.iter_mut().find(|(known, _)| known.alike(&products)) {
            Some((_, tokens)) => {
                tokens.insert(point.tokens);
            }
            None => groups.push((products, BTreeSet::from([point.tokens]))),
        }
    }
    for (products, tokens) in groups {
        let tokens: Vec<_> = tokens.iter().rev().map(u32::to_string).collect();
        tracing::info!("products at {} tokens: {products}", tokens.join(", "));
    }
}

/// A step that no point fits, as a point of its own.
fn own_point(shape: StepShape) -> GridPoint {
    let StepShape { tokens, prefills, decodes } = shape;
    GridPoint { tokens, prefills, decodes }
}

/// The counts of a step.
fn shape_of(step: &Step) -> StepShape {
    // Each is at most the step budget.
    StepShape { tokens: step.tokens().len() as u32, prefills: step.prefills() as u32, decodes: step.decodes() as u32 }
}

/// Writes a step's rows into its block: per row its targets' logit rows, then the one that is sampled.
fn write(step: &Step, block: &mut StepWriter<'_>) -> Result<(), BlockError> {
    for row in step.rows() {
        let kind = match row.kind {
            RowKind::Decode => RequestKind::Decode,
            RowKind::Prefill => RequestKind::Prefill,
        };
        let first = block.push_request(kind, row.tokens, row.first_position, row.pages)?;
        for (token_row, &target) in (first..).zip(row.targets) {
            block.push_logits(token_row, LogitRequest::Score(target))?;
        }
        if row.samples {
            let crate::SamplingParameters { temperature, top_k, top_p, seed } = row.sampling;
            let position = row.sampled_position();
            let last = first + row.tokens.len() as u32 - 1;
            block.push_logits(last, LogitRequest::Sample { temperature, top_p, top_k, position, seed })?;
        }
    }
    Ok(())
}
