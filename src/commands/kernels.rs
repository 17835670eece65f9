//! `gridpoint kernels`: what each kernel of a step does beside what the step's shape needs: counted on the simulated device, or timed on
//! any.

use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use clap::{ArgGroup, Args, ValueEnum};
use gridpoint::counted::{CountedKernel, CountedShape, CountedStep, count_step_with};
use gridpoint::devices;
use gridpoint_graph::Bytes;
use gridpoint_model::{Need, PointProducts, ProductChoice};
use gridpoint_plan::{GridPoint, StepShape};
use gridpoint_simulator::counters::{BankCounts, ByteCounts, Counts};
use serde_json::{Value, json};

use crate::args::model::DeviceChoice;
use crate::args::natural_32;
use crate::args::products::{Products, ProductsArgs};
use crate::args::subject::SubjectArgs;
use crate::commands::{Failure, timing};

/// Arguments of `kernels`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["counters", "time"])))]
pub(crate) struct Arguments {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Where it runs: only the simulated device counts.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceChoice,
    /// The point: capacities for tokens, prefills and decodes [default: with --time, the points whose speed docs/kernels.md states].
    #[arg(long, value_name = "T:P:D")]
    point: Option<StepShape>,
    /// The real step, for a padded one [default: the point's own counts].
    #[arg(long, value_name = "T:P:D", requires = "point")]
    real: Option<StepShape>,
    /// Tokens in the cache of each decode before the step [default: 100].
    #[arg(long, value_name = "N", requires = "point", allow_negative_numbers = true, value_parser = natural_32)]
    context: Option<u32>,
    /// Run the step and print what was counted.
    #[arg(long, requires = "point")]
    counters: bool,
    /// Time each kernel and the whole step.
    #[arg(long)]
    time: bool,
    /// Samples of every time [default: 200].
    #[arg(long, value_name = "N", requires = "time", allow_negative_numbers = true, value_parser = natural_32)]
    repeats: Option<u32>,
    #[command(flatten)]
    products: ProductsArgs,
    /// How to print the figures.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Format {
    /// A table.
    #[value(alias = "table")]
    Text,
    /// One object.
    Json,
}

/// Tokens before a decode where nothing else is asked for.
const CONTEXT: u32 = 100;

impl Arguments {
    /// The step that is asked for.
    fn step(&self) -> Option<CountedShape> {
        let StepShape { tokens, prefills, decodes } = self.point?;
        let full = CountedShape::full(GridPoint { tokens, prefills, decodes }, self.context.unwrap_or(CONTEXT));
        Some(CountedShape { real: self.real.unwrap_or(full.real), ..full })
    }
}

/// Counts one step, or times one or all that are of interest, and prints what was found.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let text = match (arguments.time, arguments.step()) {
        (false, Some(shape)) => count(arguments, &shape)?,
        (_, step) => time(arguments, step)?,
    };
    output.write_all(text.as_bytes()).map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}

fn count(arguments: &Arguments, shape: &CountedShape) -> Result<String, Failure> {
    arguments.subject.with_model(u32::MAX, |_, config, source| {
        let device = devices::open_counted(arguments.device.into()).map_err(Failure::usage)?;
        let Products { table, source: found, .. } = arguments.products.read(device.properties())?;
        let step = count_step_with(&device, config, source, shape, table).map_err(Failure::failed)?;
        Ok(match arguments.format {
            Format::Text => text(shape, &step, &found),
            Format::Json => format!("{}\n", object(shape, &step, &found)),
        })
    })
}

fn time(arguments: &Arguments, step: Option<CountedShape>) -> Result<String, Failure> {
    let repeats = match arguments.repeats {
        Some(0) => return Err(Failure::Usage("--repeats is `0`: it must be at least 1".into())),
        repeats => repeats.unwrap_or(timing::REPEATS),
    };
    let most_layers = if step.is_some() { u32::MAX } else { timing::TABLE_LAYERS };
    arguments.subject.with_model(most_layers, |name, config, source| {
        let opened = devices::open(arguments.device.into(), None).map_err(Failure::failed)?;
        let products = arguments.products.read(opened.device.properties())?;
        timing::run(&opened, timing::Request { name, config, source, step, repeats, products }, arguments.format)
    })
}

/// The kernels of a point's products, by what each product is for.
pub(super) fn products_object(products: &PointProducts) -> Value {
    let choice = |choice: &ProductChoice| {
        let ProductChoice { operation, class, kernel, origin } = choice;
        let taken = json!({"kernel": kernel.to_string(), "from": origin.to_string(), "rows_class": class.rows.rows()});
        ((*operation).to_owned(), taken)
    };
    Value::Object(products.0.iter().map(choice).collect())
}

const HEADINGS: [&str; 16] = [
    "kernel",
    "n",
    "read",
    "x least",
    "asked",
    "x tiling",
    "written",
    "x least",
    "mma",
    "x least",
    "x tiling",
    "conflicts",
    "plain",
    "special",
    "barriers",
    "idle",
];

/// What stands in a row of the table.
struct Row<'a> {
    name: &'a str,
    launches: u64,
    counts: &'a Counts,
    read: Need,
    written: Need,
    multiplies: Need,
    /// Whether distinct bytes can be compared with those that launches need one by one.
    comparable: bool,
}

