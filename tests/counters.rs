//! Budgets: what the kernels of whole steps do, counted on the simulated device, is at most what their shapes need.
//!
//! | what | budget |
//! |---|---|
//! | different bytes read, and written | 1.05 times the least |
//! | bytes asked for | what the tiling needs, exactly as gcc compiles it; another compiler may read a few words of the step block again |
//! | multiplications | 1.10 times those of the tiling, and where rows, keys and depth fill their tiles 1.10 times the shape's |
//! | bank conflicts of ldmatrix, stmatrix and cp.async | none |
//! | blocks without work | none but those of attention, whose grid fills the device whatever the step |
//!
//! What the tiling rounds up to: products whole parts of warps (16, 32 or 64 rows) and stages of 64 values of k, attention 16 query rows and
//! groups of 16 keys, whose scores are two multiplications wide: attention's second budget holds where limits fill their groups.

#[path = "counters/padding.rs"]
mod padding;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use gridpoint::counted::{CountError, CountedKernel, CountedLaunch, CountedShape, CountedStep, count_step};
use gridpoint::devices::{self, Choice};
use gridpoint_model::{Checkpoint, ModelConfig, Weights};
use gridpoint_plan::{GridPoint, StepShape};
use gridpoint_runtime::Device;
use gridpoint_simulator::counters::Counts;
use serde_json::json;
use tempfile::TempDir;

const SHAKESPEARE: &str = "assets/shakespeare-3m";
const GQA: &str = "tests/models/llama-gqa";
const ONE_KV_HEAD: &str = "tests/models/llama3-rope-scaling";

const DISTINCT: f64 = 1.05;
/// For compilers that read a word again.
const ASKED: f64 = 1.01;
const MULTIPLIES: f64 = 1.10;
/// A warp of the product of few rows computes as many units as its neighbours, and drops those that it does not have.
const DROPPED: f64 = 2.0;
/// How far below a need a count may stay.
const SLACK: f64 = 0.99;

/// Counts are those of the process.
static DEVICE: LazyLock<Mutex<Arc<Device>>> =
    LazyLock::new(|| Mutex::new(devices::open_counted(Choice::Simulator).expect("the simulated device")));

fn count(model: &str, shape: &CountedShape) -> Result<CountedStep, CountError> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(model);
    let config = ModelConfig::load(&folder).expect("the configuration is good");
    let checkpoint = Checkpoint::open(&folder).expect("the weights are there");
    let weights = Weights::new(&config, &checkpoint).expect("the weights are those of the configuration");
    let device = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    device.make_current().expect("the device works");
    count_step(&device, &config, &weights, shape)
}

/// A step of `t:p:d` at the point `T:P:D`.
fn shape(point: [u32; 3], [tokens, prefills, decodes]: [u32; 3], context: u32) -> CountedShape {
    let [t, p, d] = point;
    let point = GridPoint { tokens: t, prefills: p, decodes: d };
    CountedShape { point, real: StepShape { tokens, prefills, decodes }, context }
}

/// Whether rows, keys and depth fill their tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    Nothing,
    Products,
    ProductsAndAttention,
}

/// Fails with the first kernel beyond its budget.
fn check(kernels: &[CountedKernel], fill: Fill) -> Result<(), String> {
    for kernel in kernels {
        let CountedKernel { kernel: name, counts, read, written, multiplies, .. } = kernel;
        let within = |what: &str, found: u64, times: f64, of: u64| match found as f64 <= times * of as f64 {
            true => Ok(()),
            false => Err(format!("`{name}`: {found} {what}, at most {times} x {of}")),
        };
        within("different bytes read", counts.read.distinct, DISTINCT, read.least)?;
        within("different bytes written", counts.written.distinct, DISTINCT, written.least)?;
        within("bytes read", counts.read.total, ASKED, read.tiled)?;
        within("bytes written", counts.written.total, ASKED, written.tiled)?;
        within("multiplications", counts.multiplies.m16n8k16(), MULTIPLIES, multiplies.tiled)?;
        let attention = name.starts_with("attention");
        if fill == Fill::ProductsAndAttention || fill == Fill::Products && !attention {
            let times = if name.starts_with("skinny") { DROPPED } else { MULTIPLIES };
            within("multiplications", counts.multiplies.m16n8k16(), times, multiplies.least)?;
        }
        within("bank conflicts", counts.matrices.conflicts + counts.vectors.conflicts, 1.0, 0)?;
        if fill != Fill::Nothing && !attention {
            within("blocks without work", counts.idle_blocks, 1.0, 0)?;
        }
        // What is counted is all there is, and no budget is wider than it looks.
        let reaches = |what: &str, found: u64, of: u64| match found as f64 >= SLACK * of as f64 {
            true => Ok(()),
            false => Err(format!("`{name}`: {found} {what}, at least {SLACK} x {of}")),
        };
        reaches("different bytes read", counts.read.distinct, read.least)?;
        reaches("different bytes written", counts.written.distinct, written.least)?;
        reaches("bytes read", counts.read.total, read.tiled)?;
        reaches("bytes written", counts.written.total, written.tiled)?;
        reaches("multiplications", counts.multiplies.m16n8k16(), multiplies.tiled)?;
    }
    Ok(())
}

