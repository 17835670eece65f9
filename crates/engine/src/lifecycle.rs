//! Memory given back and taken again, and weights replaced, under graphs that stay valid: what a trainer in the same process needs.
//!
//! ```text
//! ready --sleep--> asleep --wake--> ready, or weights missing --update_weights--> ready
//! ready --update_weights--> ready
//! ```
//!
//! All memory that graphs address keeps its addresses: nothing is captured again, and tensor maps stay right.

use std::fmt;

use gridpoint_model::{NewWeights, UpdateBytes};

use crate::engine::Engine;
use crate::error::{EngineError, NotReady};

/// Device memory that an engine can give back. The workspace, the step block, the kernels and the driver's memory for graphs stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    /// The kv cache.
    KvCache,
    /// The weights and the rotary table.
    Weights,
    /// Both.
    Both,
}

impl Memory {
    fn includes(self, part: Self) -> bool {
        self == part || self == Self::Both
    }

    /// Those of the two that are released.
    fn of(kv_cache: bool, weights: bool) -> Option<Self> {
        match (kv_cache, weights) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::KvCache),
            (false, true) => Some(Self::Weights),
            (false, false) => None,
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::KvCache => "the kv cache",
            Self::Weights => "the weights",
            Self::Both => "the kv cache and the weights",
        })
    }
}

/// What becomes of requests that run when the weights change: their keys and values were computed by the old ones. Requests in line have
/// none, and are not concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InFlight {
    /// The update is refused, with their number, as long as there are any.
    #[default]
    Refuse,
    /// They go back to the front of the line, and prompt and generated tokens are computed again as a prompt, by the new weights. The
    /// tokens and log-probabilities that they have stay those of the old ones, except for log-probabilities of a prompt that was not whole
    /// yet.
    Recompute,
    /// They go on with the keys and values of the old weights and the new weights: neither model alone gives such tokens. Trainers that
    /// correct for it, by the log-probabilities of each token, save the time.
    KeepStale,
}

/// What a sleep came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SleepReport {
    /// Bytes of device memory that were given back.
    pub released: u64,
    /// Running requests that went back to the front of the line.
    pub requeued: usize,
}

/// What an update came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateReport {
    /// Bytes that were moved.
    pub bytes: UpdateBytes,
    /// Running requests that went back to the front of the line.
    pub requeued: usize,
}

/// What the memory of the weights holds while it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Contents {
    /// The weights of one model.
    #[default]
    Whole,
    /// Nothing: it was released since the last update.
    Lost,
    /// Weights of two models: an update failed in the middle.
    Mixed,
}

/// Where an engine stands between sleep, wake and update.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lifecycle {
    contents: Contents,
    rotary_lost: bool,
}

impl Engine {
    /// Whether the next step may run.
    ///
    /// # Errors
    /// Why not, and what to call.
    pub fn ready(&self) -> Result<(), NotReady> {
        if let Some(memory) = self.asleep() {
            return Err(NotReady::Asleep { memory });
        }
        match self.lifecycle.contents {
            Contents::Whole => Ok(()),
            Contents::Lost => Err(NotReady::WeightsLost),
            Contents::Mixed => Err(NotReady::WeightsMixed),
        }
    }

    /// The memory that is given back now.
    #[must_use]
    pub fn asleep(&self) -> Option<Memory> {
        let model = self.runner.model();
        Memory::of(model.cache_memory().is_released(), model.weights_memory().is_released())
    }

