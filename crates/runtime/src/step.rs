//! Where the step block lies on the device.

use crate::parameters::StepHeader;
use crate::{Arena, Region};

/// Device address of a step block: what recorded launches read everything from that varies between steps.
///
/// Whoever lays out the block makes it, whoever records launches takes it; those in between only hand it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepAddress(*const StepHeader);

// SAFETY: an address; the host never reads through it.
unsafe impl Send for StepAddress {}
// SAFETY: as above.
unsafe impl Sync for StepAddress {}

impl StepAddress {
    /// The block that lies in `region`, whose start is its header.
    pub fn new(arena: &Arena, region: Region<u64>) -> Self {
        Self(arena.pointer(region).cast())
    }

    /// The address, for a parameter struct.
    pub fn as_ptr(self) -> *const StepHeader {
        self.0
    }
}
