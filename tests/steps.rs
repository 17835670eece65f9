//! Whole steps on the simulated device. Some run once more under all detectors, in a process of their own; `GRIDPOINT_SIM_DETECTORS=1`
//! does that with any of them. Some run under several seeds, under which launches overlap as it comes; `GRIDPOINT_SIM_SEED=N` does that.

#![expect(clippy::print_stderr, reason = "a wrong seed is for whoever started this")]

#[path = "support/simulated.rs"]
mod simulated;
#[path = "steps/mod.rs"]
mod suites;
mod support;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

const DETECTORS: &str = "GRIDPOINT_SIM_DETECTORS";
const SEED: &str = "GRIDPOINT_SIM_SEED";
/// The seeds under which overlapping launches are compared with serial ones.
const SEEDS: [u64; 3] = [1, 2, 3];
/// Cases that also run under detectors, which take five times as long: each kernel of a step, both head dimensions, groups, bias and decodes
/// of several chunks, float16, a cancelled request, a graph that is replayed with other rows.
const WATCHED: [&str; 12] = [
    suites::chain::CHAINED_EQUALS_SERIAL,
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
    suites::shapes::FLOAT16_WITH_BIAS,
];

/// The seeds of a case: of those whose launches overlap.
fn seeds(case: &str) -> &'static [u64] {
    match case {
        suites::chain::CHAINED_EQUALS_SERIAL => &SEEDS,
        suites::chain::BACK_TO_BACK_EQUALS_SERIAL | suites::chain::AGAIN_AND_AGAIN => &SEEDS[..1],
        _ => &[],
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let watched = support::is_set(DETECTORS);
    let seed = match std::env::var(SEED).map(|text| text.parse()) {
        Ok(Ok(seed)) => Some(seed),
        Ok(Err(_)) => {
            eprintln!("`{SEED}` must be a number from 0 to {}", u64::MAX);
            return ExitCode::from(2);
        }
        Err(_) => None,
    };
    let device = simulated::open(seed, watched);
    let trial = |case: support::Case| {
        let device = device.clone();
        Trial::test(case.name, move || {
            simulated::check(case, &device?)?;
            if watched || seed.is_some() {
                return Ok(());
            }
            if WATCHED.contains(&case.name) {
                check_again(case.name, DETECTORS, "1")?;
            }
            seeds(case.name).iter().try_for_each(|seed| check_again(case.name, SEED, &seed.to_string()))?;
            Ok(())
        })
    };
    libtest_mimic::run(&arguments, suites::all().into_iter().map(trial).collect()).exit_code()
}

/// Runs a case once more in a process of its own, in which a variable says how.
fn check_again(name: &str, variable: &str, value: &str) -> Result<(), String> {
    let again = format!("{variable}={value} cargo test --test steps -- --exact {name}");
    let output = std::env::current_exe()
        .and_then(|program| Command::new(program).args(["--exact", name]).env(variable, value).output())
        .map_err(|error| format!("`{again}` does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let [text, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    Err(format!("`{again}` fails:\n{text}{errors}"))
}
