//! How the launches of a step depend on each other.

use gridpoint_runtime::{Device, DeviceProperties, Launches, RuntimeError};

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
        Self::best_of(device.properties())
    }

    fn best_of(properties: &DeviceProperties) -> Self {
        match properties.compute_capability >= PROGRAMMATIC {
            true => Self::Programmatic,
            false => Self::Serial,
        }
    }

    /// This order, if the device has it.
    ///
    /// # Errors
    /// [`RuntimeError::NoProgrammaticLaunches`] for a device below compute capability 9.0.
    pub fn on(self, device: &Device) -> Result<Self, RuntimeError> {
        self.allowed_by(device.properties())
    }

    fn allowed_by(self, properties: &DeviceProperties) -> Result<Self, RuntimeError> {
        if self == Self::Serial || Self::best_of(properties) == Self::Programmatic {
            return Ok(self);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn device(compute_capability: (i32, i32)) -> DeviceProperties {
        let name = "a GPU".to_owned();
        DeviceProperties {
            name,
            compute_capability,
            multiprocessors: 1,
            total_memory: 1,
            l2_bytes: 1,
            driver_version: 13_000,
        }
    }

    #[test]
    fn programmatic_launches_need_compute_capability_9() {
        for (capability, best) in [
            ((8, 0), LaunchOrder::Serial),
            ((8, 9), LaunchOrder::Serial),
            ((9, 0), LaunchOrder::Programmatic),
            ((12, 0), LaunchOrder::Programmatic),
        ] {
            assert_eq!(LaunchOrder::best_of(&device(capability)), best, "{capability:?}");
            assert_eq!(LaunchOrder::Serial.allowed_by(&device(capability)), Ok(LaunchOrder::Serial));
        }
        let refused = LaunchOrder::Programmatic.allowed_by(&device((8, 6))).unwrap_err().to_string();
        assert_eq!(
            refused,
            "`a GPU` has compute capability 8.6 and no programmatic launches, which need 9.0: launches must be serial"
        );
    }
}