    /// Gives device memory back; what is given back already stays so. Waits for the device first. Until [`Engine::wake`], and after the
    /// weights were given back until [`Engine::update_weights`], steps are refused; requests may come and go.
    ///
    /// With the kv cache go the keys and values of running requests. No request is lost by it: they go back to the front of the line in
    /// order of arrival, with their tokens and log-probabilities, and compute prompt and generated tokens as one prompt when they run again.
    /// The tokens that follow are those of an engine that never slept.
    ///
    /// # Errors
    /// [`gridpoint_runtime::RuntimeError::NotReleasable`] on a device without virtual memory management, with nothing changed; or the
    /// driver's error: [`Engine::asleep`] says how far it came, and sleep or wake may be called again.
    pub fn sleep(&mut self, memory: Memory) -> Result<SleepReport, EngineError> {
        // The device can not be waited for while one of its streams captures: graphs that are still to come are made first.
        self.runner.capture_rest();
        let mut report = SleepReport::default();
        let model = self.runner.model();
        if memory.includes(Memory::KvCache) && !model.cache_memory().is_released() {
            let cache = model.cache_memory();
            let released = cache.release();
            // What could not be unmapped for certain cannot be relied on either.
            if cache.is_released() {
                report.released += cache.bytes();
                report.requeued = self.scheduler.forget_cache();
            }
            released?;
        }
        if memory.includes(Memory::Weights) && !model.weights_memory().is_released() {
            let weights = model.weights_memory();
            let released = weights.release();
            if weights.is_released() {
                report.released += weights.bytes();
                self.lifecycle = Lifecycle { contents: Contents::Lost, rotary_lost: true };
            }
            released?;
        }
        tracing::info!(
            "asleep: {} bytes of {memory} released, {} running requests back in line",
            report.released,
            report.requeued
        );
        Ok(report)
    }

    /// Takes device memory again, at the same addresses, and says how many bytes; what is there already stays. A trainer that needs the
    /// room until its weights are copied takes [`Memory::Weights`] first, updates, frees its own, and takes [`Memory::KvCache`] then.
    ///
    /// # Errors
    /// [`gridpoint_runtime::RuntimeError::OutOfMemory`], or the driver's error; weights are taken before the kv cache, and what was
    /// taken stays. [`Engine::asleep`] says what is missing, and wake may be called again.
    pub fn wake(&mut self, memory: Memory) -> Result<u64, EngineError> {
        let model = self.runner.model();
        let mut restored = 0;
        for (part, arena) in [(Memory::Weights, model.weights_memory()), (Memory::KvCache, model.cache_memory())] {
            if memory.includes(part) && arena.is_released() {
                arena.restore()?;
                restored += arena.bytes();
            }
        }
        tracing::info!("awake: {restored} bytes of {memory} taken again");
        Ok(restored)
    }

    /// Writes other weights of the same model over those that are there, in place: from a folder ([`gridpoint_model::Weights`]) or from
    /// tensors on the device ([`gridpoint_model::DeviceWeights`]). It repeats what the load did (stacking, interleaving, folding of
    /// normalisations), so tokens are those of an engine made with these weights. All graphs stay valid. `requests` says what becomes of
    /// running requests, whose keys and values the old weights computed.
    ///
    /// # Errors
    /// Before a byte is changed: [`NotReady::Asleep`] while the weights' memory is released, [`EngineError::RequestsRunning`], and
    /// [`gridpoint_model::ModelError::OtherModel`]. Later, the driver's error: the weights are then of two models, and steps are refused
    /// ([`NotReady::WeightsMixed`]) until an update succeeds.
    pub fn update_weights<'a>(
        &mut self,
        weights: impl Into<NewWeights<'a>>,
        requests: InFlight,
    ) -> Result<UpdateReport, EngineError> {
        let weights = weights.into();
        let running = self.scheduler.running();
        let (stream, staging, model) = self.runner.update_parts();
        if model.weights_memory().is_released() {
            return Err(NotReady::Asleep { memory: Memory::Weights }.into());
        }
        if requests == InFlight::Refuse && running > 0 {
            return Err(EngineError::RequestsRunning { running });
        }
        model.check_update(weights)?;
        stream.synchronize()?;
        if self.lifecycle.contents == Contents::Whole {
            self.lifecycle.contents = Contents::Mixed;
        }
        let bytes = model.update(staging, weights)?;
        if self.lifecycle.rotary_lost {
            model.restore_rotary()?;
        }
        self.lifecycle = Lifecycle::default();
        let requeued = if requests == InFlight::Recompute { self.scheduler.forget_cache() } else { 0 };
        tracing::info!("weights updated: {} bytes, {requeued} running requests back in line", bytes.written());
        Ok(UpdateReport { bytes, requeued })
    }
}
