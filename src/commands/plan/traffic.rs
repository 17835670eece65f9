//! The traffic that plans are fitted to and judged by: traces of requests, run through an engine, or recorded steps.

use std::path::{Path, PathBuf};

use clap::Args;
use gridpoint_plan::Limits;
use gridpoint_plan::traffic::{
    ArrivalRate, CostCurve, CostError, HistogramError, Simulation, SimulationError, SimulationOptions, StepHistogram,
    Trace, simulate,
};
use serde::Serialize;

use crate::args::plan::{FitTo, number, read_bounded, refusal};
use crate::args::{natural_32, natural_64};
use crate::commands::Failure;

/// A trace or histogram larger than this is not read.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Of an 8B model with grouped-query attention on a GPU of 141 GB.
const KV_TOKENS: u64 = 880_000;

/// Which traffic, and what its steps cost.
#[derive(Debug, Args)]
#[command(next_help_heading = "Traffic")]
pub(super) struct TrafficArgs {
    /// Requests, as CSV with the columns arrival_s, input_tokens and output_tokens; several files are several engines.
    #[arg(long, value_name = "FILE", num_args = 1.., group = "traffic")]
    trace: Vec<PathBuf>,
    /// Steps that an engine recorded, as {"steps":[[t,p,d,count],..]}, instead of a trace.
    #[arg(long, value_name = "FILE", group = "traffic", conflicts_with = "trace")]
    steps: Option<PathBuf>,
    /// Arrivals as a fraction of the rate at which the trace saturates the engine.
    #[arg(long, value_name = "X", requires = "trace", conflicts_with_all = ["rate_factor", "steps"], allow_negative_numbers = true, value_parser = number)]
    load: Option<f64>,
    /// Arrivals so many times as fast as in the trace [default: 1].
    #[arg(long, value_name = "X", requires = "trace", conflicts_with = "steps", allow_negative_numbers = true, value_parser = number)]
    rate_factor: Option<f64>,
    /// Tokens that the kv cache holds [default: 880000].
    #[arg(long, value_name = "N", requires = "trace", conflicts_with = "steps", allow_negative_numbers = true, value_parser = natural_64)]
    kv_tokens: Option<u64>,
    /// What a step costs, as CSV with the columns tokens and seconds [default: 3.8 ms, and 22.86 us a token beyond 166].
    #[arg(long, value_name = "FILE", requires = "traffic")]
    cost: Option<PathBuf>,
    /// Count the cost of a step in whole tiles of N tokens.
    #[arg(long, value_name = "N", requires = "traffic", allow_negative_numbers = true, value_parser = natural_32)]
    tile: Option<u32>,
}

/// Counted steps, and what they cost.
#[derive(Debug)]
pub(super) struct Traffic {
    /// How much of it there is.
    pub(super) size: Size,
    pub(super) all: StepHistogram,
    /// What fits see where they are to be judged: the first half, or everything where there is no order.
    pub(super) early: StepHistogram,
    /// What plans are judged by: the second half, or everything where there is no order.
    pub(super) late: StepHistogram,
    pub(super) cost: CostCurve,
}

/// Requests, where a trace gives them, and steps.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Size {
    /// None of recorded steps.
    pub(super) requests: Option<u64>,
    pub(super) steps: u64,
}

impl Traffic {
    /// All steps, for a plan that is to be used.
    pub(super) fn fit_to_all(&self) -> FitTo<'_> {
        FitTo { steps: &self.all, cost: &self.cost }
    }

    /// The early steps, for a plan that is to be judged.
    pub(super) fn fit_to_early(&self) -> FitTo<'_> {
        FitTo { steps: &self.early, cost: &self.cost }
    }
}

