//! Whole steps on the simulated device.

mod support;
#[path = "steps/mod.rs"]
mod suites;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use gridpoint::kernels;
use gridpoint_runtime::Device;
use gridpoint_simulator::Options;
use libtest_mimic::{Arguments, Trial};

/// One case at a time: a kernel that fails takes the whole device with it.
static TURN: Mutex<()> = Mutex::new(());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    gridpoint_simulator::install(Options::default(), &kernels::host_modules()).expect("no driver was called before");
    let device = Device::open(0, &kernels::simulated_images()).map_err(|error| error.to_string());
    let trial = |case: support::Case| {
        let device = device.clone();
        Trial::test(case.name, move || {
            let device = device?;
            let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            case.check(&device).map(drop).map_err(|words| {
                let failed = device.memory().is_err();
                gridpoint_simulator::reset();
                match gridpoint_simulator::last_fault().filter(|_| failed) {
                    Some(fault) => format!("{words}\n{fault}").into(),
                    None => words.into(),
                }
            })
        })
    };
    libtest_mimic::run(&arguments, suites::all().into_iter().map(trial).collect()).exit_code()
}
