//! Random checkpoints of odd shapes, run by the engine and by the float64 reference.
//!
//! One request runs alone, so every position's raw logits can be read. Tolerances are the usual rule: twice the error of the
//! same forward with torch's rounding to bfloat16, or float16. Every comparison is written so that NaN fails it.

use gridpoint_engine::{Engine, EngineOptions, FinishReason, NewRequest};
use gridpoint_model::ElementType;
use gridpoint_plan::{Limits, Policy, TokenCeiling, plan};
use half::{bf16, f16};
use serde_json::{Value, json};

use super::reference::{Reference, exact, log_softmax, relative_error};
use super::rig::{Folder, Tensor};
use crate::support::random::Random;
use crate::support::{Case, TestDevice};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("shapes/three_heads_on_one", three_heads_on_one),
        Case::new("shapes/head_of_128", head_of_128),
        Case::new("shapes/heads_of_96_and_256", heads_of_96_and_256),
        Case::new("shapes/group_of_16", group_of_16),
        Case::new("shapes/group_of_5", group_of_5),
        Case::new("shapes/attention_bias", attention_bias),
        Case::new("shapes/linear_rope", linear_rope),
        Case::new("shapes/narrow_across_a_chunk", narrow_across_a_chunk),
        Case::new("shapes/head_of_128_across_a_chunk", head_of_128_across_a_chunk),
        Case::new("shapes/group_of_16_across_a_chunk", group_of_16_across_a_chunk),
        Case::new(FLOAT16_WITH_BIAS, float16_with_bias),
        Case::new("shapes/float16_head_of_128_across_a_chunk", float16_head_of_128_across_a_chunk),
    ]
}

/// A step on float16 from end to end.
pub(crate) const FLOAT16_WITH_BIAS: &str = "shapes/float16_with_bias";

/// The usual rule.
const TIMES_ROUNDED: f64 = 2.0;
/// What float32 may cost beside that, relative to the logits.
const FLOAT32_ERROR: f64 = 1e-5;
/// A log-probability is that of the float32 logits beside it within this much.
const LOG_PROBABILITY_ERROR: f64 = 1e-5;
/// The longest sequence of every case.
const SEQUENCE: u32 = 1024;

/// A checkpoint that is not there yet.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) element: ElementType,
    pub(crate) seed: u64,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) vocabulary: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) tied: bool,
    pub(crate) bias: bool,
    pub(crate) rope: Value,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            element: ElementType::BFloat16,
            seed: 1,
            hidden: 128,
            intermediate: 256,
            vocabulary: 259,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 64,
            tied: false,
            bias: false,
            rope: json!({ "rope_type": "default", "rope_theta": 10000.0 }),
        }
    }
}

/// The tensors of a checkpoint while they are made.
struct Tensors {
    element: ElementType,
    random: Random,
    made: Vec<Tensor>,
}

impl Tensors {
    /// Normal around `mean`.
    fn add(&mut self, name: String, shape: &[usize], mean: f64, deviation: f64) {
        let count: usize = shape.iter().product();
        let element = match self.element {
            ElementType::BFloat16 => |value| bf16::from_f64(value).to_le_bytes(),
            ElementType::Float16 => |value| f16::from_f64(value).to_le_bytes(),
        };
        let bytes = (0..count).flat_map(|_| element(mean + deviation * self.random.normal())).collect();
        self.made.push((name, shape.to_vec(), bytes));
    }

    /// A projection that makes of inputs of order 1 outputs of order `gain`, and its bias where it has one.
    fn add_projection(&mut self, name: &str, shape: [usize; 2], gain: f64, bias: bool) {
        self.add(format!("{name}.weight"), &shape, 0.0, gain / (shape[1] as f64).sqrt());
        if bias {
            self.add(format!("{name}.bias"), &shape[..1], 0.0, 0.5);
        }
    }
}

