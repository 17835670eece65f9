//! Every point of a plan, captured or on the way to it.

use std::path::Path;
use std::sync::Arc;

use gridpoint_plan::{GridPoint, Match, Matcher, Matching, StepShape};
use gridpoint_runtime::{Graph, Launches, RuntimeError, Stream};

use crate::background::{Background, Made};
use crate::recorded::PointLaunches;
use crate::{CaptureMode, CaptureSummary, EagerReason, RecordedPlan};

/// A list of launches, and the executable graph that replays it.
pub(crate) struct Executable {
    pub(crate) launches: Arc<PointLaunches>,
    pub(crate) state: State,
}

/// Where an executable graph stands.
pub(crate) enum State {
    Waiting,
    Ready(Graph<()>),
    Failed,
}

/// How a step of a point was launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a step that ran eagerly is to be reported"]
pub enum Launched {
    /// As one launch of a captured graph.
    Replay,
    /// Kernel by kernel.
    Eager(EagerReason),
}

/// Every point of a plan, captured. Which point a step takes is the matcher's answer; replaying it is one launch.
///
/// A set keeps `memory`, which owns or borrows whatever its launches address, and waits for the last replay before it lets go of it:
/// graphs cannot outlive what they point to. With borrowed memory the compiler sees to it:
///
/// ```compile_fail,E0505
/// # use gridpoint_graph::{GraphSet, PointRecording};
/// # use gridpoint_plan::{GridPoint, Plan};
/// # use gridpoint_runtime::{Arena, RuntimeError, Stream};
/// # fn step(stream: &Stream, plan: &Plan, arena: Arena) -> Result<(), Box<dyn std::error::Error>> {
/// let record = |_: &mut PointRecording<'_>, _: GridPoint| Ok::<_, RuntimeError>(());
/// let mut graphs = GraphSet::capture(plan, stream, &arena, record).map_err(|failed| failed.error)?;
/// drop(arena); // error: `arena` is borrowed by `graphs`
/// let _ = graphs.replay(0, stream)?;
/// # Ok(()) }
/// ```
///
/// In the other order it compiles, and so it does where the set owns the arena or shares it (`Arc<Arena>`):
///
/// ```
/// # use gridpoint_graph::{GraphSet, PointRecording};
/// # use gridpoint_plan::{GridPoint, Plan};
/// # use gridpoint_runtime::{Arena, RuntimeError, Stream};
/// # fn step(stream: &Stream, plan: &Plan, arena: Arena) -> Result<(), Box<dyn std::error::Error>> {
/// let record = |_: &mut PointRecording<'_>, _: GridPoint| Ok::<_, RuntimeError>(());
/// let mut graphs = GraphSet::capture(plan, stream, &arena, record).map_err(|failed| failed.error)?;
/// let _ = graphs.replay(0, stream)?;
/// drop(graphs);
/// drop(arena);
/// # Ok(()) }
/// ```
///
/// `Send` where `M` is, and not `Sync`: the driver does not synchronise calls on one executable graph.
///
/// ```compile_fail,E0277
/// fn is_sync<T: Sync>() {}
/// is_sync::<gridpoint_graph::GraphSet<()>>();
/// ```
pub struct GraphSet<M> {
    matcher: Matcher,
    points: Vec<GridPoint>,
    /// For each point, which executable.
    executable_of: Vec<usize>,
    // Dropped in this order: the thread that makes graphs, the graphs, what they address.
    background: Option<Background>,
    executables: Vec<Executable>,
    mode: CaptureMode,
    summary: CaptureSummary,
    /// On what graphs are captured at the first need.
    stream: Stream,
    /// On what the set has launched: one stream, as a rule.
    used: Vec<Stream>,
    memory: M,
}

impl<M> GraphSet<M> {
    pub(crate) fn new(
        recorded: RecordedPlan,
        executables: Vec<Executable>,
        stream: Stream,
        memory: M,
        mode: CaptureMode,
        summary: CaptureSummary,
    ) -> Self {
        let RecordedPlan { points, executable_of, .. } = recorded;
        let mut set = Self {
            matcher: Matcher::new(&points),
            points,
            executable_of,
            background: None,
            executables,
            mode,
            summary,
            stream,
            used: Vec::new(),
            memory,
        };
        set.count();
        set
    }

