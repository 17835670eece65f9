//! Which device a command runs on: a GPU through its driver, or the simulated one.

use std::fmt;
use std::sync::Arc;

use gridpoint_driver::{DRIVER_LIBRARY, Found, install, probe};
use gridpoint_runtime::{Device, Images, RuntimeError};
use gridpoint_simulator::module::HostModule;

use crate::kernels;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// A GPU where there is one, else the simulated device.
    #[default]
    Auto,
    /// A GPU.
    Cuda,
    /// The simulated device.
    Simulator,
}

/// What `auto` takes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A GPU.
    Cuda,
    /// The simulated device.
    Simulator,
}

impl fmt::Display for Taken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cuda => "cuda",
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
        Found::Devices { count, .. } => Ok((Taken::Cuda, format!("the driver reports {count} device(s)"))),
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
        Choice::Cuda => (Taken::Cuda, None),
        Choice::Simulator => (Taken::Simulator, None),
    };
    let images = match taken {
        Taken::Cuda => kernels::images(),
        Taken::Simulator => simulate(seed, &kernels::host_modules())?,
    };
    Ok(Opened { device: Device::open(0, &images)?, taken, reason })
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
