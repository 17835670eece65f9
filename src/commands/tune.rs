//! `gridpoint tune`: the kernels that the products of a model may take, timed on this device; the fastest of each class go into a file.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gridpoint::devices::{self, Opened, Taken};
use gridpoint::rig::{Rig, RigShape};
use gridpoint::tables;
use gridpoint::timed::{Bench, TimeError, TuneError, TunedRows};
use gridpoint_model::{MeasuredDevice, Measurement, ModelConfig, ProductClass, ProductTable, WeightSource};
use gridpoint_plan::Plan;
use serde_json::{Value, json};

use super::kernels::Format;
use super::timing::{REPEATS, SEED, SIMULATED, TABLE_LAYERS, version};
use crate::args::model::DeviceChoice;
use crate::args::natural_32;
use crate::args::plan::PlanArgs;
use crate::args::subject::SubjectArgs;
use crate::commands::Failure;
use crate::progress::Bar;

/// Arguments of `tune`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Rows at which products are timed; of those with the same power of two at or above them, the most
    /// [default: the token counts of the graphs].
    #[arg(long, value_name = "N,N", value_delimiter = ',', allow_negative_numbers = true, value_parser = natural_32)]
    rows: Vec<u32>,
    /// Where the table goes; one that is there for the same device and version keeps its other entries [default: a file named after device
    /// and version, under gridpoint/ in the cache folder, which other commands read].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where it runs.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceChoice,
    /// Most samples of every time [default: 200].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = natural_32)]
    repeats: Option<u32>,
    /// Write a table of the simulated device, whose times mean nothing.
    #[arg(long)]
    simulated_times: bool,
    #[command(flatten)]
    plan: PlanArgs,
    /// How to print the table.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// The file that the table goes to, and what it holds of the device.
struct Target {
    path: PathBuf,
    table: ProductTable,
    /// Why what lies there is replaced.
    replaced: Option<String>,
}

/// What was measured, of which model, and where.
struct Outcome<'a> {
    simulated: bool,
    device: &'a MeasuredDevice,
    model: &'a str,
    layers: usize,
    repeats: u32,
    measured: ProductTable,
}

/// Times the products of the model, writes the table and prints it.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let repeats = match arguments.repeats {
        Some(0) => return Err(Failure::Usage("--repeats is `0`: it must be at least 1".into())),
        repeats => repeats.unwrap_or(REPEATS),
    };
    if arguments.rows.contains(&0) {
        return Err(Failure::Usage("--rows has `0`: every number must be at least 1".into()));
    }
    let text = arguments.subject.with_model(TABLE_LAYERS, |model, config, source| {
        let rows = arguments.rows(config)?;
        let opened = devices::open(arguments.device.into(), None).map_err(Failure::failed)?;
        let simulated = opened.taken == Taken::Simulator;
        if simulated && !arguments.simulated_times {
            let words = "times of the simulated device say nothing of any GPU; --simulated-times writes a table of them all the same";
            return Err(Failure::Usage(words.into()));
        }
        let device = MeasuredDevice::from(opened.device.properties());
        let mut target = arguments.target(&device)?;
        let measured = tune(&opened, config, source, &rows, repeats)?;
        target.table.merge(measured.clone()).map_err(Failure::failed)?;
        tables::write(&target.path, &target.table).map_err(|error| {
            Failure::Failed(format!("cannot write the table to `{}`: {error}", target.path.display()).into())
        })?;
        let outcome =
            Outcome { simulated, device: &device, model, layers: config.num_hidden_layers, repeats, measured };
        Ok(match arguments.format {
            Format::Text => outcome.text(&target),
            Format::Json => format!("{}\n", outcome.object(&target)?),
        })
    })?;
    output.write_all(text.as_bytes()).map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    /// The rows that are asked for, or those of the plan's graphs.
    fn rows(&self, config: &ModelConfig) -> Result<Vec<TunedRows>, Failure> {
        let graphs = self.plan.read()?;
        let longest = u32::try_from(config.max_position_embeddings).unwrap_or(u32::MAX);
        let limits = graphs.limits(longest);
        if !self.rows.is_empty() {
            return Ok(TunedRows::of(self.rows.iter().copied(), limits.max_requests));
        }
        let plan: Plan = graphs.plan(&limits)?;
        let rows = TunedRows::of(plan.points().iter().map(|point| point.tokens), limits.max_requests);
        if rows.is_empty() {
            return Err(Failure::Usage("the plan has no graphs: --rows must name the rows to time".into()));
        }
        Ok(rows)
    }

    fn target(&self, device: &MeasuredDevice) -> Result<Target, Failure> {
        let path = match &self.output {
            Some(path) => path.clone(),
            None => tables::cache_file(device).ok_or_else(|| {
                Failure::Usage("there is no cache folder, as HOME is not set: --output must name a file".into())
            })?,
        };
        let (table, replaced) = match tables::read(&path, device) {
            Ok(table) => (table, None),
            Err(error) if error.is_absent() => (ProductTable::new(device.clone()), None),
            // What was named may be somebody's work; what lies in the cache is the program's.
            Err(error) if self.output.is_some() => {
                let words = format!("--output names a file that is not replaced: {error}");
                return Err(Failure::Failed(words.into()));
            }
            Err(error) => (ProductTable::new(device.clone()), Some(error.to_string())),
        };
        Ok(Target { path, table, replaced })
    }
}