impl Shape {
    fn dtype(&self) -> &'static str {
        match self.element {
            ElementType::BFloat16 => "bfloat16",
            ElementType::Float16 => "float16",
        }
    }

    fn config(&self) -> Value {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": self.dtype(), "hidden_act": "silu",
            "hidden_size": self.hidden, "intermediate_size": self.intermediate, "vocab_size": self.vocabulary,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": SEQUENCE, "rms_norm_eps": 1e-5, "rope_parameters": self.rope,
            "tie_word_embeddings": self.tied, "attention_bias": self.bias,
        });
        if self.hidden != self.heads * self.head_dim {
            config["head_dim"] = self.head_dim.into();
        }
        config
    }

    /// Activations of order 1, attention that prefers some tokens clearly, logits that do.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let Self { hidden, intermediate, vocabulary, head_dim, bias, .. } = *self;
        let (query, kv) = (self.heads * head_dim, self.kv_heads * head_dim);
        let mut tensors = Tensors { element: self.element, random: Random(self.seed), made: Vec::new() };
        // A tied embedding is the head as well.
        let embedding = if self.tied { 2.0 / (hidden as f64).sqrt() } else { 1.0 };
        tensors.add("model.embed_tokens.weight".into(), &[vocabulary, hidden], 0.0, embedding);
        for layer in 0..self.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            tensors.add(name("input_layernorm.weight"), &[hidden], 1.0, 0.1);
            tensors.add_projection(&name("self_attn.q_proj"), [query, hidden], 1.5, bias);
            tensors.add_projection(&name("self_attn.k_proj"), [kv, hidden], 1.5, bias);
            tensors.add_projection(&name("self_attn.v_proj"), [kv, hidden], 1.0, bias);
            tensors.add_projection(&name("self_attn.o_proj"), [hidden, query], 2.0, bias);
            tensors.add(name("post_attention_layernorm.weight"), &[hidden], 1.0, 0.1);
            tensors.add_projection(&name("mlp.gate_proj"), [intermediate, hidden], 1.0, false);
            tensors.add_projection(&name("mlp.up_proj"), [intermediate, hidden], 1.0, false);
            tensors.add_projection(&name("mlp.down_proj"), [hidden, intermediate], 2.0, false);
        }
        tensors.add("model.norm.weight".into(), &[hidden], 1.0, 0.1);
        if !self.tied {
            tensors.add_projection("lm_head", [vocabulary, hidden], 2.0, false);
        }
        tensors.made
    }

    /// Writes the checkpoint as a folder of Hugging Face, and reads it as any other.
    pub(crate) fn folder(&self) -> Folder {
        let folder = Folder::made(&self.config(), self.element, &self.tensors());
        assert_eq!((folder.config.head_dim, folder.config.group_size()), (self.head_dim, self.heads / self.kv_heads));
        folder
    }
}

/// The smallest model, for cases that run many steps.
pub(crate) fn smallest() -> Folder {
    Shape { seed: 14, hidden: 72, intermediate: 88, vocabulary: 67, layers: 1, ..Shape::default() }.folder()
}

/// What the engine answered to one request alone.
struct Answer {
    /// Raw logits behind every token that was computed, prompt first: `[prompt + new - 1][vocabulary]`.
    logits: Vec<Vec<f32>>,
    tokens: Vec<u32>,
    /// Of every token behind the first of the prompt.
    log_probabilities: Vec<f32>,
}

/// An engine for one request whose steps have `max_tokens` tokens at most.
fn engine(device: &TestDevice, folder: &Folder, max_tokens: u32) -> Engine {
    let limits = Limits { max_requests: 1, max_tokens, ..Limits::default() };
    let policy = Policy { token_ceiling: TokenCeiling::new(true, None), ..Policy::default() };
    let plan = plan(&limits, &policy).expect("a plan");
    let options = EngineOptions { max_requests: 1, max_tokens, kv_pages: None, ..EngineOptions::default() };
    Engine::new(device.device(), &folder.config, &folder.weights(), &plan, &options, |_| {}).expect("an engine")
}

