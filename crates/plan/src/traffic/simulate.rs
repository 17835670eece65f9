//! Continuous batching with chunked prefill over a trace: which steps an engine would run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use thiserror::Error;

use super::cost::CostCurve;
use super::histogram::{HistogramError, StepHistogram};
use super::trace::{Request, Trace};
use crate::point::StepShape;

const PICOSECONDS: f64 = 1e12;
/// Arrivals later than this are taken as this: sums of times stay within 128 bits.
const LATEST: u128 = 1 << 120;

/// How fast requests arrive. The pattern of arrivals is the trace's, with its bursts; only the axis of time is scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ArrivalRate {
    /// The mean rate, as a fraction of the rate at which the trace saturates ([`Simulation::saturated_rate`]).
    Load(f64),
    /// So many times the trace's own.
    Factor(f64),
}

/// The engine that is simulated, and its traffic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimulationOptions {
    /// R: request slots, which running requests and the one in prefill take.
    pub max_requests: u32,
    /// B: tokens of one step.
    pub max_tokens: u32,
    /// Tokens that the KV cache holds.
    pub kv_tokens: u64,
    /// Tokens of one request, prompt and output together. Longer requests are left out.
    pub max_sequence_length: u32,
    /// How fast requests arrive.
    pub arrivals: ArrivalRate,
}

/// Why a trace cannot be simulated.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// No slots.
    #[error("max_requests is `0`; it must be at least 1")]
    NoRequests,
    /// Steps in which not every request can decode.
    #[error(
        "max_tokens is `{max_tokens}`; it must be at least max_requests, {max_requests}, so that every request decodes"
    )]
    FewTokens {
        /// [`SimulationOptions::max_tokens`].
        max_tokens: u32,
        /// [`SimulationOptions::max_requests`].
        max_requests: u32,
    },
    /// A rate of arrivals that is none.
    #[error("the {what} is `{value}`; it must be a number above 0 and at most 1000000")]
    Rate {
        /// `load` or `rate factor`.
        what: &'static str,
        /// The number.
        value: f64,
    },
    /// A load relative to arrivals that have no rate.
    #[error("the trace's requests all arrive at once, so that a load of `{load}` means nothing; give a rate factor")]
    NoSpan {
        /// The load asked for.
        load: f64,
    },
    /// No request fits the engine.
    #[error(
        "each of the trace's `{requests}` requests is longer than a sequence of {max_sequence_length} tokens or than the KV \
         cache of {kv_tokens}; at least one must fit"
    )]
    NothingFits {
        /// Requests of the trace.
        requests: usize,
        /// [`SimulationOptions::max_sequence_length`].
        max_sequence_length: u32,
        /// [`SimulationOptions::kv_tokens`].
        kv_tokens: u64,
    },
}

/// Equal steps, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepRun {
    /// The step.
    pub step: StepShape,
    /// How many of it there are, at least 1.
    pub count: u64,
}

/// The steps of a simulation, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulation {
    runs: Vec<StepRun>,
    steps: u64,
    requests: usize,
    saturated_rate: f64,
    rate_factor: f64,
}

/// Runs the trace through an engine, first come, first served.
///
/// Every request that runs decodes one token in every step. What is left of the step's tokens goes to prompts: first to the
/// one that is partly done, of which there is at most one, then to waiting requests in the order of arrival, as long as a
/// slot is free and the KV cache has room for the request's prompt and output together; the last one takes what is left as a
/// first chunk. The step that finishes a prompt yields the first output token, so that a request with o output tokens takes
/// part in o - 1 decodes. A step takes the time that `cost` says for its tokens, without padding.
///
/// Requests longer than `max_sequence_length`, or than the whole KV cache, are left out. Time and memory are those of the
/// requests, not of the steps.
///
/// # Errors
/// An engine that cannot run any request, and a rate of arrivals that is none.
pub fn simulate(trace: &Trace, options: &SimulationOptions, cost: &CostCurve) -> Result<Simulation, SimulationError> {
    let &SimulationOptions { max_requests, max_tokens, kv_tokens, max_sequence_length, arrivals } = options;
    if max_requests == 0 {
        return Err(SimulationError::NoRequests);
    }
    if max_tokens < max_requests {
        return Err(SimulationError::FewTokens { max_tokens, max_requests });
    }
    let fits = |request: &&Request| request.tokens() <= u64::from(max_sequence_length).min(kv_tokens);
    let requests: Vec<Request> = trace.requests().iter().filter(fits).copied().collect();
    let (Some(first), Some(last)) = (requests.first(), requests.last()) else {
        let requests = trace.requests().len();
        return Err(SimulationError::NothingFits { requests, max_sequence_length, kv_tokens });
    };
    let saturated_rate = saturated_rate(&requests, options, cost);
    let checked = |what, value: f64| {
        let valid = value > 0.0 && value <= 1e6;
        if valid { Ok(value) } else { Err(SimulationError::Rate { what, value }) }
    };
    let rate_factor = match arrivals {
        ArrivalRate::Factor(factor) => checked("rate factor", factor)?,
        ArrivalRate::Load(load) => {
            let load = checked("load", load)?;
            let span = last.arrival_seconds - first.arrival_seconds;
            if span <= 0.0 {
                return Err(SimulationError::NoSpan { load });
            }
            load * saturated_rate * span / requests.len() as f64
        }
    };
    let arrival = |request: &Request| ((request.arrival_seconds / rate_factor * PICOSECONDS) as u128).min(LATEST);
    let mut engine = Engine::new(options, cost);
    engine.run(&requests, arrival);
    let steps = engine.steps_at_last_admission;
    Ok(Simulation { runs: engine.runs, steps, requests: requests.len(), saturated_rate, rate_factor })
}

