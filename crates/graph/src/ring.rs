//! Pinned host copies of the step block, guarded by events, so that the host can write a step while earlier ones still run.

mod fill;

use std::sync::Arc;
use std::time::Duration;

use gridpoint_runtime::parameters::LogitResult;
use gridpoint_runtime::{Arena, Event, PinnedBuffer, Region, RuntimeError, StepAddress, Stream};

use crate::{StepError, StepLayout, StepWriter, ranges};

/// Slots of a ring: one that runs, one that is queued behind it, one that is being written.
pub const RING_SLOTS: usize = 3;

struct Slot {
    block: PinnedBuffer<u64>,
    results: PinnedBuffer<LogitResult>,
    begun: Event,
    done: Event,
    /// Which of the ring's steps used it last.
    step: u64,
    logit_rows: u32,
}

/// The host's slots and the device's one block, which the stream's order protects: a step is one copy of the used prefix of a
/// slot into the block, and the launches that read it.
pub struct StepRing {
    slots: Vec<Slot>,
    steps: u64,
    arena: Arc<Arena>,
    block: Region<u64>,
}

/// A step that was written and not submitted.
#[derive(Debug)]
#[must_use = "a written step does nothing until it is submitted"]
pub struct PackedStep {
    slot: usize,
    used_bytes: u32,
    logit_rows: u32,
}

impl PackedStep {
    /// Bytes that the copy to the device moves.
    #[must_use]
    pub fn used_bytes(&self) -> u32 {
        self.used_bytes
    }
}

/// A step that is on its way. Its results are kept until [`RING_SLOTS`] further steps were begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    slot: usize,
    step: u64,
}

impl StepRing {
    /// A ring over `block`, a region of `arena`, whose steps have at most `logit_rows` rows of the language-model head.
    ///
    /// # Errors
    /// The driver's error.
    pub fn new(arena: &Arc<Arena>, block: Region<u64>, logit_rows: u32) -> Result<Self, RuntimeError> {
        let words = usize::try_from(block.count()).unwrap_or(usize::MAX);
        let slot = |_| {
            Ok(Slot {
                block: PinnedBuffer::new(words)?,
                results: PinnedBuffer::new(logit_rows as usize)?,
                begun: Event::new(arena.device(), true)?,
                done: Event::new(arena.device(), true)?,
                step: 0,
                logit_rows: 0,
            })
        };
        let slots = (0..RING_SLOTS).map(slot).collect::<Result<_, RuntimeError>>()?;
        Ok(Self { slots, steps: 0, arena: Arc::clone(arena), block })
    }

    /// Where the block lies on the device: what launches are recorded with.
    #[must_use]
    pub fn address(&self) -> StepAddress {
        StepAddress::new(&self.arena, self.block)
    }

    /// Writes a step in `layout` into the next slot, by `write`; waits first where the slot's last step still runs.
    ///
    /// # Errors
    /// What `write` answers, a layout that the slots have no room for, or the device's error.
    pub fn pack<E: From<StepError>>(
        &mut self,
        layout: StepLayout,
        write: impl FnOnce(&mut StepWriter<'_>) -> Result<(), E>,
    ) -> Result<PackedStep, E> {
        let _range = ranges::PACK.enter();
        let index = (self.steps % RING_SLOTS as u64) as usize;
        let slot = &mut self.slots[index];
        slot.done.synchronize().map_err(StepError::from)?;
        let room = slot.results.len() as u64;
        if u64::from(layout.logit_rows()) > room {
            let capacity = room as u32;
            return Err(StepError::Full { point: layout.point(), what: "logit rows", capacity }.into());
        }
        let results = slot.results.device_address();
        let mut writer = StepWriter::new(layout, results, slot.block.as_mut_slice())?;
        write(&mut writer)?;
        let (used_bytes, logit_rows) = writer.finish();
        Ok(PackedStep { slot: index, used_bytes, logit_rows })
    }

    /// Enqueues the copy of the step to the device and what `launch` enqueues behind it.
    ///
    /// # Errors
    /// The device's error.
    pub fn submit(
        &mut self,
        packed: PackedStep,
        stream: &Stream,
        launch: impl FnOnce(&Stream) -> Result<(), RuntimeError>,
    ) -> Result<Ticket, StepError> {
        let _range = ranges::SUBMIT.enter();
        let slot = &mut self.slots[packed.slot];
        let words = packed.used_bytes as usize / size_of::<u64>();
        slot.begun.record(stream)?;
        stream.upload(&self.arena, self.block, &slot.block, words)?;
        let launched = launch(stream);
        // Also behind a launch that failed: the copy may still read the slot.
        let recorded = slot.done.record(stream);
        if recorded.is_err() {
            // Nothing guards the slot then, so what reads it has to be over before the slot is written again. Where this fails too the
            // first error says more.
            let _ = stream.synchronize();
        }
        launched.and(recorded)?;
        self.steps += 1;
        slot.step = self.steps;
        slot.logit_rows = packed.logit_rows;
        Ok(Ticket { slot: packed.slot, step: self.steps })
    }

    /// Waits until the step is done; one result a logit row, in order.
    ///
    /// # Errors
    /// [`StepError::Stale`] when the slot was used again, or the device's error, that of a kernel included.
    pub fn wait(&self, ticket: &Ticket) -> Result<&[LogitResult], StepError> {
        let _range = ranges::WAIT.enter();
        let slot = &self.slots[ticket.slot];
        if slot.step != ticket.step {
            return Err(StepError::Stale);
        }
        slot.done.synchronize()?;
        Ok(&slot.results.as_slice()[..slot.logit_rows as usize])
    }

    /// From before the copy of a step that [`StepRing::wait`] has waited for to the end of its last kernel.
    ///
    /// # Errors
    /// [`StepError::Stale`] when the slot was used again, or the device's error.
    pub fn device_time(&self, ticket: &Ticket) -> Result<Duration, StepError> {
        let slot = &self.slots[ticket.slot];
        if slot.step != ticket.step {
            return Err(StepError::Stale);
        }
        Ok(slot.done.since(&slot.begun)?)
    }
}

impl Drop for StepRing {
    fn drop(&mut self) {
        // The device may still read a slot or write results. A destructor has no caller to tell.
        for slot in &self.slots {
            if let Err(error) = slot.done.synchronize() {
                tracing::warn!("{error}");
            }
        }
    }
}
