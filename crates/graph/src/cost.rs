//! What an executable graph costs on this device, measured before a plan is captured.

use std::time::{Duration, Instant};

use gridpoint_plan::GraphCost;
use gridpoint_runtime::{Graph, Launches, RuntimeError, Stream};

use crate::recorded::PointLaunches;

/// Graphs of a batch: the driver takes device memory in pieces that a single graph does not show.
const BATCH: usize = 8;
/// The short graphs have one of so many of the nodes of the long ones.
const SHORTER: usize = 4;

/// A constant and so much for each node, fitted to two batches of graphs that were made and thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GraphCosts {
    /// What a graph costs beside its nodes.
    pub graph: GraphCost,
    /// What a node costs: bytes as a fraction, since the driver's pieces are larger than a node.
    pub node_bytes: f64,
    /// Time to capture, instantiate and upload a node.
    pub node_time: Duration,
    /// What measuring took.
    pub measured_in: Duration,
}

impl GraphCosts {
    /// Makes two batches of graphs of `launches`, one of a part of them and one of all, and looks at the free memory of the device and at the
    /// clock before and after. Nothing is launched, so the launches may address memory that is not there.
    ///
    /// What other processes and threads allocate meanwhile shows in the result.
    ///
    /// # Errors
    /// The driver's error.
    pub fn measure(stream: &Stream, launches: &Launches) -> Result<Self, RuntimeError> {
        let started = Instant::now();
        let long = launches.as_slice().len().max(1);
        let short = long.div_ceil(SHORTER);
        // The first graph of a context pays for what all share.
        let (first, ..) = batch(stream, launches, 1)?;
        let (short_batch, short_bytes, short_time) = batch(stream, &launches.prefix(short), BATCH)?;
        // The short ones stay while the long ones are made, or these would get their memory.
        let (long_batch, long_bytes, long_time) = batch(stream, launches, BATCH)?;
        drop((first, short_batch, long_batch));
        let graphs = BATCH as f64;
        let more = (long - short) as f64;
        let (short_bytes, long_bytes) = (short_bytes as f64 / graphs, long_bytes as f64 / graphs);
        // Pieces that happen to be free already would make longer graphs cheaper than short ones.
        let node_bytes = if more > 0.0 { ((long_bytes - short_bytes) / more).max(0.0) } else { 0.0 };
        let constant = (long_bytes - node_bytes * long as f64).max(0.0);
        let node_time =
            if more > 0.0 { long_time.saturating_sub(short_time).div_f64(graphs * more) } else { Duration::ZERO };
        let capture_time = long_time.div_f64(graphs).saturating_sub(node_time.mul_f64(long as f64));
        Ok(Self {
            graph: GraphCost { bytes: constant.round() as u64, capture_time },
            node_bytes,
            node_time,
            measured_in: started.elapsed(),
        })
    }

    /// What a graph of so many nodes costs.
    #[must_use]
    pub fn of(&self, nodes: usize) -> GraphCost {
        let nodes = nodes as f64;
        GraphCost {
            bytes: self.graph.bytes.saturating_add((self.node_bytes * nodes).round() as u64),
            capture_time: self.graph.capture_time.saturating_add(self.node_time.mul_f64(nodes)),
        }
    }

    /// What graphs of so many nodes each cost together.
    #[must_use]
    pub fn of_all(&self, nodes: &[usize]) -> GraphCost {
        nodes.iter().map(|&nodes| self.of(nodes)).fold(GraphCost::default(), |sum, cost| GraphCost {
            bytes: sum.bytes.saturating_add(cost.bytes),
            capture_time: sum.capture_time.saturating_add(cost.capture_time),
        })
    }
}

/// So many graphs of the same launches, the device memory that they took together, and the time.
fn batch(stream: &Stream, launches: &Launches, count: usize) -> Result<(Vec<Graph<()>>, u64, Duration), RuntimeError> {
    let launches = PointLaunches::Values(launches.clone());
    let before = stream.device().memory()?.free;
    let started = Instant::now();
    let mut graphs = Vec::with_capacity(count);
    for _ in 0..count {
        graphs.push(launches.make(stream)?.0);
    }
    stream.synchronize()?;
    let time = started.elapsed();
    Ok((graphs, before.saturating_sub(stream.device().memory()?.free), time))
}
