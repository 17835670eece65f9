//! Every case of kernels and of whole steps on the real driver.
//!
//! Where there is no GPU the cases are listed as ignored, of kind `no-gpu`; `REQUIRE_GPU=1` makes that a failure. Only three things
//! mean that there is none: no driver library, no device behind it, or a build without nvcc. Any other error of the driver fails.
#![expect(clippy::print_stderr, reason = "the reason is for whoever reads the test's output")]

#[path = "cases/mod.rs"]
mod cases;
#[path = "steps/mod.rs"]
mod steps;
mod support;

use std::process::ExitCode;

use gridpoint::kernels;
use gridpoint_runtime::{Device, RuntimeError};
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let device = Device::open(0, &kernels::images_with_tests());
    let absent = match &device {
        Err(error @ (RuntimeError::NoDevice { .. } | RuntimeError::KernelsNotBuilt { .. })) => Some(error.to_string()),
        _ => None,
    };
    let ignored = absent.is_some() && !support::is_set("REQUIRE_GPU");
    if let Some(reason) = absent.filter(|_| ignored) {
        eprintln!("no-gpu: {reason}");
    }
    let trial = |case: support::Case| {
        let device = device.clone();
        let trial = Trial::test(case.name, move || {
            case.check(&device.map_err(|error| error.to_string())?)?;
            Ok(())
        });
        if ignored { trial.with_kind("no-gpu").with_ignored_flag(true) } else { trial }
    };
    let cases = [cases::all(), steps::all()].concat();
    libtest_mimic::run(&Arguments::from_args(), cases.into_iter().map(trial).collect()).exit_code()
}
