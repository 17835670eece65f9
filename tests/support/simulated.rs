//! The simulated device of this process, and cases on it.

use std::sync::{Arc, Mutex, PoisonError};

use gridpoint::kernels;
use gridpoint_runtime::Device;
use gridpoint_simulator::Options;

use crate::support::Case;

/// One case at a time: a kernel that fails takes the whole device with it.
static TURN: Mutex<()> = Mutex::new(());

/// Opens it; `seed` orders its threads, none is round-robin.
pub(crate) fn open(seed: Option<u64>) -> Result<Arc<Device>, String> {
    let options = Options { seed, ..Options::default() };
    gridpoint_simulator::install(options, &kernels::host_modules()).map_err(|error| error.to_string())?;
    Device::open(0, &kernels::simulated_images()).map_err(|error| error.to_string())
}

/// Runs a case; the words of a failure include what the simulated device saw.
pub(crate) fn check(case: Case, device: &Arc<Device>) -> Result<u64, String> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    case.check(device).map_err(|words| {
        // A failed kernel makes every call fail until the device is reset.
        let failed = device.memory().is_err();
        gridpoint_simulator::reset();
        match gridpoint_simulator::last_fault().filter(|_| failed) {
            Some(fault) => format!("{words}\n{fault}"),
            None => words,
        }
    })
}
