//! The commands that run a model, as a user meets them: what is on stdout, on stderr, and the exit status. All on the simulated
//! device; `plan` and `explain` are in plan_command.rs.

#[path = "commands/bad_input.rs"]
mod bad_input;
#[path = "commands/bad_models.rs"]
mod bad_models;
#[path = "commands/bench.rs"]
mod bench;
#[path = "commands/capture.rs"]
mod capture;
#[path = "commands/devices.rs"]
mod devices;
#[path = "commands/dump.rs"]
mod dump;
#[path = "commands/float16.rs"]
mod float16;
#[path = "commands/generate.rs"]
mod generate;
#[path = "commands/gpus.rs"]
mod gpus;
#[path = "commands/kernels.rs"]
mod kernels;
#[cfg(target_os = "linux")]
#[path = "support/nvtx.rs"]
mod nvtx;
#[path = "commands/perplexity.rs"]
mod perplexity;
#[path = "commands/profiles.rs"]
mod profiles;
#[path = "commands/program.rs"]
mod program;
#[path = "commands/summary.rs"]
mod summary;
#[path = "commands/tune.rs"]
mod tune;
#[path = "commands/verify.rs"]
mod verify;
