//! Steps of a run, of which a profiler collects some.

use std::fmt;
use std::str::FromStr;

use gridpoint_engine::{Engine, EngineError, StepOutcome};
use gridpoint_runtime::Collection;

/// Steps from one to another, both included; the first step of a run is 1. It is written `A:B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSpan {
    first: u64,
    last: u64,
}

/// A word that is no span of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be the first and the last step to record, such as `10:20`, counted from 1")]
pub struct ParseStepSpanError;

impl FromStr for StepSpan {
    type Err = ParseStepSpanError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| digits.parse::<u64>().map_err(|_| ParseStepSpanError);
        let (first, last) = word.split_once(':').ok_or(ParseStepSpanError)?;
        let (first, last) = (number(first)?, number(last)?);
        if first == 0 || last < first { Err(ParseStepSpanError) } else { Ok(Self { first, last }) }
    }
}

impl fmt::Display for StepSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.first, self.last)
    }
}

/// Runs an engine's steps and lets a profiler that waits for it collect those of a span.
#[derive(Debug)]
pub struct Steps {
    span: Option<StepSpan>,
    done: u64,
    collection: Option<Collection>,
}

impl Steps {
    /// No step has run; without a span nothing is said to a profiler.
    #[must_use]
    pub fn new(span: Option<StepSpan>) -> Self {
        Self { span, done: 0, collection: None }
    }

    /// Runs the next step; `None` exactly if the engine has none. A span that no step was in is logged then.
    ///
    /// # Errors
    /// The device's error, of the step or of the call to the profiler. The collection has ended then.
    pub fn run<'engine>(&mut self, engine: &'engine mut Engine) -> Result<Option<StepOutcome<'engine>>, EngineError> {
        let stepped = self.run_within_span(engine);
        if !matches!(stepped, Ok(Some(_))) {
            self.collection = None;
        }
        if let (Ok(None), Some(span)) = (&stepped, self.span.filter(|span| self.done < span.first)) {
            tracing::warn!("no step is recorded: steps {span} were asked for, and the run had {}", self.done);
        }
        stepped
    }

    fn run_within_span<'engine>(
        &mut self,
        engine: &'engine mut Engine,
    ) -> Result<Option<StepOutcome<'engine>>, EngineError> {
        if self.span.is_some_and(|span| span.first == self.done + 1) && self.collection.is_none() {
            self.collection = Some(Collection::start()?);
        }
        let Some(outcome) = engine.step()? else { return Ok(None) };
        self.done += 1;
        if self.span.is_some_and(|span| span.last == self.done)
            && let Some(collection) = self.collection.take()
        {
            collection.stop()?;
        }
        Ok(Some(outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_two_steps_in_order() {
        for word in ["1:1", "10:20"] {
            assert_eq!(word.parse::<StepSpan>().map(|span| span.to_string()), Ok(word.to_owned()));
        }
        for word in ["", "5", "0:3", "4:3", "a:3", "3:", ":3", "-1:3", "1:2:3"] {
            assert_eq!(word.parse::<StepSpan>(), Err(ParseStepSpanError), "{word}");
        }
    }
}
