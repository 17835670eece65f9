//! What each point of a plan launches, before anything of it is executable.

use std::any::Any;
use std::collections::HashMap;
use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridpoint_plan::{GridPoint, Plan};
use gridpoint_runtime::{CUstream, CapturedLaunches, Graph, Launches, Recording, RuntimeError, Stream};

use crate::{CaptureCause, CaptureError};

/// A point that is being recorded: what is launched through it becomes the point's step.
///
/// Launches that are values ([`PointRecording::launch`]) are only collected: nothing is captured for a point whose launches
/// another point has. Kernels of other libraries are launched on [`PointRecording::raw_stream`], which captures; such points
/// share a graph where the driver tells that what they captured is the same.
pub struct PointRecording<'stream> {
    stream: &'stream Stream,
    launches: Launches,
    capture: Option<Recording<'stream>>,
    pool_bytes: u64,
}

impl<'stream> PointRecording<'stream> {
    fn new(stream: &'stream Stream) -> Self {
        Self { stream, launches: Launches::new(), capture: None, pool_bytes: 0 }
    }

    /// Appends launches.
    ///
    /// # Errors
    /// The driver's error, where the raw stream was asked for before.
    pub fn launch(&mut self, launches: Launches) -> Result<(), RuntimeError> {
        if self.capture.is_some() {
            return launches.launch(self.stream);
        }
        self.launches.append(launches);
        Ok(())
    }

    /// A stream that captures whatever is launched on it until the point is recorded, in order behind what was launched so far. Only
    /// kernels may be launched; nothing may be allocated and nothing waited for. Work forked to other streams must have joined it again.
    ///
    /// # Errors
    /// The driver's error.
    pub fn raw_stream(&mut self) -> Result<CUstream, RuntimeError> {
        Ok(self.stream()?.raw())
    }

    /// [`PointRecording::raw_stream`], with its type.
    ///
    /// # Errors
    /// The driver's error.
    pub fn stream(&mut self) -> Result<&'stream Stream, RuntimeError> {
        if self.capture.is_none() {
            self.capture = Some(self.stream.record()?);
            std::mem::take(&mut self.launches).launch(self.stream)?;
        }
        Ok(self.stream)
    }

    /// Says how many bytes of the memory that all graphs alias a step of the point touches, for the report of the capture.
    pub fn set_pool_bytes(&mut self, bytes: u64) {
        self.pool_bytes = bytes;
    }

    fn finish(mut self) -> Result<(PointLaunches, u64), RuntimeError> {
        let launches = match self.capture.take() {
            None => PointLaunches::Values(self.launches),
            Some(capture) => PointLaunches::Captured(CapturedLaunches::read(capture.finish()?)?),
        };
        Ok((launches, self.pool_bytes))
    }
}

/// A step's launches: as values, or as they were captured from a raw stream.
pub(crate) enum PointLaunches {
    Values(Launches),
    Captured(CapturedLaunches),
}

/// How long making one graph executable took, by what was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MakeTimes {
    pub(crate) capture: Duration,
    pub(crate) instantiate: Duration,
    pub(crate) upload: Duration,
}

impl MakeTimes {
    pub(crate) fn total(&self) -> Duration {
        self.capture + self.instantiate + self.upload
    }
}

impl PointLaunches {
    pub(crate) fn nodes(&self) -> usize {
        match self {
            Self::Values(launches) => launches.as_slice().len(),
            Self::Captured(launches) => launches.nodes(),
        }
    }

    pub(crate) fn launch(&self, stream: &Stream) -> Result<(), RuntimeError> {
        match self {
            Self::Values(launches) => launches.launch(stream),
            Self::Captured(launches) => launches.launch(stream),
        }
    }

    /// The executable graph of these launches, its upload enqueued on `stream`.
    pub(crate) fn make(&self, stream: &Stream) -> Result<(Graph<()>, MakeTimes), RuntimeError> {
        let started = Instant::now();
        let (capture, graph) = match self {
            Self::Captured(launches) => (Duration::ZERO, launches.instantiate(())?),
            Self::Values(launches) => {
                let recording = stream.record()?;
                launches.launch(stream)?;
                let template = recording.finish()?;
                (started.elapsed(), template.instantiate(())?)
            }
        };
        let instantiated = started.elapsed();
        graph.upload(stream)?;
        let upload = started.elapsed() - instantiated;
        Ok((graph, MakeTimes { capture, instantiate: instantiated - capture, upload }))
    }

    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Values(own), Self::Values(others)) => own == others,
            (Self::Captured(own), Self::Captured(others)) => {
                own.identity().is_some_and(|identity| Some(identity) == others.identity())
            }
            _ => false,
        }
    }

    fn hash(&self, state: &RandomState) -> u64 {
        match self {
            Self::Values(launches) => state.hash_one(launches),
            Self::Captured(launches) => state.hash_one(launches.identity()),
        }
    }
}

