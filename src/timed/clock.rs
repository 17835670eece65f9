//! Samples of device time, taken with events.

use std::sync::Arc;

use gridpoint_runtime::{Device, Event, RuntimeError, Stream};

/// Samples that are enqueued before the first is waited for: enough that the host is ahead of the device, few enough for its queue.
const BATCH: usize = 32;

/// The middle of samples in microseconds, and the values that a tenth of them lies below and above.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantiles {
    /// A tenth lies at or below.
    pub low: f64,
    /// Half lies at or below.
    pub median: f64,
    /// A tenth lies above.
    pub high: f64,
}

impl Quantiles {
    /// Of samples in any order, by the nearest rank; zeros without any.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_unstable_by(f64::total_cmp);
        let rank = |tenths: usize| {
            let place = (samples.len() * tenths).div_ceil(10).max(1) - 1;
            samples.get(place).copied().unwrap_or(0.0)
        };
        Self { low: rank(1), median: rank(5), high: rank(9) }
    }

    /// Every value times `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { low: self.low * factor, median: self.median * factor, high: self.high * factor }
    }
}

/// A stream and pairs of events around what is timed on it.
pub(crate) struct Clock {
    pub(crate) stream: Stream,
    events: Vec<(Event, Event)>,
}

/// Enqueues something.
pub(crate) type Enqueue<'a> = &'a dyn Fn(&Stream) -> Result<(), RuntimeError>;

impl Clock {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self, RuntimeError> {
        let pair = |_| Ok((Event::new(device, true)?, Event::new(device, true)?));
        Ok(Self { stream: Stream::new(device)?, events: (0..BATCH).map(pair).collect::<Result<_, RuntimeError>>()? })
    }

    /// Microseconds of each of `repeats` runs of `timed`, which is told its number. `before` runs in front of each, outside the
    /// interval; `lead` in front of each batch, so that the host is ahead when the first interval begins.
    pub(crate) fn samples(
        &mut self,
        repeats: u32,
        lead: Enqueue<'_>,
        before: Option<Enqueue<'_>>,
        mut timed: impl FnMut(&Stream, usize) -> Result<(), RuntimeError>,
    ) -> Result<Vec<f64>, RuntimeError> {
        let mut samples = Vec::with_capacity(repeats as usize);
        while samples.len() < repeats as usize {
            let count = (repeats as usize - samples.len()).min(BATCH);
            if before.is_none() {
                lead(&self.stream)?;
            }
            for (index, (start, end)) in self.events.iter_mut().take(count).enumerate() {
                before.map_or(Ok(()), |before| before(&self.stream))?;
                start.record(&self.stream)?;
                timed(&self.stream, samples.len() + index)?;
                end.record(&self.stream)?;
            }
            self.stream.synchronize()?;
            for (start, end) in self.events.iter().take(count) {
                samples.push(end.since(start)?.as_secs_f64() * 1e6);
            }
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_ranks_of_the_samples() {
        let samples = (1..=200).rev().map(f64::from).collect();
        assert_eq!(Quantiles::of(samples), Quantiles { low: 20.0, median: 100.0, high: 180.0 });
        assert_eq!(Quantiles::of(vec![3.0]), Quantiles { low: 3.0, median: 3.0, high: 3.0 });
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
    }
}