/// Requests per second until the last one is admitted when all are waiting from the start; until the last one ends, where
/// all are admitted at once.
fn saturated_rate(requests: &[Request], options: &SimulationOptions, cost: &CostCurve) -> f64 {
    let mut engine = Engine::new(options, cost);
    engine.run(requests, |_| 0);
    let time = if engine.last_admission > 0 { engine.last_admission } else { engine.now };
    requests.len() as f64 / (time as f64 / PICOSECONDS)
}

impl Simulation {
    /// The steps up to that in which the last request is admitted: those after it, in which the engine runs empty, are no
    /// part of the traffic.
    pub fn runs(&self) -> impl Iterator<Item = StepRun> {
        let mut left = self.steps;
        self.runs.iter().map_while(move |run| {
            let count = run.count.min(left);
            left -= count;
            (count > 0).then_some(StepRun { count, ..*run })
        })
    }

    /// All steps, until the last request ends.
    #[must_use]
    pub fn drained_runs(&self) -> &[StepRun] {
        &self.runs
    }

    /// The number of steps in [`Simulation::runs`].
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The number of requests, without those left out.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// The rate at which the trace saturates this engine, in requests per second: requests over the time until the last one
    /// is admitted, all of them waiting from the start.
    #[must_use]
    pub fn saturated_rate(&self) -> f64 {
        self.saturated_rate
    }

    /// How many times faster than in the trace requests arrived.
    #[must_use]
    pub fn rate_factor(&self) -> f64 {
        self.rate_factor
    }

    /// The steps counted.
    ///
    /// # Errors
    /// More than 2^62 steps.
    pub fn histogram(&self) -> Result<StepHistogram, HistogramError> {
        count(self.runs())
    }

    /// The first half of the steps and the second, which is the longer one if their number is odd: fits see the first and
    /// are judged by the second.
    ///
    /// # Errors
    /// More than 2^62 steps in a half.
    pub fn halves(&self) -> Result<(StepHistogram, StepHistogram), HistogramError> {
        let mut first = self.steps / 2;
        let (mut early, mut late) = (Vec::new(), Vec::new());
        for run in self.runs() {
            let before = run.count.min(first);
            first -= before;
            early.extend((before > 0).then_some(StepRun { count: before, ..run }));
            late.extend((run.count > before).then_some(StepRun { count: run.count - before, ..run }));
        }
        Ok((count(early)?, count(late)?))
    }
}

fn count(runs: impl IntoIterator<Item = StepRun>) -> Result<StepHistogram, HistogramError> {
    let mut histogram = StepHistogram::default();
    for run in runs {
        histogram.add(run.step, run.count)?;
    }
    Ok(histogram)
}

/// A request whose prompt is done or in progress.
#[derive(Debug, Clone, Copy)]
struct Admitted {
    output_tokens: u32,
    reserved: u64,
}

struct Engine<'a> {
    options: &'a SimulationOptions,
    cost: &'a CostCurve,
    runs: Vec<StepRun>,
    /// Steps so far.
    clock: u64,
    /// Picoseconds so far.
    now: u128,
    /// The step after whose end each running request is gone, soonest first, and what it reserves.
    running: BinaryHeap<Reverse<(u64, u64)>>,
    /// The request whose prompt is partly done, and the prompt tokens that are left.
    partial: Option<(u32, Admitted)>,
    /// KV tokens reserved.
    reserved: u64,
    /// When the last request was admitted, and the number of steps including that one.
    last_admission: u128,
    steps_at_last_admission: u64,
}