fn within_budget(model: &str, shape: CountedShape, fill: Fill) {
    let step = count(model, &shape).unwrap_or_else(|error| panic!("{model}, {shape:?}: {error}"));
    check(&step.kernels(), fill).unwrap_or_else(|words| panic!("{model}, {shape:?}: {words}"));
    let sum = |of: fn(&CountedLaunch) -> u64| step.launches.iter().map(of).sum::<u64>();
    let graph = &step.graph.counts;
    assert_eq!(step.graph.launches as usize, step.launches.len());
    assert_eq!(graph.read.total, sum(|launch| launch.counts.counts.read.total));
    assert!(graph.read.distinct < sum(|launch| launch.counts.counts.read.distinct), "launches share bytes");
}

#[test]
fn decodes_that_fill_their_tiles() {
    // 127 tokens and the new one are two pages.
    within_budget(SHAKESPEARE, shape([16, 0, 16], [16, 0, 16], 127), Fill::ProductsAndAttention);
    within_budget(GQA, shape([64, 0, 64], [64, 0, 64], 63), Fill::ProductsAndAttention);
    within_budget(ONE_KV_HEAD, shape([32, 0, 32], [32, 0, 32], 63), Fill::ProductsAndAttention);
}

#[test]
fn decodes_of_several_chunks() {
    within_budget(GQA, shape([4, 0, 4], [4, 0, 4], 1023), Fill::ProductsAndAttention);
    within_budget(GQA, shape([4, 0, 4], [3, 0, 3], 1100), Fill::Nothing);
}

#[test]
fn prefills_that_fill_their_tiles() {
    within_budget(SHAKESPEARE, shape([128, 2, 0], [128, 2, 0], 0), Fill::Products);
    within_budget(GQA, shape([128, 1, 0], [128, 1, 0], 0), Fill::Products);
}

#[test]
fn mixed_steps_that_fill_their_tiles() {
    within_budget(SHAKESPEARE, shape([64, 2, 16], [64, 2, 16], 100), Fill::Products);
    within_budget(GQA, shape([128, 3, 16], [128, 3, 16], 600), Fill::Products);
}

#[test]
fn padded_points() {
    within_budget(SHAKESPEARE, shape([16, 0, 16], [5, 0, 5], 100), Fill::Nothing);
    within_budget(SHAKESPEARE, shape([128, 4, 16], [21, 2, 13], 100), Fill::Nothing);
    within_budget(SHAKESPEARE, shape([256, 2, 14], [130, 1, 9], 40), Fill::Nothing);
    within_budget(GQA, shape([256, 8, 8], [77, 3, 1], 700), Fill::Nothing);
    within_budget(ONE_KV_HEAD, shape([64, 1, 33], [35, 1, 1], 5), Fill::Nothing);
}

/// A model of zeros whose sizes fill no tile: wide rows, heads of `head_dim`, biases, an odd vocabulary.
fn odd_model(head_dim: usize) -> TempDir {
    let (hidden, intermediate, vocabulary, layers, heads) = (1288, 200, 259, 1, 3);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": intermediate, "vocab_size": vocabulary, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": head_dim, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": true, "attention_bias": true,
    });
    let mut shapes =
        vec![("model.embed_tokens".to_owned(), vec![vocabulary, hidden]), ("model.norm".to_owned(), vec![hidden])];
    for layer in 0..layers {
        let mut add =
            |name: &str, shape: &[usize]| shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        add("input_layernorm", &[hidden]);
        add("post_attention_layernorm", &[hidden]);
        for (name, rows) in [("q", heads * head_dim), ("k", head_dim), ("v", head_dim)] {
            add(&format!("self_attn.{name}_proj"), &[rows, hidden]);
        }
        add("self_attn.o_proj", &[hidden, heads * head_dim]);
        add("mlp.gate_proj", &[intermediate, hidden]);
        add("mlp.up_proj", &[intermediate, hidden]);
        add("mlp.down_proj", &[hidden, intermediate]);
    }
    // Weights, and biases of attention's projections (safetensors: the header's length, the header, the tensors).
    let (mut header, mut bytes) = (serde_json::Map::new(), 0);
    let mut tensor = |name: String, shape: &[usize]| {
        let end = bytes + 2 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [bytes, end]}));
        bytes = end;
    };
    for (name, shape) in &shapes {
        tensor(format!("{name}.weight"), shape);
        if name.contains("self_attn") {
            tensor(format!("{name}.bias"), &shape[..1]);
        }
    }
    let mut header = serde_json::Value::from(header).to_string();
    // Tensors begin at a multiple of eight.
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; bytes]].concat();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("model.safetensors"), file).expect("written");
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    folder
}

