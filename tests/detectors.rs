//! Bugs put into the real kernels (build/planted.rs), which the simulated device's detectors find and name.
//!
//! A process has one device, so each plant runs in a process of its own, in which `GRIDPOINT_PLANT` names it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what a process found is for the one that started it")]

#[path = "cases/mod.rs"]
mod cases;
#[path = "support/simulated.rs"]
mod simulated;
mod support;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

const PLANT: &str = "GRIDPOINT_PLANT";

/// A plant, the case that trips over it, and parts of the report.
struct Expected {
    plant: &'static str,
    case: &'static str,
    report: &'static [&'static str],
}

const EXPECTED: [Expected; 6] = [
    // Partials of a warp that had not arrived when its block was counted.
    Expected {
        plant: "attention_arrives_without_barrier",
        case: "attention/decodes_match_float64",
        report: &[
            "kernel `attention_d",
            "race: read of 16 bytes at global address",
            "nothing orders after the write of block",
        ],
    },
    Expected {
        plant: "attention_reuses_queries_without_barrier",
        case: "attention/prefills_match_float64",
        report: &["kernel `attention_d", "race: ", "of 16 bytes at shared address", "which nothing orders after the"],
    },
    Expected {
        plant: "gemm_ring_without_barrier",
        case: "gemm/plain_matches_float64",
        report: &["kernel `gemm_16x64_plain`", "at shared address"],
    },
    Expected {
        plant: "gemm_waits_for_too_few_groups",
        case: "gemm/plain_matches_float64",
        report: &["kernel `gemm_16x64_plain`", "read of 16 bytes at shared address", "before the asynchronous copy"],
    },
    Expected {
        plant: "norm_sums_without_warp_barrier",
        case: "norm/matches_float64",
        report: &["kernel `rms_norm`", "read of 4 bytes at shared address"],
    },
    Expected {
        plant: "norm_sums_in_one_buffer",
        case: "norm/matches_float64",
        report: &["kernel `rms_norm", "race: ", "of 4 bytes at shared address", "which nothing orders after the"],
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if let Ok(plant) = std::env::var(PLANT) {
        return match EXPECTED.iter().find(|expected| expected.plant == plant) {
            Some(expected) => run(expected),
            None => {
                eprintln!("`{PLANT}` is `{plant}`; there is no such plant");
                ExitCode::from(2)
            }
        };
    }
    let trials = EXPECTED.iter().map(|expected| Trial::test(expected.plant, || find(expected))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs the case with the plant and prints what became of it.
fn run(expected: &Expected) -> ExitCode {
    let case = cases::all().into_iter().find(|case| case.name == expected.case);
    let outcome = case
        .ok_or_else(|| format!("there is no case `{}`", expected.case))
        .and_then(|case| simulated::check(case, &simulated::open_planted(expected.plant)?));
    match outcome {
        Ok(_) => println!("nothing was found"),
        Err(words) => println!("{words}"),
    }
    ExitCode::SUCCESS
}

fn find(expected: &Expected) -> Result<(), libtest_mimic::Failed> {
    let program = std::env::current_exe()?;
    let output = Command::new(program).env(PLANT, expected.plant).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match expected.report.iter().find(|part| !text.contains(*part)) {
        None => Ok(()),
        Some(part) => Err(format!("`{part}` is not in what the device said:\n{text}").into()),
    }
}
