//! Whole steps on the simulated device.

#[path = "support/simulated.rs"]
mod simulated;
#[path = "steps/mod.rs"]
mod suites;
mod support;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let device = simulated::open(None);
    let trial = |case: support::Case| {
        let device = device.clone();
        Trial::test(case.name, move || Ok(simulated::check(case, &device?).map(drop)?))
    };
    libtest_mimic::run(&arguments, suites::all().into_iter().map(trial).collect()).exit_code()
}
