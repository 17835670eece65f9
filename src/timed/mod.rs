//! Times of a step's launches and of whole steps on a device, beside what their shapes need (docs/kernels.md, "Timed").
//!
//! [`Bench::new`] measures the device's ceilings; [`Bench::time`] times one step in a [`Rig`]. What is timed is whatever
//! [`gridpoint_model::Model::record`] answers, by the names that the launches have.

mod bandwidth;
mod cases;
mod clock;
mod kernels;
mod products;

use std::sync::Arc;

use gridpoint_graph::StepError;
use gridpoint_model::{ModelError, PointProducts};
use gridpoint_runtime::{Device, Graph, Launch, RuntimeError};

use self::bandwidth::Bandwidth;
pub use self::cases::{Case, Relation, cases};
use self::clock::Clock;
pub use self::clock::Quantiles;
pub use self::kernels::{Method, TimedKernel};
pub use self::products::{TuneError, TunedRows};
use crate::rig::{Pages, Rig, RigError};

/// A launch that takes at least so many microseconds is timed alone; shorter ones in chains of about this time.
const CHAIN_MICROSECONDS: f64 = 100.0;
/// Most launches of a chain.
const MOST_CHAINED: usize = 2048;
/// How often what is rotated through must fill the second cache to count as cold.
const CACHE_FILLS: u64 = 4;
/// Samples of eager steps at most: each waits for the host.
const EAGER_REPEATS: u32 = 50;
/// Microseconds that the samples of one whole step may take in all, and how many samples there are even so.
const STEP_MICROSECONDS: f64 = 5e6;
const STEP_REPEATS: u32 = 20;
/// Samples by which a grid is chosen for the ceilings.
const GRID_REPEATS: u32 = 10;

/// Why a step was not timed.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    /// The step cannot be run.
    #[error(transparent)]
    Rig(#[from] RigError),
    /// The device's error.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A launch that does something else when it is launched again.
    #[error(
        "the step of `{case}` answers other tokens after its launches were timed one by one than before: one of them left something behind"
    )]
    Disturbed {
        /// The case.
        case: String,
    },
}

impl TimeError {
    /// Whether the step asked for cannot be on this device: too large, or impossible.
    #[must_use]
    pub fn is_of_the_request(&self) -> bool {
        let of_runtime = |error: &RuntimeError| {
            matches!(error, RuntimeError::OutOfMemory { .. } | RuntimeError::LayoutOverflow { .. })
        };
        match self {
            Self::Rig(RigError::Runtime(error) | RigError::Model(ModelError::Runtime(error)))
            | Self::Runtime(error) => of_runtime(error),
            Self::Rig(RigError::Step(StepError::Runtime(_)) | RigError::Model(_)) | Self::Disturbed { .. } => false,
            Self::Rig(_) => true,
        }
    }
}

/// What the device's memory gives, in gigabytes (10^9) a second, and what the method of measuring adds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Bytes that each measurement reads.
    pub bytes: u64,
    /// Microseconds of the read.
    pub read: Quantiles,
    /// Microseconds of the copy, which reads and writes them.
    pub copy: Quantiles,
    /// Microseconds of a launch that does nothing, between two events.
    pub empty: Quantiles,
    /// Microseconds of such a launch within a chain.
    pub empty_chained: Quantiles,
}

impl Ceilings {
    /// Gigabytes a second that are read.
    #[must_use]
    pub fn read_rate(&self) -> f64 {
        rate(self.bytes, self.read.median)
    }

    /// Gigabytes a second that are read and written, together.
    #[must_use]
    pub fn copy_rate(&self) -> f64 {
        rate(2 * self.bytes, self.copy.median)
    }

    /// Microseconds that bytes take at the speed of the read.
    #[must_use]
    pub fn floor(&self, bytes: u64) -> f64 {
        bytes as f64 / self.read_rate().max(f64::MIN_POSITIVE) / 1e3
    }
}

/// Gigabytes a second.
fn rate(bytes: u64, microseconds: f64) -> f64 {
    bytes as f64 / microseconds.max(1e-9) / 1e3
}