    /// Starts to make the graphs on a thread of its own.
    pub(crate) fn start_background(&mut self) -> std::io::Result<()> {
        let distinct = self.executables.iter().enumerate();
        let distinct: Vec<_> =
            distinct.map(|(index, executable)| (self.first_point(index), Arc::clone(&executable.launches))).collect();
        self.background = Some(Background::start(self.stream.device(), &distinct)?);
        Ok(())
    }

    /// Graphs are made at the first step that needs them from now on.
    pub(crate) fn capture_lazily(&mut self) {
        self.mode = CaptureMode::Lazy;
    }

    /// Which point a step takes, or why none fits. Surplus decodes may take prefill slots: attention-only models need no more.
    #[must_use]
    pub fn find(&self, step: StepShape) -> Match {
        self.matcher.find(step, Matching::NonStrict)
    }

    /// The points, in the order of the plan.
    #[must_use]
    pub fn points(&self) -> &[GridPoint] {
        &self.points
    }

    /// Which of the executable graphs point `index` replays, from 0; points with equal launches share one.
    #[must_use]
    pub fn executable(&self, index: usize) -> Option<usize> {
        self.executable_of.get(index).copied()
    }

    /// What point `index` launches; none where it was recorded on a raw stream, or where there is no such point.
    #[must_use]
    pub fn launches(&self, index: usize) -> Option<&Launches> {
        match self.executables[self.executable(index)?].launches.as_ref() {
            PointLaunches::Values(launches) => Some(launches),
            PointLaunches::Captured(_) => None,
        }
    }

    /// Has the driver write the graph of point `index` to a file for Graphviz; launches that are values are captured on `stream` for it, as
    /// the driver's graph behind an executable one is not kept.
    ///
    /// # Errors
    /// [`RuntimeError::GraphNotPrinted`] naming the file, or the driver's error.
    ///
    /// # Panics
    /// If there is no such point.
    pub fn print(&self, index: usize, stream: &Stream, path: &Path) -> Result<(), RuntimeError> {
        match self.executables[self.executable_of[index]].launches.as_ref() {
            PointLaunches::Captured(launches) => launches.print(path),
            PointLaunches::Values(launches) => {
                let recording = stream.record()?;
                launches.launch(stream)?;
                recording.finish()?.print(path)
            }
        }
    }

    /// Whether point `index` has a graph now.
    #[must_use]
    pub fn is_captured(&self, index: usize) -> bool {
        self.executable(index).is_some_and(|executable| matches!(self.executables[executable].state, State::Ready(_)))
    }

    /// What the capture has come to so far.
    #[must_use]
    pub fn summary(&self) -> &CaptureSummary {
        &self.summary
    }

    /// What the launches address.
    #[must_use]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Enqueues a step of point `index` of [`GraphSet::points`] and says how: one launch of its graph, or its kernels one by one where
    /// the graph is not there yet or cannot be made. Under lazy capture a graph that is missing is made first.
    ///
    /// # Errors
    /// The device's error.
    ///
    /// # Panics
    /// If there is no such point.
    pub fn replay(&mut self, index: usize, stream: &Stream) -> Result<Launched, RuntimeError> {
        let prepared = self.prepare(index);
        self.note(stream);
        let Executable { launches, state } = &self.executables[self.executable_of[index]];
        match (state, prepared) {
            (State::Ready(graph), _) => graph.launch(stream).map(|()| Launched::Replay),
            (_, prepared) => {
                let reason = prepared.err().unwrap_or(EagerReason::NotYetCaptured);
                launches.launch(stream).map(|()| Launched::Eager(reason))
            }
        }
    }

