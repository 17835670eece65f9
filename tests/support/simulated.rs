//! The simulated device of this process, and cases on it.
#![allow(dead_code, reason = "each test target uses some of it")]

use std::sync::{Arc, Mutex, PoisonError};

use gridpoint::kernels;
use gridpoint_runtime::Device;
use gridpoint_simulator::module::HostModule;
use gridpoint_simulator::{Detectors, Options};

use crate::support::Case;

/// One case at a time: a kernel that fails takes the whole device with it.
static TURN: Mutex<()> = Mutex::new(());

/// Opens it; `seed` orders its threads, none is round-robin. With `watched` every launch is under all detectors.
pub(crate) fn open(seed: Option<u64>, watched: bool) -> Result<Arc<Device>, String> {
    let (detectors, modules) = match watched {
        true => (Detectors::all(), kernels::checked_modules()),
        false => (Detectors::NONE, kernels::host_modules()),
    };
    install(Options { seed, detectors, ..Options::default() }, &modules)
}

/// Opens it with the plant of build/planted.rs in its kernels, under these detectors.
pub(crate) fn open_planted(plant: &str, detectors: Detectors) -> Result<Arc<Device>, String> {
    let modules = kernels::planted_modules(plant).ok_or_else(|| format!("there is no plant `{plant}`"))?;
    // A block takes milliseconds here, and a plant that never ends should not take long.
    install(Options { detectors, block_seconds: 3, ..Options::default() }, &modules)
}

fn install(options: Options, modules: &[&'static HostModule]) -> Result<Arc<Device>, String> {
    let tests = match options.detectors {
        Detectors::NONE => kernels::test_modules().into_iter().map(|module| module.host).collect(),
        _ => kernels::checked_test_modules(),
    };
    let modules: Vec<&'static HostModule> = modules.iter().copied().chain(tests).collect();
    gridpoint_simulator::install(options, &modules).map_err(|error| error.to_string())?;
    Device::open(0, &kernels::simulated_images_with_tests()).map_err(|error| error.to_string())
}

/// Runs a case; the words of a failure include what the simulated device saw. A case that leaves something on the device fails.
pub(crate) fn check(case: Case, device: &Arc<Device>) -> Result<u64, String> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    device.make_current().map_err(|error| error.to_string())?;
    let before = gridpoint_simulator::leaks();
    let free = device.memory().map_err(|error| error.to_string())?.free;
    let checked = case.check(device).and_then(|digest| {
        let now = device.memory().map_err(|error| error.to_string())?.free;
        let left = gridpoint_simulator::leaks().into_iter().filter(|leak| !before.contains(leak));
        let left: Vec<String> = left.map(|leak| leak.to_string()).collect();
        if left.is_empty() && now == free {
            return Ok(digest);
        }
        Err(format!(
            "`{}` left device memory: {free} bytes were free before it, {now} are after it\n{}",
            case.name,
            left.join("\n")
        ))
    });
    checked.map_err(|words| {
        // A failed kernel makes every call fail until the device is reset.
        let failed = device.memory().is_err();
        gridpoint_simulator::reset();
        match gridpoint_simulator::last_fault().filter(|_| failed) {
            Some(fault) => format!("{words}\n{fault}"),
            None => words,
        }
    })
}
