//! What a graph set holds, as values that serialise, and as pictures.

use std::collections::HashMap;

use gridpoint_plan::GridPoint;
use gridpoint_runtime::{Launch, Launches, Value};
use serde::Serialize;

use crate::GraphSet;

/// One executable graph, and the points that share it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GraphDescription {
    /// Counts the executable graphs from 1, in the order of their capture.
    pub number: usize,
    /// The place of its first point in [`GraphSet::points`].
    pub captured_at: usize,
    /// The points that replay it, in the order of their capture.
    pub points: Vec<GridPoint>,
    /// The kernels, in the order in which they were recorded.
    pub nodes: Vec<NodeDescription>,
}

/// A node of a graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeDescription {
    /// What it does: `kernel`, the one kind that a step has.
    pub kind: &'static str,
    /// The kernel's name.
    pub kernel: &'static str,
    /// Blocks of the grid, in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, likewise.
    pub block: [u32; 3],
    /// Blocks of a cluster, likewise; all 1 without clusters.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// How it depends on the node in front of it.
    pub edge: Edge,
    /// The parameters by name, a [`Value::Struct`].
    pub parameters: Value,
}

/// How a node depends on the one in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// It is the first.
    None,
    /// It begins when the one in front has ended.
    Full,
    /// It may begin before the one in front has ended.
    Programmatic,
}

impl GraphDescription {
    /// Describes the graph that replays `launches`.
    fn new(number: usize, captured_at: usize, launches: &Launches) -> Self {
        let nodes = launches.as_slice().iter().enumerate();
        let edge = |index, launch: &Launch| match (index, launch.is_programmatic()) {
            (0, _) => Edge::None,
            (_, true) => Edge::Programmatic,
            (_, false) => Edge::Full,
        };
        let nodes = nodes.map(|(index, launch)| NodeDescription::new(launch, edge(index, launch))).collect();
        Self { number, captured_at, points: Vec::new(), nodes }
    }

    /// How many nodes launch each kernel, in the order in which kernels come first.
    #[must_use]
    pub fn kernels(&self) -> Vec<(&'static str, usize)> {
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for node in &self.nodes {
            match counts.iter_mut().find(|(kernel, _)| *kernel == node.kernel) {
                Some((_, count)) => *count += 1,
                None => counts.push((node.kernel, 1)),
            }
        }
        counts
    }
}

impl NodeDescription {
    fn new(launch: &Launch, edge: Edge) -> Self {
        Self {
            kind: "kernel",
            kernel: launch.name(),
            grid: [launch.blocks(), 1, 1],
            block: [launch.threads(), 1, 1],
            cluster: [launch.cluster_blocks(), 1, 1],
            shared_bytes: launch.shared_bytes(),
            edge,
            parameters: Value::Struct(launch.values()),
        }
    }
}

impl<M> GraphSet<M> {
    /// Every distinct graph whose launches are values, in the order of capture: points with equal launches share one. A set without graphs
    /// is described by what would be captured. What was recorded on a raw stream has no parameters by name; [`GraphSet::print`] draws it.
    #[must_use]
    pub fn describe(&self) -> Vec<GraphDescription> {
        let mut graphs: Vec<GraphDescription> = Vec::new();
        let mut known: HashMap<Option<usize>, usize> = HashMap::new();
        for (index, &point) in self.points().iter().enumerate() {
            let Some(launches) = self.launches(index) else { continue };
            let graph = *known.entry(self.executable(index)).or_insert_with(|| {
                graphs.push(GraphDescription::new(graphs.len() + 1, index, launches));
                graphs.len() - 1
            });
            graphs[graph].points.push(point);
        }
        graphs
    }
}