    /// The first half of [`GraphSet::replay`]: takes what was made in the background, and makes the graph of point `index` where that is
    /// due at its first need.
    ///
    /// # Errors
    /// Why a step of the point would be launched kernel by kernel now.
    ///
    /// # Panics
    /// If there is no such point.
    pub fn prepare(&mut self, index: usize) -> Result<(), EagerReason> {
        let executable = self.executable_of[index];
        self.collect();
        if self.mode == CaptureMode::Lazy && matches!(self.executables[executable].state, State::Waiting) {
            let made = self.executables[executable].launches.make_for(self.first_point(executable), &self.stream);
            self.settle(executable, made);
        }
        match self.executables[executable].state {
            State::Ready(_) => Ok(()),
            State::Failed => Err(EagerReason::CaptureFailed),
            State::Waiting if self.mode == CaptureMode::Off => Err(EagerReason::SwitchedOff),
            State::Waiting => {
                if let Some(background) = &self.background {
                    background.prefer(executable);
                }
                Err(EagerReason::NotYetCaptured)
            }
        }
    }

    /// Enqueues the same kernels as [`GraphSet::replay`], one by one.
    ///
    /// # Errors
    /// The device's error.
    ///
    /// # Panics
    /// If there is no such point.
    pub fn launch_eagerly(&mut self, index: usize, stream: &Stream) -> Result<(), RuntimeError> {
        self.note(stream);
        self.executables[self.executable_of[index]].launches.launch(stream)
    }

    /// Makes every graph that is missing, or waits until the thread that makes them has; those that cannot be made are logged and stay
    /// eager. Without replay there is nothing to make.
    pub fn capture_rest(&mut self) {
        while let Some((executable, made)) = self.background.as_ref().and_then(Background::wait) {
            self.settle(executable, made);
        }
        self.collect();
        for executable in 0..self.executables.len() {
            if self.mode == CaptureMode::Lazy && matches!(self.executables[executable].state, State::Waiting) {
                let made = self.executables[executable].launches.make_for(self.first_point(executable), &self.stream);
                self.settle(executable, made);
            }
        }
    }

    /// Takes what the thread in the background has made.
    fn collect(&mut self) {
        while let Some(background) = &self.background {
            match background.next() {
                Some(None) => return,
                Some(Some((executable, made))) => self.settle(executable, made),
                None => {
                    self.background = None;
                    for executable in &mut self.executables {
                        if matches!(executable.state, State::Waiting) {
                            executable.state = State::Failed;
                        }
                    }
                    tracing::info!("{}", self.summary);
                }
            }
        }
    }

    /// Takes a graph, or the news that there will be none.
    fn settle(&mut self, executable: usize, made: Made) {
        let point = self.first_point(executable);
        self.executables[executable].state = match made {
            Ok((graph, times)) => {
                self.summary.times.add(&times);
                self.summary.times.total += times.total();
                tracing::info!("captured {point} in {:.0?}", times.total());
                State::Ready(graph)
            }
            Err(error) => {
                tracing::error!("{point} cannot be captured, its steps are launched kernel by kernel: {error}");
                State::Failed
            }
        };
        self.count();
    }

    /// The first point that replays an executable.
    fn first_point(&self, executable: usize) -> GridPoint {
        let first = self.executable_of.iter().position(|&own| own == executable);
        self.points[first.unwrap_or(0)]
    }

    /// Brings the summary's counts up to date.
    fn count(&mut self) {
        let ready = |executable: &&Executable| matches!(executable.state, State::Ready(_));
        self.summary.graphs = (0..self.points.len()).filter(|&index| self.is_captured(index)).count();
        self.summary.distinct = self.executables.iter().filter(ready).count();
        self.summary.nodes = self.executables.iter().filter(ready).map(|executable| executable.launches.nodes()).sum();
    }

    fn note(&mut self, stream: &Stream) {
        if !self.used.iter().any(|used| used.is(stream)) {
            self.used.push(stream.clone());
        }
    }
}

impl<M> Drop for GraphSet<M> {
    fn drop(&mut self) {
        // Replays may still read and write what is dropped next. A destructor has no caller to tell.
        for error in self.used.iter().filter_map(|stream| stream.synchronize().err()) {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RecordedPlan, StepRing};

    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}

    /// That they are no more than this, the doc test of `GraphSet` shows.
    #[test]
    fn what_may_cross_threads_does() {
        is_send::<GraphSet<()>>();
        is_send::<RecordedPlan>();
        is_sync::<RecordedPlan>();
        is_send::<StepRing>();
    }
}