impl TrafficArgs {
    /// Reads and simulates what the arguments name. None without traffic.
    ///
    /// # Errors
    /// Files that cannot be read or are none, and an engine that cannot run the trace.
    pub(super) fn read(&self, limits: &Limits) -> Result<Option<Traffic>, Failure> {
        if self.trace.is_empty() && self.steps.is_none() {
            return Ok(None);
        }
        let cost = self.cost_curve()?;
        if let Some(path) = &self.steps {
            let all = read_steps(path)?;
            let size = Size { requests: None, steps: all.steps() };
            return Ok(Some(Traffic { size, early: all.clone(), late: all.clone(), all, cost }));
        }
        let mut traffic = Traffic {
            size: Size { requests: Some(0), steps: 0 },
            all: StepHistogram::default(),
            early: StepHistogram::default(),
            late: StepHistogram::default(),
            cost,
        };
        for path in &self.trace {
            self.add_trace(path, limits, &mut traffic)?;
        }
        Ok(Some(traffic))
    }

    fn add_trace(&self, path: &Path, limits: &Limits, traffic: &mut Traffic) -> Result<(), Failure> {
        let name = path.display().to_string();
        let bytes = read_bounded(path, "trace", MAX_FILE_BYTES).map_err(Failure::failed)?;
        let trace = Trace::parse(&bytes, &name).map_err(Failure::failed)?;
        let options = SimulationOptions {
            max_requests: limits.max_requests,
            max_tokens: limits.max_tokens,
            kv_tokens: self.kv_tokens.unwrap_or(KV_TOKENS),
            max_sequence_length: limits.max_sequence_length,
            arrivals: match (self.load, self.rate_factor) {
                (Some(load), _) => ArrivalRate::Load(load),
                (None, factor) => ArrivalRate::Factor(factor.unwrap_or(1.0)),
            },
        };
        let simulation = simulate(&trace, &options, &traffic.cost).map_err(|error| refused(error, &name))?;
        let add = |traffic: &mut Traffic, simulation: &Simulation| {
            let (early, late) = simulation.halves()?;
            for half in [&early, &late] {
                add_all(&mut traffic.all, half)?;
            }
            add_all(&mut traffic.early, &early)?;
            add_all(&mut traffic.late, &late)
        };
        add(traffic, &simulation)
            .map_err(|error: HistogramError| Failure::Failed(format!("`{name}`: {error}").into()))?;
        traffic.size.requests = traffic.size.requests.map(|requests| requests + simulation.requests() as u64);
        traffic.size.steps += simulation.steps();
        Ok(())
    }

    fn cost_curve(&self) -> Result<CostCurve, Failure> {
        let curve = match &self.cost {
            None => CostCurve::default(),
            Some(path) => {
                let bytes = read_bounded(path, "cost curve", MAX_FILE_BYTES).map_err(Failure::failed)?;
                CostCurve::parse(&bytes, &path.display().to_string()).map_err(Failure::failed)?
            }
        };
        curve.with_tile(self.tile.unwrap_or(1)).map_err(|error| match error {
            CostError::NoTile => Failure::Usage("--tile is `0`: it must be at least 1".into()),
            other => Failure::usage(other),
        })
    }
}

fn add_all(histogram: &mut StepHistogram, other: &StepHistogram) -> Result<(), HistogramError> {
    other.iter().try_for_each(|(step, count)| histogram.add(step, count))
}

fn read_steps(path: &Path) -> Result<StepHistogram, Failure> {
    let bytes = read_bounded(path, "recorded steps", MAX_FILE_BYTES).map_err(Failure::failed)?;
    let name = path.display();
    let failed = |words: String| Failure::Failed(words.into());
    let steps: StepHistogram = serde_json::from_slice(&bytes).map_err(|error| {
        let words = refusal(&error).unwrap_or_else(|| format!("{error}; they are `{{\"steps\":[[t,p,d,count],..]}}`"));
        failed(format!("the recorded steps `{name}` are not taken: {words}"))
    })?;
    if steps.is_empty() {
        return Err(failed(format!("the recorded steps `{name}` are none; there must be at least one")));
    }
    Ok(steps)
}

/// Flags by their names; what the trace is to blame for by the trace's.
fn refused(error: SimulationError, file: &str) -> Failure {
    match error {
        SimulationError::Rate { what, value } => Failure::Usage(
            format!("--{} is `{value}`: it must be a number above 0 and at most 1000000", what.replace(' ', "-"))
                .into(),
        ),
        SimulationError::NoRequests | SimulationError::FewTokens { .. } => Failure::usage(error),
        other => Failure::Failed(format!("`{file}`: {other}").into()),
    }
}