fn run(engine: &mut Engine, prompt: &[u32], new_tokens: u32, what: &str) -> Answer {
    let request = NewRequest { logprobs: true, ..NewRequest::greedy(prompt.to_vec(), new_tokens) };
    let id = engine.add(request).expect("a request");
    let mut logits = Vec::new();
    while let Some(outcome) = engine.step().expect("the step runs") {
        // Every token of a scored prompt has a logit row.
        logits.extend((0..outcome.report.shape.tokens).map(|row| engine.logits(row).expect("logits")));
    }
    let finished = engine.take(id).expect("a result");
    assert_eq!((finished.reason, finished.tokens.len()), (FinishReason::Length, new_tokens as usize), "{what}");
    let of_tokens = finished.logprobs.expect("they were asked for");
    assert_eq!(of_tokens.prompt[0], None, "{what}: nothing predicts the first token");
    let log_probabilities = of_tokens.prompt[1..].iter().map(|one| one.expect("every prompt token is scored"));
    let log_probabilities: Vec<f32> = log_probabilities.chain(of_tokens.tokens).collect();
    assert_eq!(log_probabilities.len(), prompt.len() - 1 + new_tokens as usize, "{what}");
    assert_eq!(logits.len(), log_probabilities.len(), "{what}: one row of logits for each");
    Answer { logits, tokens: finished.tokens, log_probabilities }
}

/// Fails with the first coordinate whose bits differ.
fn assert_same_bits(found: &Answer, expected: &Answer, what: &str) {
    for (position, (found, expected)) in found.logits.iter().zip(&expected.logits).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (token, (one, other)) in found.iter().zip(expected).enumerate() {
            assert_eq!(one.to_bits(), other.to_bits(), "{what}: position {position}, logit {token}: {one}, {other}");
        }
    }
    assert_eq!(found.logits.len(), expected.logits.len(), "{what}");
    assert_eq!(found.tokens, expected.tokens, "{what}: tokens");
    for (position, (one, other)) in found.log_probabilities.iter().zip(&expected.log_probabilities).enumerate() {
        assert_eq!(one.to_bits(), other.to_bits(), "{what}: log-probability {position}: {one}, {other}");
    }
}

/// The greatest difference between two forwards of the reference; fails where one is not finite.
fn greatest_difference(found: &[Vec<f64>], expected: &[Vec<f64>]) -> f64 {
    let pairs = found.iter().flatten().zip(expected.iter().flatten());
    pairs.map(|(found, expected)| (found - expected).abs()).fold(0.0, |greatest, one| {
        assert!(one.is_finite(), "the reference is finite");
        if one > greatest { one } else { greatest }
    })
}

/// The id of the greatest logit, the smallest of equal ones.
fn argmax(logits: impl Iterator<Item = f64>) -> usize {
    let greatest = logits.enumerate().fold((0, f64::NEG_INFINITY), |best, one| if one.1 > best.1 { one } else { best });
    greatest.0
}

