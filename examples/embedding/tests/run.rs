//! Every example runs and says what it should.

use std::process::Command;

fn run(program: &str) -> String {
    let output = Command::new(program).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_planner_alone() {
    let text = run(env!("CARGO_BIN_EXE_plan"));
    assert!(text.contains("step 9:0:9 replays [16]: 0 P + 16 D, padding 7 T, 0 P, 7 D"), "{text}");
    assert!(text.contains("step 300:3:40 replays [512]: 4 P + 60 D, padding 212 T, 1 P, 20 D"), "{text}");
    assert!(text.contains("step 700:1:0 runs eagerly: tokens 700 above the ceiling 512"), "{text}");
}

#[test]
fn two_kernels_of_somebody_elses() {
    let text = run(env!("CARGO_BIN_EXE_two_kernels"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines[0].contains("distinct"), "{text}");
    assert!(lines[4].ends_with("Some(1046530.0)"), "{text}");
}

#[test]
fn the_engine_inside_a_program() {
    let text = run(env!("CARGO_BIN_EXE_engine"));
    assert!(text.ends_with("4 steps, 4 of them replays\n"), "{text}");
}

#[test]
fn beside_cudarc() {
    let text = run(env!("CARGO_BIN_EXE_cudarc"));
    assert!(text.contains("Replay, 40 of 64 values written") || text.contains("there is no GPU"), "{text}");
}