/// A whole step.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedStep {
    /// Its launches, by kernel and sizes.
    pub kernels: Vec<TimedKernel>,
    /// Microseconds of a replay of the captured graph.
    pub replay: Quantiles,
    /// Microseconds when launched one by one, the host's time among them.
    pub eager: Quantiles,
    /// Samples of the replay, and of the eager step: fewer than of kernels where a step is long.
    pub samples: [u32; 2],
    /// Bytes that its launches read and write at least.
    pub bytes: u64,
    /// Which kernels its products took.
    pub products: PointProducts,
}

impl TimedStep {
    /// Microseconds of all launches, each as fast as in a chain of its own.
    #[must_use]
    pub fn parts(&self) -> f64 {
        self.kernels.iter().map(|kernel| kernel.launches as f64 * kernel.times.chained.median).sum()
    }
}

/// Two ways to time launches of one kernel, in microseconds for each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// What the launches read is not in the second cache.
    pub cold: Quantiles,
    /// Back to back, launch after launch, with what the cache then holds.
    pub chained: Quantiles,
    /// How many were in a chain; 1: each was timed alone.
    pub chain: usize,
}

/// A device that is measured with.
pub struct Bench {
    clock: Clock,
    bandwidth: Bandwidth,
    ceilings: Ceilings,
    simulated: bool,
    repeats: u32,
}

impl Bench {
    /// Takes buffers and measures the ceilings; every figure is of `repeats` samples.
    ///
    /// # Errors
    /// Too little memory, or the device's error.
    pub fn new(device: &Arc<Device>, simulated: bool, repeats: u32) -> Result<Self, TimeError> {
        let bandwidth = Bandwidth::new(device, simulated)?;
        let zero = Quantiles::default();
        let ceilings = Ceilings { bytes: bandwidth.bytes(), read: zero, copy: zero, empty: zero, empty_chained: zero };
        let mut bench = Self { clock: Clock::new(device)?, bandwidth, ceilings, simulated, repeats: repeats.max(1) };
        bench.ceilings.read = bench.ceiling(0)?;
        bench.ceilings.copy = bench.ceiling(ceilings.bytes)?;
        let nothing = bench.bandwidth.launch(0, 0, 0, 1);
        let times = bench.times(std::slice::from_ref(&nothing), false, bench.bandwidth.memory())?;
        bench.ceilings.empty = times.cold;
        bench.ceilings.empty_chained = times.chained;
        Ok(bench)
    }

    /// What the device's memory gives.
    #[must_use]
    pub fn ceilings(&self) -> &Ceilings {
        &self.ceilings
    }

    /// Bytes of the second cache that rotations are to exceed.
    #[must_use]
    pub fn cache_bytes(&self) -> u64 {
        self.bandwidth.cache_bytes
    }

    /// Reads the buffer and writes so many bytes, with the grid that is fastest.
    fn ceiling(&mut self, written: u64) -> Result<Quantiles, RuntimeError> {
        let Self { clock, bandwidth, repeats, .. } = self;
        let lead = |stream: &_| bandwidth.flush(stream);
        let mut best: Option<(f64, Launch)> = None;
        for grid in bandwidth.grids() {
            let launch = bandwidth.launch(bandwidth.bytes(), written, 0, grid);
            let few = (*repeats).min(GRID_REPEATS);
            let median = Quantiles::of(clock.samples(few, &lead, None, |stream, _| stream.launch(&launch))?).median;
            if best.as_ref().is_none_or(|(fastest, _)| median < *fastest) {
                best = Some((median, launch));
            }
        }
        let Some((_, launch)) = best else { return Ok(Quantiles::default()) };
        Ok(Quantiles::of(clock.samples(*repeats, &lead, None, |stream, _| stream.launch(&launch))?))
    }

