//! Every point against eager launches.

use std::collections::HashSet;
use std::time::Instant;

use gridpoint_plan::GridPoint;
use gridpoint_runtime::{Launches, Stream};

use super::case::{Bounds, Cases};
use super::difference::{self, Difference};
use super::random::Random;
use super::report::{Comparison, Mismatch, VerifyFailure, VerifyProgress, VerifyReport};
use super::step::RealStep;
use super::tensor::{Bits, Element, Tensor};
use super::{Captured, Case, Padding, Subject};
use crate::{StepError, StepRing, Ticket};

/// What the host's slot holds before a step whose padding is the subject's.
const UNTOUCHED: &[u64] = &[];

/// Of the cases of a graph, so many run under every padding and beside the point's launches recorded now, wrong or not.
const THOROUGH: usize = 2;

/// How much is to be proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Replays of random points in chains, at the end.
    pub soak: u64,
    /// Of tokens, pages, sampling parameters and chains.
    pub seed: u64,
    /// Most real tokens of a step; `None` is as many as the point has.
    pub most_tokens: Option<u32>,
    /// Most bytes of the cache that steps use: a subject copies and compares all of them after every step.
    pub cache_bytes: u64,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { soak: 0, seed: 1, most_tokens: None, cache_bytes: 256 << 20 }
    }
}

/// Replays every graph of `graphs` with real steps and compares what each leaves with eager launches, bit for bit; `observe` sees each
/// point. Steps are packed in `ring`, whose block the subject's launches read, and run on `stream`, which nothing else may use meanwhile.
///
/// A mismatch ends nothing: all are counted, the first is kept.
///
/// # Errors
/// The subject's error: the device fails, as it does where a graph addresses memory that is gone.
pub fn verify<G: Captured, S: Subject>(
    graphs: &mut G,
    subject: &mut S,
    ring: &mut StepRing,
    stream: &Stream,
    options: &VerifyOptions,
    mut observe: impl FnMut(&VerifyProgress),
) -> Result<VerifyReport, VerifyFailure<S::Error>> {
    let started = Instant::now();
    let bounds = Bounds { room: subject.room(), most_tokens: options.most_tokens.unwrap_or(u32::MAX).max(1) };
    let report = VerifyReport { graphs: graphs.points().len(), ..VerifyReport::default() };
    let doing = String::new();
    let mut proof = Proof { graphs, subject, ring, stream, bounds, options, report, doing };
    let outcome = proof.points(&mut observe).and_then(|()| proof.soak(&mut observe));
    let Proof { mut report, doing, .. } = proof;
    report.time = started.elapsed();
    match outcome {
        Ok(()) => Ok(report),
        Err(source) => Err(VerifyFailure { doing, report: Box::new(report), source }),
    }
}

/// A proof that is under way.
pub(super) struct Proof<'a, G, S> {
    pub(super) graphs: &'a mut G,
    pub(super) subject: &'a mut S,
    pub(super) ring: &'a mut StepRing,
    stream: &'a Stream,
    pub(super) bounds: Bounds,
    pub(super) options: &'a VerifyOptions,
    pub(super) report: VerifyReport,
    /// What is going on, for an error.
    pub(super) doing: String,
}

/// How a step is launched.
#[derive(Clone, Copy)]
pub(super) enum Launch<'a> {
    /// One launch of a point's graph.
    Replay(usize),
    /// Kernels one by one.
    Eager(&'a Launches),
}

/// Where a step is written, and what lies there before.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) point: GridPoint,
    /// Pages of a row of the page table.
    pub(super) columns: u32,
    /// Words that the host's slot is filled with, over and over.
    pub(super) filling: &'a [u64],
}

/// A point under proof.
struct Place<'a> {
    point: GridPoint,
    /// Pages of a row of the page table.
    columns: u32,
    /// Its launches, recorded now.
    fresh: &'a Launches,
    /// A step that leaves other requests' data.
    filler: &'a RealStep,
}

impl<'a> Block<'a> {
    /// The block of `point` for a step alone, in a slot that is as it is.
    pub(super) fn of(point: GridPoint, step: &RealStep) -> Self {
        Self { point, columns: step.columns(), filling: UNTOUCHED }
    }
}