/// Logits, log-probabilities and tokens against float64, fed with the engine's own tokens. Gives how many of the tokens had to be
/// what they are: those whose logit leads by more than the tolerance can take.
fn assert_correct(answer: &Answer, reference: &Reference, prompt: &[u32], what: &str) -> usize {
    let sequence: Vec<u32> = prompt.iter().chain(&answer.tokens).copied().collect();
    let fed = &sequence[..sequence.len() - 1];
    let (expected, rounded) = (reference.forward(fed, exact), reference.forward_rounded(fed));
    let found: Vec<Vec<f64>> = answer.logits.iter().map(|row| row.iter().copied().map(f64::from).collect()).collect();
    assert_eq!(found.len(), expected.len(), "{what}: positions");

    let allowed = TIMES_ROUNDED * greatest_difference(&rounded, &expected);
    for (position, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what}: position {position}");
        for (token, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (found - expected).abs();
            assert!(
                error <= allowed,
                "{what}: position {position}, logit {token}: {found}, {expected} in float64, {allowed} allowed"
            );
        }
    }
    let rounded_error = relative_error(&rounded, &expected);
    for position in 0..expected.len() {
        let of_row = |rows: &[Vec<f64>]| relative_error(&rows[position..=position], &expected[position..=position]);
        let (error, allowed) = (of_row(&found), TIMES_ROUNDED * of_row(&rounded).max(rounded_error) + FLOAT32_ERROR);
        assert!(
            error <= allowed,
            "{what}: position {position}: relative error {error} of its logits, {allowed} allowed"
        );
    }
    let (error, allowed_error) = (relative_error(&found, &expected), TIMES_ROUNDED * rounded_error + FLOAT32_ERROR);
    assert!(error <= allowed_error, "{what}: relative error {error} of all logits, {allowed_error} allowed");

    let of_logits = |rows: &[Vec<f64>]| rows.iter().map(|row| log_softmax(row)).collect::<Vec<_>>();
    let (own, expected_logs) = (of_logits(&found), of_logits(&expected));
    let allowed_log = TIMES_ROUNDED * greatest_difference(&of_logits(&rounded), &expected_logs);
    for (position, (&one, &token)) in answer.log_probabilities.iter().zip(&sequence[1..]).enumerate() {
        let (one, token) = (f64::from(one), token as usize);
        let place = position + 1;
        let (own, expected) = (own[position][token], expected_logs[position][token]);
        assert!(
            (one - own).abs() <= LOG_PROBABILITY_ERROR * (1.0 + own.abs()),
            "{what}: log-probability of token {place}: {one}, {own} by its own logits"
        );
        assert!(
            (one - expected).abs() <= allowed_log,
            "{what}: log-probability of token {place}: {one}, {expected} in float64, {allowed_log} allowed"
        );
    }

    let mut sure = 0;
    for (step, &token) in answer.tokens.iter().enumerate() {
        let (found, expected) = (&found[prompt.len() - 1 + step], &expected[prompt.len() - 1 + step]);
        assert_eq!(token as usize, argmax(found.iter().copied()), "{what}: greedy token {step} by its own logits");
        let best = argmax(expected.iter().copied());
        let others = expected.iter().enumerate().filter(|&(other, _)| other != best);
        let margin = others.map(|(_, other)| expected[best] - other).fold(f64::INFINITY, f64::min);
        if margin > 2.0 * allowed {
            sure += 1;
            assert_eq!(token as usize, best, "{what}: greedy token {step}, which leads by {margin} in float64");
        }
    }
    sure
}

/// Runs prompts of `lengths` tokens and `new_tokens` steps behind each, whole and in chunks of at most `chunk` tokens.
fn check(device: &TestDevice, shape: &Shape, lengths: &[usize], new_tokens: u32, chunk: u32) {
    let folder = shape.folder();
    let reference = Reference::new(&folder.config, &folder.weights());
    let longest = lengths.iter().copied().max().expect("a prompt") as u32;
    let (mut whole, mut chunked) = (engine(device, &folder, longest), engine(device, &folder, chunk));
    let mut sure = 0;
    for &length in lengths {
        let what = format!("{shape:?}, prompt of {length} tokens");
        let mut random = Random(shape.seed << 32 | length as u64);
        let prompt: Vec<u32> = (0..length).map(|_| (random.bits() % shape.vocabulary as u64) as u32).collect();
        let answer = run(&mut whole, &prompt, new_tokens, &what);
        sure += assert_correct(&answer, &reference, &prompt, &what);
        let again = run(&mut chunked, &prompt, new_tokens, &what);
        assert_same_bits(&again, &answer, &format!("{what}, in chunks of {chunk}"));
    }
    assert!(sure > 0, "{shape:?}: no greedy token is sure");
    // The prompts were whole in one engine and in pieces in the other.
    let steps = |pieces: usize| (pieces + lengths.len() * (new_tokens as usize - 1)) as u64;
    assert_eq!(whole.totals().total, steps(lengths.len()), "{shape:?}");
    let pieces = lengths.iter().map(|&length| length.div_ceil(chunk as usize)).sum();
    assert_eq!(chunked.totals().total, steps(pieces), "{shape:?}");
    assert_eq!((whole.totals().eager, chunked.totals().eager), (0, 0), "{shape:?}: every step is a replay");
}

