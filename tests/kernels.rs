//! Every case on the simulated device, under several schedules.
//!
//! A process has one simulated device with one schedule. This one runs threads round-robin and starts itself again for each seed; a
//! case passes when it passes under every schedule and downloads the same bytes. Under one of the seeds all detectors watch, over kernels
//! that tell of their plain loads and stores. `GRIDPOINT_SIM_SEED=N` runs under seed N alone, which reproduces what was seen under it, and
//! `GRIDPOINT_SIM_DETECTORS=1` with detectors.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "digests and a wrong seed are for whoever started this")]

#[path = "cases/mod.rs"]
mod cases;
#[path = "support/simulated.rs"]
mod simulated;
mod support;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};
use support::Case;

const SEED: &str = "GRIDPOINT_SIM_SEED";
const DETECTORS: &str = "GRIDPOINT_SIM_DETECTORS";
/// The schedules beside round-robin, and whether detectors watch.
const SEEDS: [(u64, bool); 2] = [(1, false), (2, true)];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let seed = match std::env::var(SEED) {
        Ok(text) => match text.parse() {
            Ok(seed) => Some(seed),
            Err(_) => {
                eprintln!("`{SEED}` is `{text}`; right is a number from 0 to {}", u64::MAX);
                return ExitCode::from(2);
            }
        },
        Err(_) => None,
    };
    let device = simulated::open(seed, support::is_set(DETECTORS));
    let trial = |case: Case| {
        let device = device.clone();
        Trial::test(case.name, move || {
            let digest = simulated::check(case, &device?)?;
            match seed {
                // Read by the process that started this one; the test's name may stand in the line before.
                Some(_) => println!("\n{}", digest_line(case, digest)),
                None => SEEDS.iter().try_for_each(|&(seed, watched)| check_seeded(case, seed, watched, digest))?,
            }
            Ok(())
        })
    };
    libtest_mimic::run(&arguments, cases::all().into_iter().map(trial).collect()).exit_code()
}

fn digest_line(case: Case, digest: u64) -> String {
    format!("digest {} {digest:016x}", case.name)
}

/// Runs a case in a process of its own under `seed`; its digest must be `expected`.
fn check_seeded(case: Case, seed: u64, watched: bool, expected: u64) -> Result<(), String> {
    let watched = if watched { "1" } else { "0" };
    let again = format!("{SEED}={seed} {DETECTORS}={watched} cargo test --test kernels -- --exact {}", case.name);
    let output = std::env::current_exe()
        .and_then(|program| {
            let mut command = Command::new(program);
            command.args(["--exact", case.name, "--color", "never"]);
            command.env(SEED, seed.to_string()).env(DETECTORS, watched).output()
        })
        .map_err(|error| format!("`{again}` does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("`{again}` fails:\n{text}{}", String::from_utf8_lossy(&output.stderr)));
    }
    if text.lines().any(|line| line == digest_line(case, expected)) {
        return Ok(());
    }
    Err(format!(
        "`{again}` downloads other bytes than a round-robin schedule, whose digest is {expected:016x}:\n{text}"
    ))
}
