//! `gridpoint kernels --time`: tables and objects of what was timed.

use std::fmt::Write as _;
use std::sync::Arc;

use gridpoint::devices::{Opened, Taken};
use gridpoint::kernels;
use gridpoint::rig::{Rig, RigShape, Sampling};
use gridpoint::timed::{Bench, Case, Ceilings, Method, Quantiles, Relation, TimeError, TimedKernel, TimedStep, cases};
use gridpoint_model::{Arithmetic, ModelConfig, WeightSource};
use gridpoint_plan::GridPoint;
use gridpoint_runtime::DeviceProperties;
use serde_json::{Value, json};

use super::kernels::{Format, products_object};
use crate::args::products::Products;
use crate::commands::Failure;

/// Samples of every time.
pub(super) const REPEATS: u32 = 200;
/// Layers of a shape for the table of all cases: so many that even the smallest weights of a layer fill a cache of 50 MB four times.
pub(super) const TABLE_LAYERS: u32 = 16;
/// Seed of keys, values and activations.
pub(super) const SEED: u64 = 1;
/// What stands over figures of the simulated device.
pub(super) const SIMULATED: &str =
    "SIMULATED DEVICE: every time below is that of a program on this host's processor and says nothing of any GPU";

/// What is asked for.
pub(super) struct Request<'a> {
    pub(super) name: &'a str,
    pub(super) config: &'a ModelConfig,
    pub(super) source: WeightSource<'a>,
    /// One step, or all cases.
    pub(super) step: Option<RigShape>,
    pub(super) repeats: u32,
    pub(super) products: Products,
}

/// Where and with what the figures were taken.
struct Setting<'a> {
    simulated: bool,
    device: &'a DeviceProperties,
    cache_bytes: u64,
    model: &'a str,
    layers: usize,
    repeats: u32,
    ceilings: Ceilings,
    /// Whence the kernels of products are taken.
    products: String,
}

/// Times what is asked for: the text that says it.
pub(super) fn run(opened: &Opened, request: Request<'_>, format: Format) -> Result<String, Failure> {
    let Request { name, config, source, step, repeats, products } = request;
    let simulated = opened.taken == Taken::Simulator;
    let cases = step.map_or_else(
        || cases(simulated),
        |shape| {
            let name = "step".to_owned();
            vec![Case { name, shape, sampling: Sampling::GREEDY, relation: Relation::Alone }]
        },
    );
    let failure = |error: TimeError| match error.is_of_the_request() {
        true => Failure::usage(error),
        false => Failure::failed(error),
    };
    let device = &opened.device;
    let shapes: Vec<RigShape> = cases.iter().map(|case| case.shape).collect();
    let mut rig = Rig::new(device, config, source, &shapes).map_err(|error| failure(error.into()))?;
    rig.model.choose_products(products.table).map_err(Failure::failed)?;
    rig.model.randomize_cache(SEED).map_err(Failure::failed)?;
    let mut bench = Bench::new(&Arc::clone(device), simulated, repeats).map_err(failure)?;
    let mut timed = Vec::with_capacity(cases.len());
    for case in &cases {
        timed.push((case, bench.time(&mut rig, case).map_err(failure)?));
    }
    let setting = Setting {
        simulated,
        device: device.properties(),
        cache_bytes: bench.cache_bytes(),
        model: name,
        layers: config.num_hidden_layers,
        repeats,
        ceilings: *bench.ceilings(),
        products: products.source,
    };
    Ok(match format {
        Format::Text => setting.text(&timed),
        Format::Json => format!("{}\n", setting.object(&timed)),
    })
}

/// A version as the driver counts it, as `13.0`.
pub(super) fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// Gigabytes (10^9) a second.
fn gigabytes(bytes: u64, microseconds: f64) -> f64 {
    bytes as f64 / microseconds.max(1e-9) / 1e3
}

/// Floating-point operations, 10^12 a second.
fn teraflops(arithmetic: &Arithmetic, microseconds: f64) -> f64 {
    2.0 * arithmetic.multiply_adds() as f64 / microseconds.max(1e-9) / 1e6
}

/// Three to four digits.
fn digits(number: f64) -> String {
    match number {
        0.0 => String::new(),
        number if number < 10.0 => format!("{number:.3}"),
        number if number < 100.0 => format!("{number:.2}"),
        number => format!("{number:.1}"),
    }
}

