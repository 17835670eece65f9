//! What padding costs, counted: a step at a point larger than it moves the bytes and does the multiplications that it takes at a point of its
//! own size, kernel by kernel.
//!
//! Different bytes are compared with those at the exact point. Bytes asked for and multiplications also follow the tile, and the tile follows
//! the point: they are compared with those at the smallest point that has the padded point's kernels, which is the exact point where its
//! kernels are the same. The padded point's grid may have more blocks: one that finds nothing to do may read counts of the step block, and
//! nothing else.

use std::fmt::Write as _;

use gridpoint::counted::{CountedLaunch, CountedStep, count_step};
use gridpoint::rig::{Rig, RigShape};
use gridpoint_model::{ModelConfig, WeightSource};
use gridpoint_plan::{GridPoint, StepShape};

use crate::DEVICE;

/// How much more a padded step may take.
const TAX: f64 = 1.01;
/// Bytes of the step block that a thread reads before it knows that its block has nothing to do: a count and an offset.
const GLANCE: u64 = 8;

/// Real sizes but for their number: rows of whole stages, groups of two, a vocabulary of several tiles.
fn model() -> ModelConfig {
    ModelConfig::from_json(
        r#"{"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "vocab_size": 1024, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 2048}"#,
    )
    .expect("the configuration is good")
}

fn point(tokens: u32, prefills: u32, decodes: u32) -> GridPoint {
    GridPoint { tokens, prefills, decodes }
}

fn count(shape: RigShape) -> CountedStep {
    let device = DEVICE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    device.make_current().expect("the device works");
    count_step(&device, &model(), WeightSource::Random(1), &shape).unwrap_or_else(|error| panic!("{shape:?}: {error}"))
}

/// The smallest point at which `real` fits and that has the kernels of `padded`.
fn alike(padded: RigShape) -> GridPoint {
    let device = DEVICE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    device.make_current().expect("the device works");
    let rig = Rig::new(&device, &model(), WeightSource::Random(1), &[padded]).expect("a model in memory");
    let names = |point: GridPoint| {
        let launches = rig.record(point).expect("the launches");
        launches.as_slice().iter().map(gridpoint_runtime::Launch::name).collect::<Vec<_>>()
    };
    let RigShape { point: most, real: StepShape { tokens, .. }, .. } = padded;
    let wanted = names(most);
    // The head's kernel follows the requests that the model has memory for: the padded point's.
    let mut points = (tokens..=most.tokens).map(|tokens| match most.prefills {
        // Every token is a request.
        0 => point(tokens, 0, tokens),
        _ => point(tokens, most.prefills, most.decodes),
    });
    points.find(|&point| names(point) == wanted).unwrap_or(most)
}

/// A line for every figure of every launch, and whether one is beyond the tax.
#[derive(Default)]
struct Table {
    text: String,
    beyond: Vec<String>,
}

impl Table {
    fn compare(&mut self, launch: &CountedLaunch, what: &str, padded: u64, own: u64) {
        self.compare_beside(launch, what, padded, own, 0);
    }

    /// `free` is what may come on top.
    fn compare_beside(&mut self, launch: &CountedLaunch, what: &str, padded: u64, own: u64, free: u64) {
        let (operation, kernel) = (launch.need.operation, &launch.counts.kernel);
        let ratio = padded as f64 / own.max(1) as f64;
        let marked = if padded as f64 > TAX * own as f64 + free as f64 { "  <- beyond" } else { "" };
        let _ =
            writeln!(self.text, "{operation:<16} {kernel:<28} {what:<24} {padded:>12} {own:>12} {ratio:>8.4}{marked}");
        if !marked.is_empty() {
            self.beyond.push(format!("`{kernel}` ({operation}): {padded} {what}, {own} without padding"));
        }
    }
}

/// What a padded step takes, beside the exact point and the one that is alike.
fn table(padded: &CountedStep, exact: &CountedStep, alike: &CountedStep) -> Table {
    let mut table = Table::default();
    assert_eq!(padded.launches.len(), alike.launches.len());
    let mut of_exact = exact.launches.iter().peekable();
    for (launch, alike) in padded.launches.iter().zip(&alike.launches) {
        // Products of few rows compute scales that a padded point has a launch for.
        let exact = of_exact.next_if(|exact| exact.need.operation == launch.need.operation);
        assert!(exact.is_some() || launch.need.operation == "row scales", "`{}`", launch.need.operation);
        let exact = exact.unwrap_or(alike);
        let more_blocks = launch.counts.counts.blocks.saturating_sub(alike.counts.counts.blocks);
        let threads: u64 = launch.counts.block.iter().map(|&threads| u64::from(threads)).product();
        let [counts, exact, alike] = [launch, exact, alike].map(|launch| &launch.counts.counts);
        table.compare(launch, "different bytes read", counts.read.distinct, exact.read.distinct);
        table.compare(launch, "different bytes written", counts.written.distinct, exact.written.distinct);
        let glances = more_blocks * threads * GLANCE;
        table.compare_beside(launch, "bytes read", counts.read.total, alike.read.total, glances);
        table.compare(launch, "bytes written", counts.written.total, alike.written.total);
        table.compare(launch, "multiplications", counts.multiplies.m16n8k16(), alike.multiplies.m16n8k16());
    }
    assert_eq!(
        of_exact.next().map(|launch| launch.need.operation),
        None,
        "the padded step has all launches of the exact one"
    );
    table
}

/// Fails with the table where a kernel takes more than the tax.
fn untaxed(most: GridPoint, [tokens, prefills, decodes]: [u32; 3], context: u32) {
    let real = StepShape { tokens, prefills, decodes };
    let shape = |point| RigShape { point, real, context };
    let (exact, alike) = (point(tokens, prefills, decodes), alike(shape(most)));
    let [of_most, of_exact, of_alike] = [most, exact, alike].map(|point| count(shape(point)));
    let Table { text, beyond } = table(&of_most, &of_exact, &of_alike);
    assert!(
        beyond.is_empty(),
        "{real} at {most}, beside {exact} and {alike}, at most {TAX} times:\n{}\n{text}",
        beyond.join("\n")
    );
}

#[test]
fn half_of_1024_tokens() {
    untaxed(point(1024, 8, 64), [520, 2, 8], 100);
}

#[test]
fn a_seventh_of_396_tokens() {
    untaxed(point(396, 4, 32), [60, 1, 4], 600);
}

#[test]
fn nine_of_128_slots() {
    untaxed(point(128, 0, 128), [9, 0, 9], 300);
}

/// Kernels that walked one row too many would be named.
#[test]
fn a_tax_is_found() {
    let step = |decodes| {
        let shape = point(17, 0, 17);
        count(RigShape { point: shape, real: StepShape { tokens: decodes, prefills: 0, decodes }, context: 100 })
    };
    let nine = step(9);
    assert!(table(&nine, &nine, &nine).beyond.is_empty());
    let beyond = table(&step(10), &nine, &nine).beyond.join("\n");
    for kernel in ["embedding_gather", "skinny_rotary", "attention_hopper_d64", "rms_norm", "sample_logits"] {
        assert!(beyond.contains(&format!("`{kernel}`")), "{kernel} is not in:\n{beyond}");
    }
}
