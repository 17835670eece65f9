//! What a plan takes of the device's memory and of the time before the first request, known before the kv cache is sized.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gridpoint_graph::{Bytes, CaptureMode, GraphCosts, PointRecording, RecordedPlan};
use gridpoint_model::{Kernels, Model, ModelConfig, WeightStore};
use gridpoint_plan::{Budget, Budgeted, Dropped, GraphCost, GridPoint, Matching, Plan};
use gridpoint_runtime::{Arena, Device, MemoryInfo, StepAddress, Stream};

use crate::engine::EngineOptions;
use crate::error::EngineError;
use crate::memory::{MemoryReport, Sizes};
use crate::pages::pages_for;

/// Device memory that the driver takes for executable graphs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphMemory {
    /// Executable graphs of the plan: points with equal launches share one.
    pub graphs: usize,
    /// Their kernel nodes.
    pub nodes: usize,
    /// Bytes that they were predicted to take, from two batches of graphs that were made and thrown away.
    pub predicted: u64,
    /// Bytes by which the device's free memory shrank for them, once all are captured.
    pub measured: Option<u64>,
}

/// The graphs of a plan within a budget.
pub(crate) struct Forecast {
    /// What is left of the plan.
    pub(crate) plan: Plan,
    /// What is not.
    pub(crate) dropped: Vec<Dropped>,
    pub(crate) memory: GraphMemory,
    /// Bytes that measuring left with the driver: what graphs that come later need not take again.
    pub(crate) kept: u64,
}

/// Most bytes that the engine may take in all.
pub(crate) fn bytes(options: &EngineOptions, memory: MemoryInfo) -> Result<u64, EngineError> {
    let utilization = options.memory_utilization;
    if !(utilization > 0.0 && utilization <= 1.0) {
        return Err(EngineError::MemoryUtilization { given: utilization });
    }
    // What others have counts as in use.
    let spared = (memory.total as f64 * (1.0 - utilization)) as u64;
    Ok(options.memory_budget.unwrap_or(u64::MAX).min(memory.free.saturating_sub(spared)))
}

/// Finds which graphs the plan takes, by recording it on memory of the same sizes with the smallest kv cache; measures what a graph costs;
/// and drops the points that are missed least until the rest is within the budgets of memory (`budget` bytes, of which `weights` are gone)
/// and of time.
pub(crate) fn forecast(
    device: &Arc<Device>,
    config: &ModelConfig,
    kernels: &Kernels,
    (weights, store): (&Arc<Arena>, &WeightStore),
    (plan, sizes): (&Plan, &Sizes),
    options: &EngineOptions,
    budget: u64,
) -> Result<Forecast, EngineError> {
    if options.capture == CaptureMode::Off {
        let memory = GraphMemory::default();
        return Ok(Forecast { plan: plan.clone(), dropped: Vec::new(), memory, kept: 0 });
    }
    let stream = Stream::new(device)?;
    let recorded = record(device, config, kernels, (weights, store), (plan, sizes), &stream)?;
    let nodes = recorded.nodes();
    let free = device.memory()?.free;
    let costs = match recorded.longest() {
        Some(launches) => GraphCosts::measure(&stream, launches)?,
        None => GraphCosts::default(),
    };
    let kept = free.saturating_sub(device.memory()?.free);

    let graph_of: Vec<usize> = (0..plan.len()).filter_map(|index| recorded.executable(index)).collect();
    let each: Vec<GraphCost> = nodes.iter().map(|&nodes| costs.of(nodes)).collect();
    // The longest sequence is served whatever is captured.
    let pages = options.kv_pages.unwrap_or(u32::MAX).min(pages_for(sizes.max_sequence_length) + 1).max(2);
    let others = weights.bytes().saturating_add(sizes.bytes(device, config, kernels, pages)?);
    let left = budget.saturating_sub(others);
    if left == 0 {
        return Err(EngineError::MemoryBudget { budget, needed: others });
    }
    let all = costs.of_all(&nodes);
    // Choosing takes time that grows with the square of the points, and a plan that fits need not be chosen from.
    let budgeted = if all.bytes <= left && options.capture_budget.is_none_or(|budget| all.capture_time <= budget) {
        Budgeted { plan: plan.clone(), dropped: Vec::new(), cost: all }
    } else {
        let limits = Budget { graphs: None, bytes: Some(left), capture_time: options.capture_budget };
        limits.apply_shared(plan, Matching::NonStrict, &graph_of, &each, None).map_err(EngineError::PlanBudget)?
    };
    let dropped: BTreeSet<GridPoint> = budgeted.dropped.iter().map(|dropped| dropped.point).collect();
    let kept_points = plan.points().iter().zip(&graph_of).filter(|(point, _)| !dropped.contains(point));
    let used: BTreeSet<usize> = kept_points.map(|(_, &graph)| graph).collect();
    let memory = GraphMemory {
        graphs: used.len(),
        nodes: used.iter().map(|&graph| nodes[graph]).sum(),
        predicted: budgeted.cost.bytes,
        measured: None,
    };
    log_dropped(&budgeted.dropped, budgeted.cost.capture_time);
    Ok(Forecast { plan: budgeted.plan, dropped: budgeted.dropped, memory, kept })
}

/// The plan's launches, on memory that is given back at once: addresses are not those that will be captured, equality and numbers are.
fn record(
    device: &Arc<Device>,
    config: &ModelConfig,
    kernels: &Kernels,
    (weights, store): (&Arc<Arena>, &WeightStore),
    (plan, sizes): (&Plan, &Sizes),
    stream: &Stream,
) -> Result<RecordedPlan, EngineError> {
    const LEAST_PAGES: u32 = 2;
    let layout = sizes.reserve(config, kernels, LEAST_PAGES)?;
    let run = Arc::new(Arena::new(device, "a step's memory", &layout.layout)?);
    let cache = Arc::new(Arena::releasable(device, "the kv cache", &layout.cache_layout)?);
    let step = StepAddress::new(&run, layout.block);
    let model = Model::new(
        config.clone(),
        kernels.clone(),
        (Arc::clone(weights), store.clone()),
        (run, layout.workspace),
        (cache, layout.cache),
    )?;
    let record = |recording: &mut PointRecording<'_>, point: GridPoint| recording.launch(model.record(point, step)?);
    Ok(RecordedPlan::record(plan, stream, record).map_err(|failed| failed.0)?)
}

/// Says which points are not captured, and what their batches take instead.
fn log_dropped(dropped: &[Dropped], time: Duration) {
    if dropped.is_empty() {
        return;
    }
    for Dropped { point, replaced_by } in dropped {
        tracing::warn!("{point} is not captured: its batches replay {replaced_by}");
    }
    tracing::warn!("{} points were dropped; capture of the rest is predicted to take {time:.0?}", dropped.len());
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, workspace, logit_rows, step_block, kv_cache, kv_pages, graphs, budget, .. } = *self;
        write!(
            formatter,
            "memory: weights {}, a step's arena {} (logit rows {}), metadata {}, {} graphs of {} nodes {}, kv cache {} in {kv_pages} pages; budget {}",
            Bytes::from(weights),
            Bytes::from(workspace),
            Bytes::from(logit_rows),
            Bytes::from(step_block),
            graphs.graphs,
            graphs.nodes,
            Bytes::from(graphs.measured.unwrap_or(graphs.predicted)),
            Bytes::from(kv_cache),
            Bytes::from(budget),
        )?;
        match graphs.measured {
            Some(_) => write!(formatter, "; graphs were predicted to take {}", Bytes::from(graphs.predicted)),
            None => formatter.write_str("; graphs as predicted"),
        }
    }
}