/// Every point of a plan with its launches. Equal launches stand once: each list becomes one executable graph.
pub struct RecordedPlan {
    pub(crate) points: Vec<GridPoint>,
    /// For each point, bytes of the common pool that a step touches.
    pub(crate) pool_bytes: Vec<u64>,
    /// For each point, which of `distinct`.
    pub(crate) executable_of: Vec<usize>,
    pub(crate) distinct: Vec<Arc<PointLaunches>>,
    pub(crate) time: Duration,
}

impl RecordedPlan {
    /// Records every point of `plan`, in its order; `stream` captures where `record` asks for it.
    ///
    /// # Errors
    /// The first point that `record` fails at, panics in, or leaves an invalid capture behind, together with all points before it. The
    /// stream captures no more.
    pub fn record<E: Into<Box<dyn Error + Send + Sync>>>(
        plan: &Plan,
        stream: &Stream,
        mut record: impl FnMut(&mut PointRecording<'_>, GridPoint) -> Result<(), E>,
    ) -> Result<Self, Box<(CaptureError, Self)>> {
        let started = Instant::now();
        let total = plan.len();
        let mut recorded = Self {
            points: Vec::with_capacity(total),
            pool_bytes: Vec::with_capacity(total),
            executable_of: Vec::with_capacity(total),
            distinct: Vec::new(),
            time: Duration::ZERO,
        };
        let state = RandomState::new();
        let mut known: HashMap<u64, Vec<usize>> = HashMap::new();
        for (index, &point) in plan.points().iter().enumerate() {
            let (launches, pool_bytes) = match record_point(stream, point, &mut record) {
                Ok(launches) => launches,
                Err(cause) => {
                    recorded.time = started.elapsed();
                    return Err(Box::new((CaptureError { point, number: index + 1, total, cause }, recorded)));
                }
            };
            let alike = known.entry(launches.hash(&state)).or_default();
            let executable = match alike.iter().find(|&&known| recorded.distinct[known].same(&launches)) {
                Some(&executable) => executable,
                None => {
                    alike.push(recorded.distinct.len());
                    recorded.distinct.push(Arc::new(launches));
                    recorded.distinct.len() - 1
                }
            };
            recorded.points.push(point);
            recorded.pool_bytes.push(pool_bytes);
            recorded.executable_of.push(executable);
        }
        recorded.time = started.elapsed();
        Ok(recorded)
    }

    /// The points, in the order of the plan.
    #[must_use]
    pub fn points(&self) -> &[GridPoint] {
        &self.points
    }

    /// Which of the executable graphs point `index` takes, from 0.
    #[must_use]
    pub fn executable(&self, index: usize) -> Option<usize> {
        self.executable_of.get(index).copied()
    }

    /// Kernel nodes of each executable graph that the plan takes.
    #[must_use]
    pub fn nodes(&self) -> Vec<usize> {
        self.distinct.iter().map(|launches| launches.nodes()).collect()
    }

    /// The longest list of launches that are values; none where all were captured from raw streams.
    #[must_use]
    pub fn longest(&self) -> Option<&Launches> {
        let values = self.distinct.iter().filter_map(|launches| match launches.as_ref() {
            PointLaunches::Values(launches) => Some(launches),
            PointLaunches::Captured(_) => None,
        });
        values.max_by_key(|launches| launches.as_slice().len())
    }

    /// The first `count` points alone.
    #[must_use]
    pub(crate) fn first(mut self, count: usize) -> Self {
        self.points.truncate(count);
        self.pool_bytes.truncate(count);
        self.executable_of.truncate(count);
        // Lists stand in the order of the points that had them first.
        self.distinct.truncate(self.executable_of.iter().max().map_or(0, |&last| last + 1));
        self
    }
}

fn record_point<E: Into<Box<dyn Error + Send + Sync>>>(
    stream: &Stream,
    point: GridPoint,
    record: &mut impl FnMut(&mut PointRecording<'_>, GridPoint) -> Result<(), E>,
) -> Result<(PointLaunches, u64), CaptureCause> {
    let mut recording = PointRecording::new(stream);
    // Whatever the closure left half done is its own; the recording is dropped, which ends the capture.
    match catch_unwind(AssertUnwindSafe(|| record(&mut recording, point))) {
        Err(payload) => Err(CaptureCause::Panicked(words_of(payload.as_ref()))),
        Ok(Err(error)) => Err(CaptureCause::Record(error.into())),
        Ok(Ok(())) => Ok(recording.finish()?),
    }
}

/// What a panic said.
fn words_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "something that is no text".to_owned())
}