impl<'a> Engine<'a> {
    fn new(options: &'a SimulationOptions, cost: &'a CostCurve) -> Self {
        Self {
            options,
            cost,
            runs: Vec::new(),
            clock: 0,
            now: 0,
            running: BinaryHeap::new(),
            partial: None,
            reserved: 0,
            last_admission: 0,
            steps_at_last_admission: 0,
        }
    }

    /// From one event to the next: between an arrival, an admission, the end of a prompt and the end of a request all steps
    /// are equal.
    fn run(&mut self, requests: &[Request], arrival: impl Fn(&Request) -> u128) {
        let mut waiting = requests;
        let mut done: Vec<Admitted> = Vec::new();
        loop {
            let decodes = self.running.len() as u32;
            let budget = self.options.max_tokens - decodes;
            let (mut left, mut prefills) = (budget, 0);
            let mut chunk = |tokens: u32, left: &mut u32| {
                let chunk = tokens.min(*left);
                *left -= chunk;
                prefills += 1;
                tokens - chunk
            };
            // A free slot always leaves a partial prompt at least one token: max_tokens >= max_requests.
            if let Some((tokens, request)) = self.partial.take() {
                match chunk(tokens, &mut left) {
                    0 => done.push(request),
                    rest => self.partial = Some((rest, request)),
                }
            }
            let mut admitted = false;
            while let Some((next, rest)) = waiting.split_first()
                && left > 0
                && self.partial.is_none()
                && arrival(next) <= self.now
                && self.running.len() + done.len() < self.options.max_requests as usize
                && next.tokens() <= self.options.kv_tokens - self.reserved
            {
                waiting = rest;
                admitted = true;
                self.reserved += next.tokens();
                let request = Admitted { output_tokens: next.output_tokens, reserved: next.tokens() };
                match chunk(next.input_tokens, &mut left) {
                    0 => done.push(request),
                    rest => self.partial = Some((rest, request)),
                }
                if waiting.is_empty() {
                    (self.last_admission, self.steps_at_last_admission) = (self.now, self.clock + 1);
                }
            }
            let tokens = decodes + (budget - left);
            if tokens == 0 {
                let Some(next) = waiting.first() else { return };
                self.now = self.now.max(arrival(next));
                continue;
            }

            let cost = u128::from(self.cost.picoseconds(tokens.into()));
            let next_arrival = waiting.first().map(&arrival).filter(|&arrival| arrival > self.now);
            let until_end = self.running.peek().map_or(u64::MAX, |Reverse((end, _))| end - self.clock);
            let count = match self.partial {
                // Only this prompt's chunks, each of the same size: there is room for no other.
                Some((rest, _)) if !admitted => until_end.min(1 + u64::from((rest - 1) / budget)),
                None if prefills == 0 => {
                    let until_arrival = next_arrival.map_or(u128::MAX, |arrival| (arrival - self.now).div_ceil(cost));
                    until_end.min(u64::try_from(until_arrival).unwrap_or(u64::MAX))
                }
                _ => 1,
            };
            if let Some((rest, _)) = &mut self.partial {
                // The chunks after the first.
                *rest -= (count - 1) as u32 * budget;
            }
            self.record(StepShape { tokens, prefills, decodes }, count);
            self.now += u128::from(count) * cost;
            self.release(&mut done);
        }
    }

    fn record(&mut self, step: StepShape, count: u64) {
        self.clock += count;
        match self.runs.last_mut() {
            Some(last) if last.step == step => last.count += count,
            _ => self.runs.push(StepRun { step, count }),
        }
    }

    /// Lets go of the requests that have ended, and lets those run whose prompts are done.
    fn release(&mut self, done: &mut Vec<Admitted>) {
        while let Some(&Reverse((end, reserved))) = self.running.peek()
            && end <= self.clock
        {
            self.running.pop();
            self.reserved -= reserved;
        }
        for Admitted { output_tokens, reserved } in done.drain(..) {
            if output_tokens > 1 {
                self.running.push(Reverse((self.clock + u64::from(output_tokens) - 1, reserved)));
            } else {
                self.reserved -= reserved;
            }
        }
    }
}