fn three_heads_on_one(device: &TestDevice) {
    let shape = Shape { seed: 1, hidden: 192, intermediate: 344, vocabulary: 1003, heads: 3, ..Shape::default() };
    check(device, &shape, &[1, 2, 63, 64, 65], 3, 24);
}

fn head_of_128(device: &TestDevice) {
    let shape =
        Shape { seed: 2, hidden: 256, head_dim: 128, heads: 4, kv_heads: 2, layers: 1, tied: true, ..Shape::default() };
    check(device, &shape, &[1, 63, 65, 200], 3, 33);
}

fn heads_of_96_and_256(device: &TestDevice) {
    let narrow = Shape { hidden: 72, intermediate: 88, vocabulary: 67, layers: 1, ..Shape::default() };
    check(device, &Shape { seed: 10, head_dim: 96, heads: 3, ..narrow.clone() }, &[1, 65], 3, 33);
    check(device, &Shape { seed: 11, head_dim: 256, ..narrow }, &[2, 66], 3, 40);
}

fn group_of_16(device: &TestDevice) {
    let shape = Shape { seed: 3, heads: 16, ..Shape::default() };
    check(device, &shape, &[2, 64, 65], 3, 7);
}

fn group_of_5(device: &TestDevice) {
    let shape = Shape { seed: 4, hidden: 320, heads: 10, kv_heads: 2, layers: 1, tied: true, ..Shape::default() };
    check(device, &shape, &[1, 2, 63, 65], 3, 17);
}

fn attention_bias(device: &TestDevice) {
    let shape = Shape { seed: 5, heads: 4, kv_heads: 2, bias: true, ..Shape::default() };
    check(device, &shape, &[1, 64, 65, 200], 3, 48);
}

fn linear_rope(device: &TestDevice) {
    let rope = json!({ "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0 });
    let shape = Shape { seed: 6, rope, ..Shape::default() };
    check(device, &shape, &[2, 63, 200], 3, 65);
}

/// The prompts end before and behind the boundary of attention's chunks of 512 keys; one crosses it while it decodes.
fn narrow_across_a_chunk(device: &TestDevice) {
    let shape = Shape { seed: 7, hidden: 72, intermediate: 104, vocabulary: 131, ..Shape::default() };
    check(device, &shape, &[1, 65, 510, 530], 4, 100);
}

fn head_of_128_across_a_chunk(device: &TestDevice) {
    let shape = Shape {
        seed: 8,
        hidden: 136,
        intermediate: 88,
        vocabulary: 67,
        head_dim: 128,
        layers: 1,
        tied: true,
        ..Shape::default()
    };
    check(device, &shape, &[2, 577], 4, 129);
}

fn group_of_16_across_a_chunk(device: &TestDevice) {
    let shape =
        Shape { seed: 9, hidden: 72, intermediate: 88, vocabulary: 67, heads: 16, layers: 1, ..Shape::default() };
    check(device, &shape, &[521], 4, 150);
}

fn float16_with_bias(device: &TestDevice) {
    let element = ElementType::Float16;
    let shape = Shape { element, seed: 12, heads: 4, kv_heads: 2, layers: 1, bias: true, ..Shape::default() };
    check(device, &shape, &[1, 65], 3, 48);
}

fn float16_head_of_128_across_a_chunk(device: &TestDevice) {
    let shape = Shape {
        element: ElementType::Float16,
        seed: 13,
        hidden: 136,
        intermediate: 88,
        vocabulary: 67,
        head_dim: 128,
        layers: 1,
        tied: true,
        ..Shape::default()
    };
    check(device, &shape, &[515], 3, 129);
}