#[test]
fn sizes_that_fill_no_tile() {
    for head_dim in [96, 256] {
        let folder = odd_model(head_dim);
        let model = folder.path().to_str().expect("UTF-8");
        within_budget(model, shape([24, 2, 4], [24, 2, 4], 600), Fill::Nothing);
    }
    let folder = odd_model(128);
    let model = folder.path().to_str().expect("UTF-8");
    within_budget(model, shape([24, 2, 4], [24, 2, 4], 600), Fill::Nothing);
    within_budget(model, shape([200, 1, 1], [131, 1, 0], 0), Fill::Nothing);
    within_budget(model, shape([8, 0, 8], [3, 0, 3], 1), Fill::Nothing);
}

#[test]
fn counts_do_not_depend_on_the_schedule() {
    let shape = shape([32, 2, 6], [29, 2, 5], 530);
    let counted = |seed| {
        gridpoint_simulator::reseed(seed);
        let mut step = count(GQA, &shape).unwrap_or_else(|error| panic!("{error}"));
        // Attention on Hopper asks whether a stage is empty before it waits for it.
        let polled = |counts: &mut Counts| counts.barriers.mbarrier_waits = 0;
        step.launches.iter_mut().for_each(|launch| polled(&mut launch.counts.counts));
        polled(&mut step.graph.counts);
        let launches: Vec<_> = step.launches.into_iter().map(|launch| launch.counts).collect();
        (launches, step.graph)
    };
    let (first, graph) = counted(None);
    for seed in [Some(1), Some(2), None] {
        let (launches, again) = counted(seed);
        for (found, expected) in launches.iter().zip(&first) {
            assert_eq!(found, expected, "seed {seed:?}");
        }
        assert_eq!((launches.len(), again), (first.len(), graph.clone()), "seed {seed:?}");
    }
    gridpoint_simulator::reseed(None);
}

#[test]
fn a_budget_is_one() {
    let step = count(GQA, &shape([16, 0, 16], [16, 0, 16], 63)).expect("a step");
    let spoiled = |spoil: fn(&mut CountedKernel)| {
        let mut kernels = step.kernels();
        kernels.iter_mut().filter(|kernel| kernel.kernel.starts_with("attention")).for_each(spoil);
        check(&kernels, Fill::ProductsAndAttention)
    };
    assert_eq!(spoiled(|_| {}), Ok(()));
    let fails = |spoil: fn(&mut CountedKernel), what: &str| {
        let words = spoiled(spoil).expect_err(what);
        assert!(words.starts_with("`attention_hopper_d64`: ") && words.contains(what), "{words}");
    };
    fails(|kernel| kernel.counts.read.distinct += kernel.read.least / 10, "different bytes read");
    fails(|kernel| kernel.counts.written.distinct += kernel.written.least / 10, "different bytes written");
    fails(|kernel| kernel.counts.read.total += kernel.read.tiled / 50, "bytes read");
    fails(|kernel| kernel.counts.written.total += kernel.written.tiled / 50, "bytes written");
    fails(|kernel| kernel.counts.multiplies.bf16 += kernel.multiplies.least / 5, "multiplications");
    fails(|kernel| kernel.counts.vectors.conflicts += 1, "bank conflicts");
}

#[test]
fn steps_that_cannot_be_are_refused() {
    let refused = |point, real, context| count(GQA, &shape(point, real, context)).expect_err("refused").to_string();
    assert_eq!(
        refused([8, 1, 4], [9, 1, 4], 0),
        "a step of `9:1:4` does not fit the point [8]: 1 P + 4 D: each count must be at most the point's"
    );
    assert!(refused([8, 1, 4], [4, 1, 4], 0).starts_with("a step of `4:1:4` cannot be: "));
    assert!(refused([8, 0, 4], [5, 0, 4], 0).starts_with("a step of `5:0:4` cannot be: "));
    assert!(refused([0, 0, 0], [0, 0, 0], 0).starts_with("a step of `0:0:0` cannot be: "));
    assert!(refused([1, 0, 1], [1, 0, 1], 1 << 20).starts_with("a sequence of `1048577` tokens: it must be at most"));
}
