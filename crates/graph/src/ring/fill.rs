//! The device's step block with other contents, for proofs.

use gridpoint_runtime::RuntimeError;

use super::StepRing;

impl StepRing {
    /// Fills the device's block with one byte value, so that a kernel that reads behind what the next step copies there reads that.
    /// No step may be on its way.
    ///
    /// # Errors
    /// The driver's error.
    pub fn fill_block(&self, byte: u8) -> Result<(), RuntimeError> {
        self.arena.fill(self.block, byte)
    }
}
