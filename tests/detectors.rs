//! Bugs put into the real kernels (build/planted.rs), which the simulated device's detectors find and name.
//!
//! A process has one device, so each plant runs in a process of its own, in which `GRIDPOINT_PLANT` names it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what a process found is for the one that started it")]

#[path = "cases/mod.rs"]
mod cases;
#[path = "support/simulated.rs"]
mod simulated;
#[path = "steps/mod.rs"]
mod steps;
mod support;

use std::path::Path;
use std::process::{Command, ExitCode};

use gridpoint_simulator::Detectors;
use libtest_mimic::{Arguments, Trial};

const PLANT: &str = "GRIDPOINT_PLANT";

/// A plant, the case that trips over it, and parts of the report.
struct Expected {
    plant: &'static str,
    case: &'static str,
    report: &'static [&'static str],
    /// Words of the line of the planted file that the report names; [`ANOTHER_KERNEL`] where it names none of it.
    line: &'static str,
}

/// The plant that runs under no detector.
const WITHOUT_DETECTORS: &str = "norm_reads_a_padded_row";

const ANOTHER_KERNEL: &str = "the kernel that trips has no plant";

const EXPECTED: [Expected; 19] = [
    // Partials of a warp that had not arrived when its block was counted.
    Expected {
        plant: "attention_arrives_without_barrier",
        case: "attention/decodes_match_float64",
        report: &[
            "kernel `attention_d",
            "race: read of 16 bytes at global address",
            "nothing orders after the write of block",
        ],
        // The read itself is in a header.
        line: "merge_partials<Element, HeadDim",
    },
    Expected {
        plant: "attention_reuses_queries_without_barrier",
        case: "attention/prefills_match_float64",
        report: &["kernel `attention_d", "race: ", "of 16 bytes at shared address", "which nothing orders after the"],
        line: "load_matrix_x4(a[0], query",
    },
    // Queries that cp.async wrote, read by wgmma.
    Expected {
        plant: "attention_hopper_gathers_without_fence",
        case: "attention_hopper/tiles_keep_bits",
        report: &[
            "kernel `attention_hopper_d64` block (",
            "wgmma's read of shared address",
            "wrote without a fence.proxy.async after it",
        ],
        line: "wgmma<kPage",
    },
    Expected {
        plant: "attention_hopper_reads_pages_before_they_are_there",
        case: "attention_hopper/decodes_keep_bits",
        report: &["kernel `attention_hopper_d64` block (", "at shared address"],
        line: "load_matrix_x4(fragment, key",
    },
    Expected {
        plant: "attention_hopper_reads_keys_before_they_are_there",
        case: "attention_hopper/tiles_keep_bits",
        report: &["kernel `attention_hopper_d64` block (", "at shared address"],
        line: "wgmma<kPage",
    },
    Expected {
        plant: "gemm_ring_without_barrier",
        case: "gemm/logits_match_float64",
        report: &["kernel `gemm_64x64_logits`", "at shared address"],
        line: "load_matrix_x4(fragments.activations[m]",
    },
    Expected {
        plant: "gemm_waits_for_too_few_groups",
        case: "gemm/logits_match_float64",
        report: &["kernel `gemm_64x64_logits`", "read of 16 bytes at shared address", "before the asynchronous copy"],
        line: "load_matrix_x4(fragments.activations[m]",
    },
    Expected {
        plant: "gemm_hopper_does_not_wait_for_stages",
        case: "gemm_hopper/segments_keep_bits",
        report: &[
            "kernel `gemm_hopper_128x128_logits`",
            "thread (0, 0, 0): mbarrier at shared address",
            "overruns its phase",
        ],
        line: "mbarrier_arrive_expect(start + Layout::kStartFull + turn.stage * 8",
    },
    Expected {
        plant: "gemm_hopper_stores_without_fence",
        case: "gemm_hopper/grid_and_cluster_keep_bits",
        report: &[
            "kernel `gemm_hopper_128x64_residual`",
            "a bulk copy's read of shared address",
            "without a fence.proxy.async after it",
        ],
        line: "tensor_store(&parameters.maps[GRIDPOINT_MAP_OUTPUT]",
    },
    // Sums of lanes that had not left them when their warp was counted.
    Expected {
        plant: "skinny_arrives_without_barrier",
        case: "skinny/segments_are_those_of_gemm",
        report: &[
            "kernel `skinny_logits`",
            "race: read of 16 bytes at global address",
            "which nothing orders after the write of block",
        ],
        line: "loaded[i][tile] = load16(partial",
    },
    Expected {
        plant: "skinny_ring_without_barrier",
        case: "skinny/logits_match_float64",
        report: &[
            "kernel `skinny_logits`",
            "race: read of 16 bytes at shared address",
            "which nothing orders after the write",
        ],
        line: "load_matrix_x4(fragments[tile]",
    },
    // Whole steps whose launches overlap. The kernel that trips is the one that reads too early,
    Expected {
        plant: "norm_does_not_wait",
        case: steps::chain::CHAINED_EQUALS_SERIAL,
        report: &[
            "kernel `rms_norm` block (0, 0, 0) thread (",
            "overlap: read of 16 bytes at global address",
            "without griddepcontrol.wait after the write of block",
            "of kernel `gemm_hopper_128x64_residual`, a launch before it",
        ],
        line: "held[i] = load16(input",
    },
    Expected {
        plant: "attention_hopper_reads_its_list_before_its_wait",
        case: steps::chain::CHAINED_EQUALS_SERIAL,
        report: &[
            "kernel `attention_hopper_d64` block (",
            "overlap: read of 4 bytes at global address",
            "without griddepcontrol.wait after the write of block (0, 0, 0) thread (0, 0, 0) of kernel `schedule_attention`",
        ],
        line: "const bool refused",
    },
    // or one further on, which waits for a kernel that waited for none.
    Expected {
        plant: "embedding_does_not_wait",
        case: steps::chain::CHAINED_EQUALS_SERIAL,
        report: &[
            "kernel `attention_hopper_d64` block (",
            "overlap: read of 4 bytes at global address",
            "without griddepcontrol.wait after the write of block (0, 0, 0) thread (0, 0, 0) of kernel `schedule_attention`",
        ],
        line: ANOTHER_KERNEL,
    },
    Expected {
        plant: "norm_sums_without_warp_barrier",
        case: "norm/matches_float64",
        report: &["kernel `rms_norm`", "read of 4 bytes at shared address"],
        line: "part[i] = values[i]",
    },
    Expected {
        plant: "norm_sums_in_one_buffer",
        case: "norm/matches_float64",
        report: &["kernel `rms_norm", "race: ", "of 4 bytes at shared address", "which nothing orders after the"],
        line: "part[i] = values[i]",
    },
    Expected {
        plant: "norm_divides_by_the_first_row",
        case: "norm/matches_float64",
        report: &[
            "kernel `rms_norm",
            "block (0, 0, 0) thread (0, 0, 0): division that has no answer",
            "in `norm_rows`",
        ],
        line: "parameters.width / (kVectorElements * first)",
    },
    // A row of the head too far, in steps that do not fill their point: a proof of replay finds it without a detector.
    Expected {
        plant: WITHOUT_DETECTORS,
        case: steps::verify::NOTHING_IS_WRONG,
        report: &[
            " mismatches, the first: graph [",
            ", replayed with the step ",
            "in the padding), depends on what lies in the padding: token[row ",
        ],
        line: ANOTHER_KERNEL,
    },
    Expected {
        plant: "norm_stays_in_its_row",
        case: "norm/matches_float64",
        report: &["kernel `rms_norm", "the block did not end within 3 s of processor time; warp 0: ", "in `norm_rows`"],
        // Wherever it is just then.
        line: "",
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
    let case = [cases::all(), steps::all()].concat().into_iter().find(|case| case.name == expected.case);
    let detectors = if expected.plant == WITHOUT_DETECTORS { Detectors::NONE } else { Detectors::all() };
    let outcome = case
        .ok_or_else(|| format!("there is no case `{}`", expected.case))
        .and_then(|case| simulated::check(case, &simulated::open_planted(expected.plant, detectors)?));
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
    if let Some(part) = expected.report.iter().find(|part| !text.contains(*part)) {
        return Err(format!("`{part}` is not in what the device said:\n{text}").into());
    }
    if expected.line == ANOTHER_KERNEL {
        return Ok(());
    }
    let line = line_of(expected.plant, &text)?;
    match line.contains(expected.line) {
        true => Ok(()),
        false => Err(format!("`{}` is not in the line `{line}`, which this names:\n{text}", expected.line).into()),
    }
}

/// The line of the planted file that a report names first.
fn line_of(plant: &str, report: &str) -> Result<String, String> {
    let file = format!("{plant}.cu");
    let number = report.split_once(&format!("at {file}:")).and_then(|(_, rest)| rest.split_once(' '));
    let number = number.and_then(|(number, _)| number.parse::<usize>().ok().filter(|&number| number != 0));
    let number = number.ok_or_else(|| format!("no line of `{file}` is in what the device said:\n{report}"))?;
    let text = std::fs::read_to_string(Path::new(env!("OUT_DIR")).join(&file))
        .map_err(|error| format!("`{file}`: {error}"))?;
    text.lines().nth(number - 1).map(str::to_owned).ok_or_else(|| format!("`{file}` has no line {number}:\n{report}"))
}
