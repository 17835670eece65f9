//! `gridpoint devices`: what was found on this machine, and what `auto` would take and why.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gridpoint::{devices, kernels};
use gridpoint_driver::{DRIVER_LIBRARY, Found, probe};
use gridpoint_graph::Bytes;
use gridpoint_runtime::{Device, DeviceProperties};
use serde_json::json;

use crate::commands::Failure;

/// Arguments of `devices`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A few lines.
    Text,
    /// One object.
    Json,
}

/// What this machine has.
struct Machine {
    /// The driver's version as `13.0`, or why there is none.
    driver: Result<String, String>,
    gpus: Vec<DeviceProperties>,
    /// What `auto` takes and why, or why it takes nothing.
    auto: Result<(devices::Taken, String), String>,
}

impl Machine {
    fn look() -> Result<Self, Failure> {
        let found = probe();
        let auto = devices::resolve(&found).map_err(|error| error.to_string());
        let (driver, count) = match &found {
            Found::NoLibrary(error) => (Err(error.to_string()), 0),
            Found::NoDevice => (Err(format!("`{DRIVER_LIBRARY}` reports no device")), 0),
            Found::Failed(error) => (Err(error.to_string()), 0),
            Found::Devices { capabilities, version } => (Ok(version_text(*version)), capabilities.len() as u32),
        };
        let gpus = (0..count).map(Device::describe).collect::<Result<_, _>>().map_err(Failure::failed)?;
        Ok(Self { driver, gpus, auto })
    }
}

/// Prints what was found.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let machine = Machine::look()?;
    match arguments.format {
        Format::Text => write_text(&machine, output),
        Format::Json => write_json(&machine, output),
    }
    .map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}

fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn write_text(machine: &Machine, output: &mut dyn Write) -> io::Result<()> {
    match &machine.driver {
        Ok(version) => writeln!(output, "driver     `{DRIVER_LIBRARY}`, version {version}")?,
        Err(reason) => writeln!(output, "driver     none: {reason}")?,
    }
    if machine.gpus.is_empty() {
        writeln!(output, "gpus       none")?;
    }
    for (index, gpu) in machine.gpus.iter().enumerate() {
        let (major, minor) = gpu.compute_capability;
        writeln!(
            output,
            "gpu {index}      {}, {}, compute capability {major}.{minor}, {} multiprocessors",
            gpu.name,
            Bytes::from(gpu.total_memory),
            gpu.multiprocessors
        )?;
    }
    match kernels::NVCC {
        Some(nvcc) => {
            writeln!(output, "kernels    built with nvcc {nvcc} for {}", kernels::ARCHITECTURES.join(", "))?;
        }
        None => writeln!(
            output,
            "kernels    not built for GPUs: the build found no nvcc; run scripts/get-nvcc.sh or set NVCC, then build again"
        )?,
    }
    writeln!(output, "simulator  {} kernel modules compiled for this machine", kernels::modules().len())?;
    match &machine.auto {
        Ok((taken, reason)) => writeln!(output, "auto       takes {taken}: {reason}"),
        Err(reason) => writeln!(output, "auto       takes nothing: {reason}"),
    }
}

fn write_json(machine: &Machine, output: &mut dyn Write) -> io::Result<()> {
    let driver = match &machine.driver {
        Ok(version) => json!({"library": DRIVER_LIBRARY, "found": true, "version": version}),
        Err(reason) => json!({"library": DRIVER_LIBRARY, "found": false, "reason": reason}),
    };
    let gpu = |gpu: &DeviceProperties| {
        let (major, minor) = gpu.compute_capability;
        json!({
            "name": gpu.name,
            "memory_bytes": gpu.total_memory,
            "compute_capability": format!("{major}.{minor}"),
            "multiprocessors": gpu.multiprocessors,
        })
    };
    let auto = match &machine.auto {
        Ok((taken, reason)) => json!({"device": taken.to_string(), "reason": reason}),
        Err(reason) => json!({"device": null, "reason": reason}),
    };
    let answer = json!({
        "driver": driver,
        "gpus": machine.gpus.iter().map(gpu).collect::<Vec<_>>(),
        "kernels": {"nvcc": kernels::NVCC, "architectures": kernels::ARCHITECTURES},
        "simulator": {"kernel_modules": kernels::modules().len()},
        "auto": auto,
    });
    writeln!(output, "{answer}")
}