impl<G: Captured, S: Subject> Proof<'_, G, S> {
    fn points(&mut self, observe: &mut impl FnMut(&VerifyProgress)) -> Result<(), S::Error> {
        let total = self.graphs.points().len();
        let mut known: HashSet<Launches> = HashSet::new();
        for index in 0..total {
            let point = self.graphs.points()[index];
            self.doing = format!("the launches of graph {point} were recorded");
            let fresh = self.subject.record(point)?;
            let captured = self.graphs.launches(index);
            if let Some(difference) = captured.and_then(|captured| difference::of_launches(captured, &fresh)) {
                self.report.add(Mismatch::of_launches(point, difference));
            }
            // A graph whose launches are not known by value counts as one of its own.
            let first = captured.is_none_or(|captured| known.insert(captured.clone()));
            self.report.distinct += usize::from(first);
            let Cases { cases, reduced } = match first {
                true => self.bounds.all(point),
                false => {
                    let full = self.bounds.full(point);
                    let reduced = full.is_none_or(|(_, reduced)| reduced);
                    Cases { cases: full.into_iter().map(|(case, _)| case).collect(), reduced }
                }
            };
            self.report.reduced += usize::from(reduced);
            for (number, case) in cases.iter().enumerate() {
                self.case((index, &fresh), case, number as u64, first && number < THOROUGH)?;
            }
            observe(&self.progress(index as u64 + 1, point));
        }
        Ok(())
    }

    pub(super) fn progress(&self, done: u64, point: GridPoint) -> VerifyProgress {
        let total = self.graphs.points().len() as u64 + self.options.soak;
        let VerifyReport { replays, mismatches, .. } = self.report;
        VerifyProgress { done, total, point, replays, mismatches }
    }

    /// One point with one real step: the exact shape, the point's launches recorded now, and replays under every padding.
    fn case(
        &mut self,
        (index, fresh): (usize, &Launches),
        case: &Case,
        number: u64,
        thorough: bool,
    ) -> Result<(), S::Error> {
        let point = self.graphs.points()[index];
        let seed = |part: u64| Random::of(self.options.seed, &[index as u64, number, part]);
        let (room, mut random) = (self.bounds.room, seed(0));
        let step = RealStep::new(case, &room, &mut random);
        let full = self.bounds.full(point).map_or(*case, |(full, _)| full);
        let filler = RealStep::new(&full, &room, &mut seed(1));
        let columns = step.columns().max(filler.columns());
        self.report.shapes += 1;

        let what = format!("graph {point} with the step {} ({} contexts)", case.shape, case.context);
        self.doing = format!("{what} was launched eagerly in its exact shape");
        let own = step.own_point();
        let exact = self.subject.record(own)?;
        let expected = self.run(Launch::Eager(&exact), &Block::of(own, &step), &step, Padding::Zeros)?;

        let paddings: &[Padding] = match thorough {
            true => &[Padding::OtherRequests, Padding::Zeros, Padding::Poison],
            false => &[Padding::OtherRequests, Padding::Poison],
        };
        let place = Place { point, columns, fresh, filler: &filler };
        let mut replays = Vec::new();
        for &padding in paddings {
            self.doing = format!("{what} was replayed, {padding} in the padding");
            let found = self.padded(Launch::Replay(index), &place, &step, padding)?;
            self.report.replays += 1;
            replays.push((padding, difference::of_tensors(&found, &expected)));
        }
        let wrong = replays.iter().find(|(_, difference)| difference.is_some()).map(|&(padding, _)| padding);
        // Of the same padding as the first replay that is wrong, to tell what is.
        let fresh = if thorough || wrong.is_some() {
            let padding = wrong.unwrap_or(Padding::Poison);
            self.doing = format!("{what} was launched eagerly, {padding} in the padding");
            let found = self.padded(Launch::Eager(fresh), &place, &step, padding)?;
            difference::of_tensors(&found, &expected).map(|difference| (padding, difference))
        } else {
            None
        };
        self.judge(point, case, replays, fresh);
        Ok(())
    }

    /// Counts what is wrong and says of what kind it is: `replays` are the differences from the exact shape, `fresh` is that of the
    /// point's launches recorded now, under the padding of the first replay that is wrong.
    fn judge(
        &mut self,
        point: GridPoint,
        case: &Case,
        replays: Vec<(Padding, Option<Difference>)>,
        fresh: Option<(Padding, Difference)>,
    ) {
        let alike = replays.iter().all(|(_, difference)| *difference == replays[0].1);
        let comparison = match &fresh {
            None => Comparison::Fresh,
            Some(_) if alike => Comparison::Exact,
            Some(_) => Comparison::Padding,
        };
        let mut wrong = false;
        for (padding, difference) in replays {
            if let Some(difference) = difference {
                wrong = true;
                self.report.add(Mismatch::of_step(point, case, padding, comparison, difference));
            }
        }
        // The replays are right, and other than the point's launches recorded now.
        if let Some((padding, fresh)) = fresh.filter(|_| !wrong) {
            let difference = Difference { found: fresh.expected, expected: fresh.found, ..fresh };
            self.report.add(Mismatch::of_step(point, case, padding, Comparison::Fresh, difference));
        }
    }

    /// Runs a step in the block of a point, with a padding in all that it does not write.
    fn padded(
        &mut self,
        launch: Launch<'_>,
        place: &Place<'_>,
        step: &RealStep,
        padding: Padding,
    ) -> Result<Vec<Tensor>, S::Error> {
        let filling = self.filling(padding, place)?;
        let block = Block { point: place.point, columns: place.columns, filling: &filling };
        self.run(launch, &block, step, padding)
    }

    /// Fills the device's step block, and gives what the host's slot is to be filled with; for other requests' data their step runs.
    fn filling(&mut self, padding: Padding, place: &Place<'_>) -> Result<Vec<u64>, S::Error> {
        if let Some(byte) = padding.byte() {
            self.ring.fill_block(byte)?;
            return Ok(vec![u64::from_ne_bytes([byte; 8])]);
        }
        let &Place { point, columns, fresh, filler } = place;
        self.prepare(padding, filler)?;
        let block = Block { point, columns, filling: UNTOUCHED };
        let mut words = Vec::new();
        let ticket = self.submit(Launch::Eager(fresh), &block, filler, |written| words.extend_from_slice(written))?;
        self.ring.wait(&ticket)?;
        Ok(words)
    }

    /// Makes the memory ready. A step that was enqueued and not waited for, since a call failed, may still use it.
    pub(super) fn prepare(&mut self, padding: Padding, step: &RealStep) -> Result<(), S::Error> {
        self.stream.synchronize()?;
        self.subject.prepare(padding, step)
    }

    /// Runs a step; everything that it leaves.
    fn run(
        &mut self,
        launch: Launch<'_>,
        block: &Block<'_>,
        step: &RealStep,
        padding: Padding,
    ) -> Result<Vec<Tensor>, S::Error> {
        self.prepare(padding, step)?;
        let ticket = self.submit(launch, block, step, |_| ())?;
        let mut tensors = self.results(&ticket)?;
        tensors.extend(self.subject.collect(step.logit_rows())?);
        Ok(tensors)
    }

    /// Enqueues a step; `see` gets its block as it was written.
    pub(super) fn submit(
        &mut self,
        launch: Launch<'_>,
        block: &Block<'_>,
        step: &RealStep,
        see: impl FnOnce(&[u64]),
    ) -> Result<Ticket, S::Error> {
        let layout = step.layout(block.point, block.columns, &self.bounds.room)?;
        let packed = self.ring.pack(layout, |writer| {
            writer.fill(block.filling);
            step.write(writer)?;
            see(writer.words());
            Ok::<(), StepError>(())
        })?;
        let Self { graphs, ring, stream, .. } = self;
        Ok(ring.submit(packed, stream, |stream| match launch {
            Launch::Replay(index) => graphs.replay(index, stream),
            Launch::Eager(launches) => launches.launch(stream),
        })?)
    }

    /// Waits for a step: tokens and log-probabilities.
    pub(super) fn results(&mut self, ticket: &Ticket) -> Result<Vec<Tensor>, S::Error> {
        let results = self.ring.wait(ticket)?;
        let tensor = |name, element, bits: Vec<u32>| {
            let shape = vec![bits.len() as u64];
            Tensor { name, axes: &["row"], shape, element, bits: Bits::All(bits) }
        };
        let tokens = results.iter().map(|result| result.token as u32).collect();
        let log_probabilities = results.iter().map(|result| result.log_probability.to_bits()).collect();
        Ok(vec![
            tensor("token", Element::Signed, tokens),
            tensor("log_probability", Element::Float32, log_probabilities),
        ])
    }
}