fn tune(
    opened: &Opened,
    config: &ModelConfig,
    source: WeightSource<'_>,
    rows: &[TunedRows],
    repeats: u32,
) -> Result<ProductTable, Failure> {
    let failure = |error: TuneError| match &error {
        TuneError::Time(time) if time.is_of_the_request() => {
            Failure::Usage(format!("{error}; fewer --rows or --layers take less").into())
        }
        _ => Failure::failed(error),
    };
    let device = &opened.device;
    let shapes: Vec<RigShape> = rows.iter().map(|rows| rows.shape(config)).collect();
    let rig = Rig::new(device, config, source, &shapes);
    let mut rig = rig.map_err(|error| failure(TimeError::from(error).into()))?;
    rig.model.randomize_cache(SEED).map_err(Failure::failed)?;
    let bench = Bench::new(device, opened.taken == Taken::Simulator, repeats);
    let mut bench = bench.map_err(|error| failure(error.into()))?;
    let mut table = ProductTable::new(device.properties().into());
    let bar = Bar::rows(rows.len());
    for &rows in rows {
        for (class, measurement) in bench.tune(&mut rig, rows).map_err(failure)? {
            table.insert(class, measurement).map_err(Failure::failed)?;
        }
        bar.add(1);
    }
    bar.finish();
    Ok(table)
}

/// Microseconds with three decimals, as far as they are of interest.
fn microseconds(time: f64) -> String {
    if time < 100.0 { format!("{time:.3}") } else { format!("{time:.1}") }
}

const HEADINGS: [&str; 6] = ["rows", "timed at", "product", "n x k", "us", "kernel"];

fn cells(class: &ProductClass, measurement: &Measurement) -> [String; 6] {
    let Measurement { kernel, rows, microseconds: times } = measurement;
    let time = times.iter().find(|(candidate, _)| candidate == kernel).map_or(0.0, |&(_, time)| time);
    [
        class.rows.rows().to_string(),
        rows.to_string(),
        class.epilogue.to_string(),
        format!("{} x {}", class.n, class.k),
        microseconds(time),
        kernel.to_string(),
    ]
}

/// The candidates that were not taken, the fastest first.
fn others(measurement: &Measurement) -> String {
    let mut others: Vec<_> =
        measurement.microseconds.iter().filter(|(candidate, _)| *candidate != measurement.kernel).collect();
    others.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    let words = |(kernel, time): &&(_, f64)| format!("{kernel} {}", microseconds(*time));
    others.iter().map(words).collect::<Vec<_>>().join(", ")
}

impl Outcome<'_> {
    fn text(&self, target: &Target) -> String {
        let mut text = String::new();
        let MeasuredDevice { name, compute_capability: (major, minor), multiprocessors, driver_version } = self.device;
        // A String takes whatever is written to it.
        if self.simulated {
            let _ = writeln!(text, "{SIMULATED}\n");
        }
        let _ = writeln!(
            text,
            "{name}: compute capability {major}.{minor}, {multiprocessors} multiprocessors, driver {}, gridpoint {}",
            version(*driver_version),
            env!("CARGO_PKG_VERSION"),
        );
        let _ = writeln!(text, "{}, {} layers, median of at most {}\n", self.model, self.layers, self.repeats);
        let mut rows: Vec<([String; 6], String)> = vec![(HEADINGS.map(str::to_owned), "others".to_owned())];
        rows.extend(self.measured.entries().map(|(class, one)| (cells(class, one), others(one))));
        let widths: [usize; 6] =
            std::array::from_fn(|column| rows.iter().map(|(cells, _)| cells[column].len()).max().unwrap_or(0));
        for (cells, others) in &rows {
            let mut line = String::new();
            for (cell, width) in cells[..5].iter().zip(widths) {
                let _ = write!(line, "{cell:>width$}  ");
            }
            let _ = writeln!(text, "{line}{:<1$}  {others}", cells[5], widths[5]);
        }
        let _ = writeln!(
            text,
            "\nrows: a class, the capacities that round up to it; us: the product and its rows' scales, cold, all rows real"
        );
        if let Some(why) = &target.replaced {
            let _ = writeln!(text, "what lay there was replaced: {why}");
        }
        let count = target.table.entries().len();
        let _ = writeln!(text, "`{}` has {count} entries", target.path.display());
        text
    }

    fn object(&self, target: &Target) -> Result<Value, Failure> {
        let table: Value = serde_json::from_str(&self.measured.to_json()).map_err(Failure::failed)?;
        Ok(json!({
            "simulated": self.simulated,
            "note": self.simulated.then_some(SIMULATED),
            "model": self.model,
            "layers": self.layers,
            "repeats": self.repeats,
            "output": target.path.display().to_string(),
            "replaced": target.replaced,
            "entries": target.table.entries().len(),
            "table": table,
        }))
    }
}
