//! Whole steps on the simulated device. Some run once more under all detectors, in a process of their own; `GRIDPOINT_SIM_DETECTORS=1`
//! does that with any of them.

#[path = "support/simulated.rs"]
mod simulated;
#[path = "steps/mod.rs"]
mod suites;
mod support;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

const DETECTORS: &str = "GRIDPOINT_SIM_DETECTORS";
/// Cases that also run under detectors, which take five times as long: each kernel of a step, both head dimensions, groups, bias and decodes
/// of several chunks, a cancelled request, a graph that is replayed with other rows.
const WATCHED: [&str; 10] = [
    "models/llama_gqa",
    "models/llama3_rope_scaling",
    "replay/the_same_graph_twice_gives_the_same_bits",
    "batching/cancelling_harms_no_other",
    "shapes/three_heads_on_one",
    "shapes/head_of_128",
    "shapes/head_of_128_across_a_chunk",
    "shapes/group_of_5",
    "shapes/attention_bias",
    "shapes/linear_rope",
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let watched = support::is_set(DETECTORS);
    let device = simulated::open(None, watched);
    let trial = |case: support::Case| {
        let device = device.clone();
        Trial::test(case.name, move || {
            simulated::check(case, &device?)?;
            if !watched && WATCHED.contains(&case.name) {
                check_watched(case.name)?;
            }
            Ok(())
        })
    };
    libtest_mimic::run(&arguments, suites::all().into_iter().map(trial).collect()).exit_code()
}

/// Runs a case under detectors in a process of its own.
fn check_watched(name: &str) -> Result<(), String> {
    let again = format!("{DETECTORS}=1 cargo test --test steps -- --exact {name}");
    let output = std::env::current_exe()
        .and_then(|program| Command::new(program).args(["--exact", name]).env(DETECTORS, "1").output())
        .map_err(|error| format!("`{again}` does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let [text, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    Err(format!("`{again}` fails:\n{text}{errors}"))
}
