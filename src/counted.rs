//! One step of a point, run on the simulated device, with what each of its launches did beside what its shape needs.

use std::sync::Arc;

use gridpoint_model::{LaunchNeed, ModelConfig, Need, PointProducts, ProductTable, WeightSource};
use gridpoint_runtime::{Device, RuntimeError, Stream};
use gridpoint_simulator::counters::{self, Counts, GraphCounts, LaunchCounts, Recorded};

pub use crate::rig::RigShape as CountedShape;
use crate::rig::{Pages, Rig, RigError, Sampling};

/// Why a step was not counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// Launches that nobody counted.
    #[error("`{counted}` of the step's `{launches}` launches were counted: the device must be the simulated one")]
    NotCounted {
        /// Launches counted.
        counted: usize,
        /// Launches of the step.
        launches: usize,
    },
    /// The step cannot be run.
    #[error(transparent)]
    Rig(#[from] RigError),
    /// The device's error.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// A launch of the step.
#[derive(Clone, Debug)]
pub struct CountedLaunch {
    /// What it did.
    pub counts: LaunchCounts,
    /// What its shape needs.
    pub need: LaunchNeed,
}

/// The launches of one kernel, summed.
#[derive(Clone, Debug)]
pub struct CountedKernel {
    /// Its name.
    pub kernel: String,
    /// What it was launched for, each once.
    pub operations: Vec<&'static str>,
    /// How many launches.
    pub launches: u64,
    /// What they did; distinct bytes are those of each launch.
    pub counts: Counts,
    /// Bytes read that they need.
    pub read: Need,
    /// Bytes written that they need.
    pub written: Need,
    /// Multiplications m16n8k16 that they need.
    pub multiplies: Need,
}

/// A counted step.
#[derive(Clone, Debug)]
pub struct CountedStep {
    /// Its launches in the order of the graph.
    pub launches: Vec<CountedLaunch>,
    /// The whole graph, in which bytes that several launches touch count once as distinct.
    pub graph: GraphCounts,
    /// Which kernels its products took.
    pub products: PointProducts,
}

impl CountedStep {
    /// The kernels in the order in which they first ran.
    #[must_use]
    pub fn kernels(&self) -> Vec<CountedKernel> {
        let mut kernels: Vec<CountedKernel> = Vec::new();
        for CountedLaunch { counts, need } in &self.launches {
            let index = kernels.iter().position(|known| known.kernel == counts.kernel).unwrap_or_else(|| {
                kernels.push(CountedKernel {
                    kernel: counts.kernel.clone(),
                    operations: Vec::new(),
                    launches: 0,
                    counts: Counts::default(),
                    read: Need::default(),
                    written: Need::default(),
                    multiplies: Need::default(),
                });
                kernels.len() - 1
            });
            let kernel = &mut kernels[index];
            kernel.launches += 1;
            kernel.counts.add(&counts.counts);
            if !kernel.operations.contains(&need.operation) {
                kernel.operations.push(need.operation);
            }
            for (sum, more) in [
                (&mut kernel.read, need.read),
                (&mut kernel.written, need.written),
                (&mut kernel.multiplies, need.multiplies),
            ] {
                sum.least += more.least;
                sum.tiled += more.tiled;
            }
        }
        kernels
    }
}

/// Captures the point, replays it with the real step once and counts. The device must be that of [`crate::devices::open_counted`].
///
/// Every request samples one token greedily. Keys and values before the step are zeros.
///
/// # Errors
/// A step that cannot be, or the device's error.
pub fn count_step<'a>(
    device: &Arc<Device>,
    config: &ModelConfig,
    weights: impl Into<WeightSource<'a>>,
    shape: &CountedShape,
) -> Result<CountedStep, CountError> {
    count_step_with(device, config, weights, shape, None)
}

/// As [`count_step`], with products that take the kernels of a table.
///
/// # Errors
/// The same, and a table of another device.
pub fn count_step_with<'a>(
    device: &Arc<Device>,
    config: &ModelConfig,
    weights: impl Into<WeightSource<'a>>,
    shape: &CountedShape,
    table: Option<Arc<ProductTable>>,
) -> Result<CountedStep, CountError> {
    let mut rig = Rig::new(device, config, weights.into(), std::slice::from_ref(shape))?;
    rig.model.choose_products(table).map_err(|error| RigError::Model(error.into()))?;
    rig.model.clear_cache().map_err(RigError::from)?;

    let stream = Stream::new(device)?;
    let launches = rig.record(shape.point)?;
    let recording = stream.record()?;
    launches.launch(&stream)?;
    let graph = recording.finish()?.instantiate(rig.model.memory())?;
    graph.upload(&stream)?;

    let packed = rig.pack(shape, Pages::InOrder, Sampling::GREEDY)?;
    stream.synchronize()?;
    counters::record();
    let ticket = rig.ring.submit(packed, &stream, |stream| graph.launch(stream));
    let done = ticket.and_then(|ticket| rig.ring.wait(&ticket).map(drop)).map_err(RigError::from);
    let Recorded { launches: counted, graphs } = counters::take();
    done?;

    let needs = rig.needs(shape, &launches);
    let names = launches.as_slice().iter().map(gridpoint_runtime::Launch::name);
    let Some(graph) = graphs.into_iter().next().filter(|_| counted.iter().map(|one| one.kernel.as_str()).eq(names))
    else {
        return Err(CountError::NotCounted { counted: counted.len(), launches: launches.as_slice().len() });
    };
    let launches = counted.into_iter().zip(needs).map(|(counts, need)| CountedLaunch { counts, need }).collect();
    Ok(CountedStep { launches, graph, products: rig.model.product_choices(shape.point) })
}