impl Row<'_> {
    fn cells(&self) -> [String; 16] {
        let Counts {
            read,
            written,
            multiplies,
            matrices,
            vectors,
            plain,
            transcendentals,
            barriers,
            blocks,
            idle_blocks,
        } = self.counts;
        let multiplies = multiplies.m16n8k16();
        let distinct = |found, least| if self.comparable { ratio(found, least) } else { String::new() };
        [
            self.name.to_owned(),
            self.launches.to_string(),
            Bytes::from(read.distinct).to_string(),
            distinct(read.distinct, self.read.least),
            Bytes::from(read.total).to_string(),
            ratio(read.total, self.read.tiled),
            Bytes::from(written.distinct).to_string(),
            distinct(written.distinct, self.written.least),
            if multiplies == 0 { String::new() } else { multiplies.to_string() },
            ratio(multiplies, self.multiplies.least),
            ratio(multiplies, self.multiplies.tiled),
            (matrices.conflicts + vectors.conflicts).to_string(),
            plain.conflicts.to_string(),
            transcendentals.all().to_string(),
            barriers.all().to_string(),
            format!("{idle_blocks}/{blocks}"),
        ]
    }
}

/// A quotient to three places; nothing where nothing is needed.
fn ratio(found: u64, need: u64) -> String {
    if need == 0 { String::new() } else { format!("{:.3}", found as f64 / need as f64) }
}

/// The table and what its columns are.
fn text(shape: &CountedShape, step: &CountedStep, found: &str) -> String {
    let kernels = step.kernels();
    let mut rows: Vec<[String; 16]> = vec![HEADINGS.map(str::to_owned)];
    let mut sums = [Need::default(); 3];
    for kernel in &kernels {
        let CountedKernel { kernel, launches, counts, read, written, multiplies, .. } = kernel;
        for (sum, more) in sums.iter_mut().zip([read, written, multiplies]) {
            sum.least += more.least;
            sum.tiled += more.tiled;
        }
        let (name, read, written, multiplies) = (kernel.as_str(), *read, *written, *multiplies);
        let row = Row { name, launches: *launches, counts, read, written, multiplies, comparable: true };
        rows.push(row.cells());
    }
    let [read, written, multiplies] = sums;
    let graph = &step.graph;
    let (launches, counts) = (graph.launches, &graph.counts);
    rows.push(Row { name: "graph", launches, counts, read, written, multiplies, comparable: false }.cells());

    let mut text = String::new();
    // A String takes whatever is written to it.
    let _ = writeln!(text, "point {}, step {}, {} tokens before a decode", shape.point, shape.real, shape.context);
    let _ = writeln!(text, "products: {}\nproducts' kernels are {found}\n", step.products);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 16] = std::array::from_fn(width);
    for row in &rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            let _ = write!(line, "  {cell:>width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str(
        "\nread, written: different bytes of global memory, summed over launches; for the graph, different in all of it\n\
         asked: bytes that threads asked for, beside what tiles and threads need; mma: m16n8k16\n\
         conflicts: of banks, by ldmatrix, stmatrix, vector accesses and cp.async; plain: by plain accesses, as the host compiler left them\n\
         special: transcendentals and divisions of threads; idle: blocks that wrote no byte\n",
    );
    text
}

fn bytes(counts: ByteCounts, need: Need) -> Value {
    json!({"distinct": counts.distinct, "least": need.least, "total": counts.total, "tiled": need.tiled})
}

fn banks(counts: BankCounts) -> Value {
    json!({"phases": counts.phases, "conflicts": counts.conflicts})
}

fn counts_object(counts: &Counts, [read, written, multiplies]: [Need; 3]) -> Value {
    let special = counts.transcendentals;
    let barriers = counts.barriers;
    json!({
        "read": bytes(counts.read, read),
        "written": bytes(counts.written, written),
        "multiplies": {
            "mma_bf16": counts.multiplies.bf16,
            "mma_f16": counts.multiplies.f16,
            "wgmma": counts.multiplies.warpgroup,
            "m16n8k16": counts.multiplies.m16n8k16(),
            "least": multiplies.least,
            "tiled": multiplies.tiled,
        },
        "matrix_banks": banks(counts.matrices),
        "vector_banks": banks(counts.vectors),
        "plain_banks": banks(counts.plain),
        "transcendentals": {
            "exp2": special.exponentials_base_2,
            "exp": special.exponentials,
            "log": special.logarithms,
            "rsqrt": special.reciprocal_square_roots,
            "division": special.divisions,
        },
        "barriers": {
            "block": barriers.block,
            "named": barriers.named,
            "warp": barriers.warp,
            "cluster": barriers.cluster,
            "mbarrier_waits": barriers.mbarrier_waits,
        },
        "blocks": counts.blocks,
        "idle_blocks": counts.idle_blocks,
    })
}

fn object(shape: &CountedShape, step: &CountedStep, found: &str) -> Value {
    let mut sums = [Need::default(); 3];
    let kernels: Vec<Value> = step
        .kernels()
        .iter()
        .map(|kernel| {
            let needs = [kernel.read, kernel.written, kernel.multiplies];
            for (sum, more) in sums.iter_mut().zip(needs) {
                sum.least += more.least;
                sum.tiled += more.tiled;
            }
            json!({
                "kernel": kernel.kernel,
                "operations": kernel.operations,
                "launches": kernel.launches,
                "counts": counts_object(&kernel.counts, needs),
            })
        })
        .collect();
    let GridPoint { tokens, prefills, decodes } = shape.point;
    json!({
        "point": [tokens, prefills, decodes],
        "step": [shape.real.tokens, shape.real.prefills, shape.real.decodes],
        "context": shape.context,
        "products": products_object(&step.products),
        "products_from": found,
        "kernels": kernels,
        "graph": {"launches": step.graph.launches, "counts": counts_object(&step.graph.counts, sums)},
    })
}