const HEADINGS: [&str; 16] = [
    "kernel",
    "for",
    "n",
    "blocks",
    "m x n x k",
    "us",
    "10 %",
    "90 %",
    "cold by",
    "floor us",
    "x floor",
    "GB/s",
    "% of read",
    "TFLOP/s",
    "same bytes us",
    "chained us",
];

impl Setting<'_> {
    fn text(&self, timed: &[(&Case, TimedStep)]) -> String {
        let mut text = String::new();
        let Self { device, ceilings, .. } = self;
        // A String takes whatever is written to it.
        if self.simulated {
            let _ = writeln!(text, "{SIMULATED}\n");
        }
        let (major, minor) = device.compute_capability;
        let _ = writeln!(
            text,
            "{}: compute capability {major}.{minor}, {} multiprocessors, driver {}, kernels by nvcc {}",
            device.name,
            device.multiprocessors,
            version(device.driver_version),
            kernels::NVCC.unwrap_or("none"),
        );
        let _ = writeln!(text, "{}, {} layers, median of {}", self.model, self.layers, self.repeats);
        let _ = writeln!(
            text,
            "read {:.1} GB/s, copy {:.1} GB/s ({} bytes), empty launch {:.2} us, {:.2} us in a chain",
            ceilings.read_rate(),
            ceilings.copy_rate(),
            ceilings.bytes,
            ceilings.empty.median,
            ceilings.empty_chained.median,
        );
        let _ = writeln!(text, "products' kernels are {}", self.products);
        for (case, step) in timed {
            self.case_text(&mut text, case, step);
        }
        text.push_str(
            "\nus: of one launch, cold; floor: its least bytes at the measured read speed; same bytes: plain traffic of as many bytes, timed alike\n\
             chained: launch after launch in a captured graph; parts: all launches, each in its own chain\n",
        );
        text
    }

    fn case_text(&self, text: &mut String, case: &Case, step: &TimedStep) {
        let RigShape { point, real, context } = case.shape;
        let _ = writeln!(text, "\n{}: point {point}, step {real}, {context} tokens before a decode", case.name);
        let _ = writeln!(text, "products: {}", step.products);
        let mut rows: Vec<[String; 16]> = vec![HEADINGS.map(str::to_owned)];
        rows.extend(step.kernels.iter().map(|kernel| self.cells(kernel)));
        let widths: [usize; 16] =
            std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
        for row in &rows {
            let mut line = format!("{:<1$}  {2:<3$}", row[0], widths[0], row[1], widths[1]);
            for (cell, width) in row.iter().zip(widths).skip(2) {
                let _ = write!(line, "  {cell:>width$}");
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let floor = self.ceilings.floor(step.bytes);
        let _ = writeln!(
            text,
            "step: replay {} us, eager {} us, parts {} us, floor {} us, replay {:.3} x floor",
            digits(step.replay.median),
            digits(step.eager.median),
            digits(step.parts()),
            digits(floor),
            step.replay.median / floor.max(f64::MIN_POSITIVE),
        );
    }

    fn cells(&self, kernel: &TimedKernel) -> [String; 16] {
        let cold = kernel.times.cold;
        let bytes = kernel.read + kernel.written;
        let floor = self.ceilings.floor(bytes);
        let rate = gigabytes(bytes, cold.median);
        let sizes = match kernel.arithmetic {
            Arithmetic::Product { m, n, k } => format!("{m} x {n} x {k}"),
            Arithmetic::Light | Arithmetic::Attention { .. } => String::new(),
        };
        [
            kernel.kernel.to_owned(),
            kernel.operation.to_owned(),
            kernel.launches.to_string(),
            kernel.blocks.to_string(),
            sizes,
            digits(cold.median),
            digits(cold.low),
            digits(cold.high),
            method(kernel.method).to_owned(),
            digits(floor),
            digits(cold.median / floor.max(f64::MIN_POSITIVE)),
            digits(rate),
            digits(100.0 * rate / self.ceilings.read_rate().max(f64::MIN_POSITIVE)),
            digits(teraflops(&kernel.arithmetic, cold.median)),
            digits(kernel.same_bytes.cold.median),
            digits(kernel.times.chained.median),
        ]
    }

    fn object(&self, timed: &[(&Case, TimedStep)]) -> Value {
        let Self { device, ceilings, .. } = self;
        let (major, minor) = device.compute_capability;
        json!({
            "simulated": self.simulated,
            "note": self.simulated.then_some(SIMULATED),
            "device": {
                "name": device.name,
                "compute_capability": format!("{major}.{minor}"),
                "multiprocessors": device.multiprocessors,
                "memory_bytes": device.total_memory,
                "l2_bytes": self.cache_bytes,
                "driver": version(device.driver_version),
                "nvcc": kernels::NVCC,
            },
            "model": self.model,
            "layers": self.layers,
            "repeats": self.repeats,
            "products_from": self.products,
            "ceilings": {
                "bytes": ceilings.bytes,
                "read_us": quantiles(ceilings.read),
                "copy_us": quantiles(ceilings.copy),
                "read_gigabytes_per_second": ceilings.read_rate(),
                "copy_gigabytes_per_second": ceilings.copy_rate(),
                "empty_us": quantiles(ceilings.empty),
                "empty_chained_us": quantiles(ceilings.empty_chained),
            },
            "cases": timed.iter().map(|(case, step)| self.case_object(case, step)).collect::<Vec<_>>(),
        })
    }

    fn case_object(&self, case: &Case, step: &TimedStep) -> Value {
        let RigShape { point, real, context } = case.shape;
        let GridPoint { tokens, prefills, decodes } = point;
        let Sampling { temperature, top_p, top_k } = case.sampling;
        let (padded_of, mix_of) = match &case.relation {
            Relation::Alone => (None, None),
            Relation::PaddedOf(exact) => (Some(exact), None),
            Relation::MixOf(parts) => (None, Some(parts)),
        };
        let floor = self.ceilings.floor(step.bytes);
        json!({
            "case": case.name,
            "point": [tokens, prefills, decodes],
            "step": [real.tokens, real.prefills, real.decodes],
            "context": context,
            "sampling": {"temperature": f64::from(temperature), "top_p": f64::from(top_p), "top_k": top_k},
            "padded_of": padded_of,
            "mix_of": mix_of,
            "products": products_object(&step.products),
            "kernels": step.kernels.iter().map(|kernel| self.kernel_object(kernel)).collect::<Vec<_>>(),
            "replay_us": quantiles(step.replay),
            "eager_us": quantiles(step.eager),
            "samples": {"replay": step.samples[0], "eager": step.samples[1]},
            "parts_us": step.parts(),
            "bytes": step.bytes,
            "floor_us": floor,
            "replay_over_floor": step.replay.median / floor.max(f64::MIN_POSITIVE),
        })
    }

    fn kernel_object(&self, kernel: &TimedKernel) -> Value {
        let bytes = kernel.read + kernel.written;
        let cold = kernel.times.cold.median;
        let rate = gigabytes(bytes, cold);
        let product = match kernel.arithmetic {
            Arithmetic::Product { m, n, k } => Some([m, n, k]),
            Arithmetic::Light | Arithmetic::Attention { .. } => None,
        };
        json!({
            "kernel": kernel.kernel,
            "operation": kernel.operation,
            "launches": kernel.launches,
            "blocks": kernel.blocks,
            "threads": kernel.threads,
            "product": product,
            "attention": matches!(kernel.arithmetic, Arithmetic::Attention { .. }),
            "multiply_adds": kernel.arithmetic.multiply_adds(),
            "read_bytes": kernel.read,
            "written_bytes": kernel.written,
            "cold_by": method(kernel.method),
            "us": quantiles(kernel.times.cold),
            "chained_us": quantiles(kernel.times.chained),
            "chain": kernel.times.chain,
            "same_bytes_us": quantiles(kernel.same_bytes.cold),
            "same_bytes_chained_us": quantiles(kernel.same_bytes.chained),
            "floor_us": self.ceilings.floor(bytes),
            "gigabytes_per_second": rate,
            "share_of_read": rate / self.ceilings.read_rate().max(f64::MIN_POSITIVE),
            "teraflops": teraflops(&kernel.arithmetic, cold),
        })
    }
}

fn method(method: Method) -> &'static str {
    match method {
        Method::Rotation => "rotation",
        Method::Flush => "flush",
    }
}

fn quantiles(Quantiles { low, median, high }: Quantiles) -> Value {
    json!({"p10": low, "median": median, "p90": high})
}
