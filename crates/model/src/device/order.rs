//! How the launches of a step depend on each other.

use gridpoint_runtime::{Device, Launches, RuntimeError};

/// How the launches of a step depend on each other. Either way a step depends wholly on the copy in front of it and on the step before
/// it, and computes the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaunchOrder {
    /// Each begins when the one before it has ended.
    Serial,
    /// Each but the first may begin while the one before it ends (programmatic dependent launch): its blocks are started, and a matrix
    /// product loads weights, before they wait for that end. Every kernel that a step launches waits in every block, see
    /// [`gridpoint_runtime::Launch::programmatic`].
    Programmatic,
}

/// The least compute capability with `griddepcontrol` (PTX ISA 9.7.13.13, target sm_90).
const PROGRAMMATIC: (i32, i32) = (9, 0);

impl LaunchOrder {
    /// The fastest order that a device has.
    #[must_use]
    pub fn best(device: &Device) -> Self {
        match device.properties().compute_capability >= PROGRAMMATIC {
            true => Self::Programmatic,
            false => Self::Serial,
        }
    }

    /// This order, if the device has it.
    ///
    /// # Errors
    /// [`RuntimeError::NoProgrammaticLaunches`] for a device below compute capability 9.0.
    pub fn on(self, device: &Device) -> Result<Self, RuntimeError> {
        if self == Self::Serial || Self::best(device) == Self::Programmatic {
            return Ok(self);
        }
        let properties = device.properties();
        let (major, minor) = properties.compute_capability;
        Err(RuntimeError::NoProgrammaticLaunches { device: properties.name.clone(), major, minor })
    }

    /// The launches of a step in this order.
    pub(crate) fn of_step(self, launches: Launches) -> Launches {
        match self {
            Self::Serial => launches,
            Self::Programmatic => launches.chained(),
        }
    }
}

impl std::fmt::Display for LaunchOrder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Serial => "serial",
            Self::Programmatic => "programmatic",
        })
    }
}