    /// Times different launches of one kernel, which all take as long. With `rotates` walking through them defeats the cache.
    fn times<M>(&mut self, launches: &[Launch], rotates: bool, retained: Arc<M>) -> Result<Times, RuntimeError> {
        let Self { clock, bandwidth, repeats, simulated, .. } = self;
        let flush = |stream: &_| bandwidth.flush(stream);
        let count = launches.len().max(1);
        let all = |stream: &gridpoint_runtime::Stream| launches.iter().try_for_each(|launch| stream.launch(launch));
        // Also the warm-up.
        let pass = Quantiles::of(clock.samples(3, &flush, None, |stream, _| all(stream))?).median;
        let each = (pass / count as f64).max(0.1);
        let chain = if *simulated {
            count.max(2)
        } else if each >= CHAIN_MICROSECONDS {
            1
        } else {
            let rounds = (CHAIN_MICROSECONDS / (each * count as f64)).ceil() as usize;
            (count * rounds.max(1)).min(MOST_CHAINED)
        };
        let chained = if chain == 1 {
            clock.samples(*repeats, &flush, None, |stream, index| stream.launch(&launches[index % count]))?
        } else {
            let graph = capture(clock, launches.iter().cycle().take(chain), retained)?;
            graph.launch(&clock.stream)?;
            clock.samples(*repeats, &flush, None, |stream, _| graph.launch(stream))?
        };
        let chained = Quantiles::of(chained).scaled(1.0 / chain as f64);
        let cold = if rotates {
            chained
        } else {
            let alone = |stream: &gridpoint_runtime::Stream, index: usize| stream.launch(&launches[index % count]);
            Quantiles::of(clock.samples(*repeats, &flush, Some(&flush), alone)?)
        };
        Ok(Times { cold, chained, chain })
    }

    /// Times a step and everything in it.
    ///
    /// # Errors
    /// A step that the rig is not for, or the device's error.
    pub fn time(&mut self, rig: &mut Rig, case: &Case) -> Result<TimedStep, TimeError> {
        let launches = rig.record(case.shape.point)?;
        let needs = rig.needs(&case.shape, &launches);
        let bytes = needs.iter().map(|need| need.read.least + need.written.least).sum();
        let before = self.answer(rig, case, &launches)?;

        let retained = Arc::new(rig.model.memory());
        let graph = capture(&self.clock, launches.as_slice().iter(), Arc::clone(&retained))?;
        graph.launch(&self.clock.stream)?;
        let kernels = kernels::group(&launches, &needs);
        let (replay, eager, samples) = {
            let Self { clock, bandwidth, repeats, .. } = self;
            let flush = |stream: &gridpoint_runtime::Stream| bandwidth.flush(stream);
            let cold: clock::Enqueue<'_> = &flush;
            let needs_flush = bytes < CACHE_FILLS * bandwidth.cache_bytes;
            let first = needs_flush.then_some(cold);
            let each = Quantiles::of(clock.samples(3, &flush, first, |stream, _| graph.launch(stream))?).median;
            let affordable = (STEP_MICROSECONDS / each.max(1.0)) as u32;
            let many = affordable.max(STEP_REPEATS).min(*repeats);
            let few = many.min(EAGER_REPEATS);
            let replay = clock.samples(many, &flush, first, |stream, _| graph.launch(stream))?;
            let eager = clock.samples(few, &flush, first, |stream, _| launches.launch(stream))?;
            (Quantiles::of(replay), Quantiles::of(eager), [many, few])
        };
        let mut timed = Vec::with_capacity(kernels.len());
        for group in kernels {
            timed.push(self.time_group(group, &retained)?);
        }
        if self.answer(rig, case, &launches)? != before {
            return Err(TimeError::Disturbed { case: case.name.clone() });
        }
        let products = rig.model.product_choices(case.shape.point);
        Ok(TimedStep { kernels: timed, replay, eager, samples, bytes, products })
    }

    /// Runs the step once, eagerly: its tokens.
    fn answer(
        &self,
        rig: &mut Rig,
        case: &Case,
        launches: &gridpoint_runtime::Launches,
    ) -> Result<Vec<i32>, TimeError> {
        let packed = rig.pack(&case.shape, Pages::Scattered, case.sampling)?;
        let ticket =
            rig.ring.submit(packed, &self.clock.stream, |stream| launches.launch(stream)).map_err(RigError::from)?;
        let results = rig.ring.wait(&ticket).map_err(RigError::from)?;
        Ok(results.iter().map(|result| result.token).collect())
    }
}

/// A graph of these launches in order.
fn capture<'a, M>(
    clock: &Clock,
    mut launches: impl Iterator<Item = &'a Launch>,
    retained: M,
) -> Result<Graph<M>, RuntimeError> {
    let recording = clock.stream.record()?;
    launches.try_for_each(|launch| clock.stream.launch(launch))?;
    let graph = recording.finish()?.instantiate(retained)?;
    graph.upload(&clock.stream)?;
    Ok(graph)
}
