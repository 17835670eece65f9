//! How long a plan takes to capture, on one thread and on several, and what its graphs take of the device's memory.

use std::num::NonZeroUsize;
use std::sync::Arc;

use gridpoint_graph::{
    CaptureError, CaptureMode, CaptureOptions, CaptureSummary, GraphCosts, PointRecording, RecordedPlan,
};
use gridpoint_model::{ModelConfig, WeightSource};
use gridpoint_plan::{GridPoint, Plan};
use gridpoint_runtime::{Device, RuntimeError, Stream};

use crate::rig::{Rig, RigError, RigShape};

/// Why captures could not be timed.
#[derive(Debug, thiserror::Error)]
pub enum CapturesError {
    /// The model cannot be placed.
    #[error(transparent)]
    Rig(#[from] RigError),
    /// A point cannot be captured.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The device's error.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A plan without graphs.
    #[error("the plan has no graphs: there is nothing to capture")]
    NoGraphs,
}

/// One number of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThreadTimes {
    /// Threads that made graphs.
    pub threads: NonZeroUsize,
    /// The capture whose time was the median. Of several threads the parts of the time are sums over them.
    pub summary: CaptureSummary,
}

/// What a plan takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Captures {
    /// What a graph costs, measured before any was captured.
    pub costs: GraphCosts,
    /// Bytes of device memory that all graphs were predicted to take.
    pub predicted_bytes: u64,
    /// Bytes that they took.
    pub measured_bytes: u64,
    /// By number of threads.
    pub threads: Vec<ThreadTimes>,
}

/// Captures `plan` for the model `repeats` times on each number of threads. Nothing is replayed.
///
/// # Errors
/// A model that the device has no memory for, a plan without graphs, or the device's error.
pub fn measure(
    device: &Arc<Device>,
    config: &ModelConfig,
    source: WeightSource<'_>,
    plan: &Plan,
    threads: &[NonZeroUsize],
    repeats: NonZeroUsize,
) -> Result<Captures, CapturesError> {
    let largest = |of: fn(&GridPoint) -> u64| plan.points().iter().map(of).max().unwrap_or(0) as u32;
    let (tokens, requests) = (largest(|point| point.tokens.into()), largest(GridPoint::requests));
    if plan.is_empty() {
        return Err(CapturesError::NoGraphs);
    }
    // Memory for every point: a step of as many prompts as there are requests.
    let every = GridPoint { tokens: tokens.max(requests), prefills: requests, decodes: 0 };
    let rig = Rig::new(device, config, source, &[RigShape::full(every, 0)])?;
    let stream = Stream::new(device)?;
    let record =
        |recording: &mut PointRecording<'_>, point| recording.launch(rig.model.record(point, rig.ring.address())?);
    let recorded = || RecordedPlan::record(plan, &stream, record).map_err(|failed| failed.0);
    let (nodes, costs) = {
        let recorded = recorded()?;
        let launches = recorded.longest().ok_or(CapturesError::NoGraphs)?;
        (recorded.nodes(), GraphCosts::measure(&stream, launches)?)
    };
    let mut measured_bytes = 0;
    let mut times = Vec::with_capacity(threads.len());
    for &threads in threads {
        let options = CaptureOptions { mode: CaptureMode::All, threads, ..CaptureOptions::default() };
        let mut summaries = Vec::with_capacity(repeats.get());
        for _ in 0..repeats.get() {
            let set = recorded()?
                .capture(&stream, rig.model.memory(), &options, |_| {})
                .map_err(|incomplete| incomplete.error)?;
            summaries.push(*set.summary());
        }
        summaries.sort_by_key(|summary| summary.times.total);
        let summary = summaries[repeats.get() / 2];
        measured_bytes = measured_bytes.max(summary.pool.reserved);
        times.push(ThreadTimes { threads, summary });
    }
    Ok(Captures { costs, predicted_bytes: costs.of_all(&nodes).bytes, measured_bytes, threads: times })
}
