//! What one engine does with the requests: rounds that are timed, after some that are not.

use std::time::{Duration, Instant};

use gridpoint::profile::{StepSpan, Steps};
use gridpoint_engine::{Engine, FinishReason, RequestId};
use gridpoint_graph::{CaptureSummary, StepTotals};

use super::workload::Workload;
use crate::commands::{Failure, refusals};
use crate::progress::Bar;
use crate::summary::Footprint;

/// Most new tokens of a request that warms up.
const WARM_TOKENS: u32 = 8;

/// What is run on every engine.
pub(super) struct Experiment {
    pub(super) workload: Workload,
    /// Requests that run before, uncounted.
    pub(super) warm_up: usize,
    pub(super) rounds: usize,
    /// Steps of the first round that a profiler collects.
    pub(super) profile_steps: Option<StepSpan>,
}

/// All requests, from the first one's arrival to the last one's end.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Round {
    pub(super) time: Duration,
    pub(super) totals: StepTotals,
    pub(super) steps: StepTimes,
    /// What was generated, by request.
    pub(super) tokens: Vec<Vec<u32>>,
}

/// Times of steps on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StepTimes {
    pub(super) mean: Duration,
    pub(super) median: Duration,
    /// A hundredth of the steps took longer.
    pub(super) percentile_99: Duration,
}

/// What one sizing came to.
pub(super) struct Measured {
    /// The law's word.
    pub(super) sizing: String,
    /// The same where there is little room.
    pub(super) name: String,
    pub(super) capture: CaptureSummary,
    pub(super) footprint: Footprint,
    pub(super) kv_pages: u32,
    /// Most tokens of a step.
    pub(super) step_budget: u32,
    /// Points without a graph, since a budget of memory or of time does not suffice for all.
    pub(super) dropped_points: usize,
    /// At least one.
    pub(super) rounds: Vec<Round>,
}

impl StepTimes {
    /// Of times in any order, by the nearest rank; zeros without any.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let rank = |hundredths: usize| {
            let place = (times.len() * hundredths).div_ceil(100).max(1) - 1;
            times.get(place).copied().unwrap_or_default()
        };
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX).max(1);
        Self { mean: times.iter().sum::<Duration>() / count, median: rank(50), percentile_99: rank(99) }
    }
}

impl Round {
    /// Generated tokens.
    pub(super) fn generated(&self) -> u64 {
        self.tokens.iter().map(|tokens| tokens.len() as u64).sum()
    }

    /// So many in the round's time, for each second.
    pub(super) fn rate(&self, count: u64) -> f64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }

    /// What the host spends on a step.
    pub(super) fn host(&self) -> Duration {
        self.totals.host / u32::try_from(self.totals.total).unwrap_or(u32::MAX).max(1)
    }
}

impl Measured {
    /// What each round generated, by request.
    pub(super) fn tokens(&self) -> Vec<&[Vec<u32>]> {
        self.rounds.iter().map(|round| round.tokens.as_slice()).collect()
    }

    /// The round of the median time, the faster one of two in the middle: all its figures belong together.
    pub(super) fn median(&self) -> &Round {
        let mut rounds: Vec<&Round> = self.rounds.iter().collect();
        rounds.sort_by_key(|round| round.time);
        rounds[(rounds.len() - 1) / 2]
    }
}

impl Experiment {
    /// Runs the requests that do not count.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(super) fn warm_up(&self, engine: &mut Engine) -> Result<(), Failure> {
        let Workload { prompts, new_tokens, .. } = &self.workload;
        self.round(engine, self.warm_up.min(prompts.len()), WARM_TOKENS.min(*new_tokens), None, |_| {})?;
        Ok(())
    }

    /// Runs all rounds.
    ///
    /// # Errors
    /// A request that the engine does not take, logits that are no numbers, or the device's error.
    pub(super) fn run(&self, engine: &mut Engine, sizing: String, name: String) -> Result<Measured, Failure> {
        let Workload { prompts, new_tokens, .. } = &self.workload;
        self.warm_up(engine)?;
        let bar = Bar::tokens("bench", self.workload.lengths().iter().sum::<u64>() * self.rounds as u64);
        let mut rounds = Vec::new();
        for round in 0..self.rounds.max(1) {
            let span = self.profile_steps.filter(|_| round == 0);
            rounds.push(self.round(engine, prompts.len(), *new_tokens, span, |tokens| bar.add(tokens))?);
        }
        bar.finish();
        Ok(Measured {
            sizing,
            name,
            capture: *engine.capture(),
            footprint: Footprint::of(engine),
            kv_pages: engine.memory().kv_pages,
            step_budget: engine.step_budget(),
            dropped_points: engine.dropped_points().len(),
            rounds,
        })
    }

    /// Runs the first `requests` requests to their ends.
    fn round(
        &self,
        engine: &mut Engine,
        requests: usize,
        new_tokens: u32,
        span: Option<StepSpan>,
        mut observe: impl FnMut(u32),
    ) -> Result<Round, Failure> {
        let mut totals = StepTotals::default();
        let mut times = Vec::new();
        let mut steps = Steps::new(span);
        let started = Instant::now();
        let mut taken: Vec<RequestId> = Vec::with_capacity(requests);
        for request in self.workload.requests(0..requests, new_tokens) {
            let number = taken.len();
            let refused = |error| Failure::Failed(format!("request {number}: {}", refusals::request(&error)).into());
            taken.push(engine.add(request).map_err(refused)?);
        }
        while let Some(outcome) = steps.run(engine).map_err(Failure::failed)? {
            totals.add(&outcome.report);
            times.push(outcome.report.device);
            observe(outcome.report.shape.tokens);
        }
        let time = started.elapsed();
        let tokens = taken.iter().enumerate().map(|(number, &request)| match engine.take(request) {
            Some(finished) if finished.reason != FinishReason::Failed => Ok(finished.tokens),
            Some(finished) => Err(Failure::Failed(
                format!(
                    "request {number}: the model's logits after `{}` tokens are NaN: the weights or the activations are out of range",
                    finished.prompt.len() + finished.tokens.len()
                )
                .into(),
            )),
            None => Err(Failure::Failed(format!("request {number} was lost").into())),
        });
        Ok(Round { time, totals, steps: StepTimes::of(times), tokens: tokens.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(milliseconds: u64) -> Round {
        let (totals, steps) = (StepTotals::default(), StepTimes::default());
        Round { time: Duration::from_millis(milliseconds), totals, steps, tokens: vec![vec![1, 2], vec![3]] }
    }

    #[test]
    fn ranks_are_those_of_the_steps() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let expected = [100_500, 100_000, 198_000].map(Duration::from_micros);
        let StepTimes { mean, median, percentile_99 } = StepTimes::of(times);
        assert_eq!([mean, median, percentile_99], expected);
        assert_eq!(StepTimes::of(Vec::new()), StepTimes::default());
    }

    #[test]
    fn the_median_round_stands_for_all() {
        let measured = |milliseconds: &[u64]| Measured {
            sizing: String::new(),
            name: String::new(),
            capture: CaptureSummary::default(),
            footprint: Footprint::default(),
            kv_pages: 2,
            step_budget: 8,
            dropped_points: 0,
            rounds: milliseconds.iter().copied().map(round).collect(),
        };
        assert_eq!(measured(&[30, 10, 20]).median().time.as_millis(), 20);
        assert_eq!(measured(&[40, 10, 20, 30]).median().time.as_millis(), 20);
        let only = measured(&[500]);
        assert_eq!((only.median().generated(), only.median().rate(3)), (3, 6.0));
        assert_eq!(round(0).rate(3), 0.0);
    }
}
