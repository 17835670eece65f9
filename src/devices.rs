//! Which device a command runs on: a GPU through its driver, or the simulated one.

use std::fmt;
use std::sync::Arc;

use gridpoint_driver::{DRIVER_LIBRARY, Found, install, probe};
use gridpoint_runtime::{Device, Images, LEAST_COMPUTE_CAPABILITY, RuntimeError};
use gridpoint_simulator::module::HostModule;

use crate::kernels;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first GPU that the kernels run on where there is one, else the simulated device.
    #[default]
    Auto,
    /// The first GPU that the kernels run on.
    Cuda,
    /// The simulated device.
    Simulator,
}

/// What `auto` takes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The GPU of this number, counted from 0.
    Cuda(u32),
    /// The simulated device.
    Simulator,
}

impl fmt::Display for Taken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cuda(_) => "cuda",
            Self::Simulator => "simulator",
        })
    }
}

/// No device could be taken.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device layer's reason.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The driver is there and does not work.
    #[error("the CUDA driver is there and fails: {0}; `--device simulator` runs without it")]
    Driver(gridpoint_driver::Error),
    /// Only the simulated device counts.
    #[error("counters are those of the simulated device: a GPU has none, so `--device` must be `simulator` or `auto`")]
    NotCounted,
    /// Something in this process used the driver before.
    #[error("the simulated device must be chosen before the first use of the driver")]
    AlreadyInstalled(#[from] gridpoint_driver::AlreadyInstalled),
}

/// The first device that the kernels run on.
fn usable(capabilities: &[(i32, i32)]) -> Option<u32> {
    let place = capabilities.iter().position(|&capability| capability >= LEAST_COMPUTE_CAPABILITY)?;
    u32::try_from(place).ok()
}

/// What `auto` takes on this machine, with the reason in words.
///
/// # Errors
/// A driver that fails for another reason than an absent device: to run on the simulated device then would hide it.
pub fn resolve(found: &Found) -> Result<(Taken, String), DeviceError> {
    match found {
        Found::NoLibrary(_) => Ok((Taken::Simulator, format!("the driver library `{DRIVER_LIBRARY}` was not found"))),
        Found::NoDevice => {
            Ok((Taken::Simulator, format!("the driver library `{DRIVER_LIBRARY}` was found, but it reports no device")))
        }
        Found::Devices { capabilities, .. } => {
            let ((major, minor), count) = (LEAST_COMPUTE_CAPABILITY, capabilities.len());
            Ok(match usable(capabilities) {
                Some(0) => (Taken::Cuda(0), format!("the driver reports {count} device(s)")),
                Some(ordinal) => (
                    Taken::Cuda(ordinal),
                    format!(
                        "the driver reports {count} device(s), of which {ordinal} is the first of compute capability {major}.{minor} \
                         or newer, counted from 0"
                    ),
                ),
                None => (
                    Taken::Simulator,
                    format!(
                        "the driver reports {count} device(s), none of compute capability {major}.{minor} or newer"
                    ),
                ),
            })
        }
        Found::Failed(error) => Err(DeviceError::Driver(*error)),
    }
}

/// A device in use.
pub struct Opened {
    /// The device.
    pub device: Arc<Device>,
    /// Which of the two it is.
    pub taken: Taken,
    /// Why, where `auto` chose.
    pub reason: Option<String>,
}

/// Takes a device, once a process: the first call decides which driver table is in use. `seed` orders the simulated device's
/// threads; none is round-robin.
///
/// # Errors
/// No such device, one that the kernels were not built for, or the driver's error.
pub fn open(choice: Choice, seed: Option<u64>) -> Result<Opened, DeviceError> {
    let (taken, reason) = match choice {
        Choice::Auto => resolve(&probe()).map(|(taken, reason)| (taken, Some(reason)))?,
        // Where none is usable the first one says why.
        Choice::Cuda => match probe() {
            Found::Devices { capabilities, .. } => (Taken::Cuda(usable(&capabilities).unwrap_or(0)), None),
            _ => (Taken::Cuda(0), None),
        },
        Choice::Simulator => (Taken::Simulator, None),
    };
    let (ordinal, images) = match taken {
        Taken::Cuda(ordinal) => (ordinal, kernels::images()),
        Taken::Simulator => (0, simulate(seed, &kernels::host_modules())?),
    };
    Ok(Opened { device: Device::open(ordinal, &images)?, taken, reason })
}

/// Takes the simulated device with kernels that tell it of every access, for [`crate::counted`]; once a process, as [`open`].
///
/// # Errors
/// A GPU was asked for, or the driver table is in use.
pub fn open_counted(choice: Choice) -> Result<Arc<Device>, DeviceError> {
    if choice == Choice::Cuda {
        return Err(DeviceError::NotCounted);
    }
    Ok(Device::open(0, &simulate(None, &kernels::checked_modules())?)?)
}

/// Makes the simulated device the one behind the driver table; its images are the kernels' names.
fn simulate(seed: Option<u64>, modules: &[&'static HostModule]) -> Result<Images, DeviceError> {
    let options = gridpoint_simulator::Options { seed, ..gridpoint_simulator::Options::default() };
    install(gridpoint_simulator::table(options, modules))?;
    Ok(kernels::simulated_images())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_the_first_gpu_that_the_kernels_run_on() {
        let take = |capabilities: &[(i32, i32)]| {
            let found = Found::Devices { capabilities: capabilities.to_vec(), version: 13_000 };
            resolve(&found).unwrap_or_else(|error| panic!("{error}"))
        };
        assert_eq!(take(&[(9, 0), (7, 5)]), (Taken::Cuda(0), "the driver reports 2 device(s)".to_owned()));
        let (taken, reason) = take(&[(7, 5), (7, 0), (8, 6), (9, 0)]);
        assert_eq!(taken, Taken::Cuda(2));
        assert_eq!(
            reason,
            "the driver reports 4 device(s), of which 2 is the first of compute capability 8.0 or newer, counted from 0"
        );
        let (taken, reason) = take(&[(7, 5), (7, 5)]);
        assert_eq!(taken, Taken::Simulator);
        assert_eq!(reason, "the driver reports 2 device(s), none of compute capability 8.0 or newer");
        assert!(
            resolve(&Found::Failed(gridpoint_driver::Error { call: "cuInit", code: gridpoint_driver::CUresult(999) }))
                .is_err()
        );
    }
}
