//! The Llama architecture in float64, written from its definition in Hugging Face transformers and from nothing of ours but the
//! configuration and the checkpoint's bytes.
//!
//! Sources: transformers 5.23, `models/llama/modeling_llama.py` (with `eager_attention_forward`) and `modeling_rope_utils.py`.

use std::f64::consts::TAU;

use gridpoint_model::{ElementType, ModelConfig, RopeConfig, RopeScaling, Weights};
use half::{bf16, f16};
use serde_json::Value;

use super::rig::Folder;
use crate::support::{Case, TestDevice, data};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("reference/llama_gqa", |_: &TestDevice| equals_transformers("tests/models/llama-gqa")),
        Case::new("reference/llama3_rope_scaling", |_: &TestDevice| {
            equals_transformers("tests/models/llama3-rope-scaling");
        }),
    ]
}

/// What happens to the result of every operation of torch that writes a tensor of the model's type.
pub(crate) type Round = fn(f64) -> f64;

/// Float64 throughout.
pub(crate) fn exact(value: f64) -> f64 {
    value
}

/// As a bfloat16 module of torch: the result, taken in float32, to the nearest bfloat16, ties to even.
fn bfloat16(value: f64) -> f64 {
    bf16::from_f32(value as f32).to_f64()
}

/// As a float16 module of torch.
fn float16(value: f64) -> f64 {
    f16::from_f32(value as f32).to_f64()
}

/// `torch.nn.Linear`: `[outputs, inputs]`, with or without bias.
struct Linear {
    weight: Vec<f64>,
    bias: Option<Vec<f64>>,
}

impl Linear {
    fn new(element: ElementType, weight: &[u8], bias: Option<&[u8]>) -> Self {
        Self { weight: values(element, weight), bias: bias.map(|bias| values(element, bias)) }
    }

    /// One rounding, behind the bias.
    fn apply(&self, input: &[f64], round: Round) -> Vec<f64> {
        let rows = self.weight.chunks_exact(input.len()).enumerate();
        let bias = |output: usize| self.bias.as_ref().map_or(0.0, |bias| bias[output]);
        rows.map(|(output, row)| round(dot(row, input) + bias(output))).collect()
    }
}

struct Layer {
    input_norm: Vec<f64>,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: Vec<f64>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A checkpoint in float64.
pub(crate) struct Reference {
    config: ModelConfig,
    element: ElementType,
    embedding: Vec<f64>,
    layers: Vec<Layer>,
    norm: Vec<f64>,
    head: Linear,
}

impl Reference {
    /// Widens every weight, which is exact.
    pub(crate) fn new(config: &ModelConfig, weights: &Weights<'_>) -> Self {
        let (element, weights) = (weights.element(), weights.host());
        let values = |bytes| values(element, bytes);
        let linear = |weight, bias| Linear::new(element, weight, bias);
        let layers = weights.layers.iter().map(|layer| Layer {
            input_norm: values(layer.input_layernorm),
            query: linear(layer.q_proj, layer.biases.map(|biases| biases.q)),
            key: linear(layer.k_proj, layer.biases.map(|biases| biases.k)),
            value: linear(layer.v_proj, layer.biases.map(|biases| biases.v)),
            output: linear(layer.o_proj, layer.biases.map(|biases| biases.o)),
            attention_norm: values(layer.post_attention_layernorm),
            gate: linear(layer.gate_proj, None),
            up: linear(layer.up_proj, None),
            down: linear(layer.down_proj, None),
        });
        Self {
            config: config.clone(),
            element,
            embedding: values(weights.embed_tokens),
            layers: layers.collect(),
            norm: values(weights.norm),
            head: linear(weights.lm_head, None),
        }
    }

    /// [`Self::forward`] as torch computes it in the checkpoint's own type.
    pub(crate) fn forward_rounded(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let round = match self.element {
            ElementType::BFloat16 => bfloat16,
            ElementType::Float16 => float16,
        };
        self.forward(tokens, round)
    }

    /// The logits behind every token of one sequence: `LlamaForCausalLM.forward`.
    pub(crate) fn forward(&self, tokens: &[u32], round: Round) -> Vec<Vec<f64>> {
        let ModelConfig { hidden_size, head_dim, ref rope, .. } = self.config;
        let epsilon = f64::from(self.config.rms_norm_eps);
        let mut stream: Vec<Vec<f64>> = tokens
            .iter()
            .map(|&token| self.embedding[token as usize * hidden_size..][..hidden_size].to_vec())
            .collect();
        let frequencies = inverse_frequencies(rope, head_dim);
        for layer in &self.layers {
            let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
            for (position, row) in stream.iter().enumerate() {
                let normed = rms_norm(row, &layer.input_norm, epsilon, round);
                queries.push(rotate(&layer.query.apply(&normed, round), &frequencies, position, round));
                keys.push(rotate(&layer.key.apply(&normed, round), &frequencies, position, round));
                values.push(layer.value.apply(&normed, round));
            }
            for (position, row) in stream.iter_mut().enumerate() {
                let attended = self.attention(&queries[position], &keys[..=position], &values[..=position], round);
                add(row, &layer.output.apply(&attended, round), round);
                let normed = rms_norm(row, &layer.attention_norm, epsilon, round);
                let gate = layer.gate.apply(&normed, round).into_iter().map(|one| round(one / (1.0 + (-one).exp())));
                let gated: Vec<f64> =
                    gate.zip(layer.up.apply(&normed, round)).map(|(gate, up)| round(gate * up)).collect();
                add(row, &layer.down.apply(&gated, round), round);
            }
        }
        stream.iter().map(|row| self.head.apply(&rms_norm(row, &self.norm, epsilon, round), round)).collect()
    }

    /// `eager_attention_forward` for one token that sees all of `keys`; query head `h` reads key-value head `h / group`.
    fn attention(&self, query: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>], round: Round) -> Vec<f64> {
        let size = self.config.head_dim;
        let group = self.config.num_attention_heads / self.config.num_key_value_heads;
        let scale = 1.0 / (size as f64).sqrt();
        let mut attended = vec![0.0; query.len()];
        for (head, (query, attended)) in query.chunks_exact(size).zip(attended.chunks_exact_mut(size)).enumerate() {
            let columns = head / group * size..(head / group + 1) * size;
            let scores: Vec<f64> =
                keys.iter().map(|key| round(round(dot(query, &key[columns.clone()])) * scale)).collect();
            let normaliser = log_sum_exp(&scores);
            for (score, value) in scores.iter().zip(values) {
                let weight = round((score - normaliser).exp());
                attended.iter_mut().zip(&value[columns.clone()]).for_each(|(sum, value)| *sum += weight * value);
            }
            attended.iter_mut().for_each(|sum| *sum = round(*sum));
        }
        attended
    }
}

/// Elements, little-endian.
fn values(element: ElementType, bytes: &[u8]) -> Vec<f64> {
    let value = match element {
        ElementType::BFloat16 => |pair| bf16::from_le_bytes(pair).to_f64(),
        ElementType::Float16 => |pair| f16::from_le_bytes(pair).to_f64(),
    };
    bytes.as_chunks().0.iter().map(|&pair| value(pair)).collect()
}

/// Eight products at a time: the debug profile takes most of its time here. Rows of a model are multiples of eight.
fn dot(left: &[f64], right: &[f64]) -> f64 {
    let ((left, no_more), (right, none)) = (left.as_chunks::<8>(), right.as_chunks::<8>());
    assert!(
        left.len() == right.len() && no_more.is_empty() && none.is_empty(),
        "rows of one length, a multiple of eight"
    );
    let mut sum = 0.0;
    for (l, r) in left.iter().zip(right) {
        sum += (l[0] * r[0] + l[1] * r[1]) + (l[2] * r[2] + l[3] * r[3]);
        sum += (l[4] * r[4] + l[5] * r[5]) + (l[6] * r[6] + l[7] * r[7]);
    }
    sum
}

fn add(row: &mut [f64], other: &[f64], round: Round) {
    row.iter_mut().zip(other).for_each(|(one, other)| *one = round(*one + other));
}

/// `LlamaRMSNorm`: the normalised row is rounded before the weight multiplies it.
fn rms_norm(row: &[f64], weight: &[f64], epsilon: f64, round: Round) -> Vec<f64> {
    let factor = 1.0 / (dot(row, row) / row.len() as f64 + epsilon).sqrt();
    row.iter().zip(weight).map(|(one, weight)| round(weight * round(one * factor))).collect()
}

/// `apply_rotary_pos_emb`: element `i` of a head's first half turns together with element `i` of its second half.
fn rotate(heads: &[f64], frequencies: &[f64], position: usize, round: Round) -> Vec<f64> {
    let half = frequencies.len();
    let mut rotated = heads.to_vec();
    for (head, rotated) in heads.chunks_exact(2 * half).zip(rotated.chunks_exact_mut(2 * half)) {
        for (i, frequency) in frequencies.iter().enumerate() {
            let angle = position as f64 * frequency;
            let (sine, cosine) = (round(angle.sin()), round(angle.cos()));
            rotated[i] = round(round(head[i] * cosine) + round(-head[half + i] * sine));
            rotated[half + i] = round(round(head[half + i] * cosine) + round(head[i] * sine));
        }
    }
    rotated
}

/// `ROPE_INIT_FUNCTIONS`: `default`, `linear`, `llama3`.
fn inverse_frequencies(rope: &RopeConfig, head_dim: usize) -> Vec<f64> {
    let default = (0..head_dim).step_by(2).map(|i| 1.0 / rope.theta.powf(i as f64 / head_dim as f64));
    let scaled = |frequency: f64| match rope.scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_positions } => {
            let wavelength = TAU / frequency;
            if wavelength > original_positions / low_frequency_factor {
                frequency / factor
            } else if wavelength < original_positions / high_frequency_factor {
                frequency
            } else {
                let smooth = (original_positions / wavelength - low_frequency_factor)
                    / (high_frequency_factor - low_frequency_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    };
    default.map(scaled).collect()
}

/// The logarithm of the sum of exponentials; NaN where any is.
fn log_sum_exp(logits: &[f64]) -> f64 {
    let greatest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    greatest + logits.iter().map(|logit| (logit - greatest).exp()).sum::<f64>().ln()
}

/// Logits as log-probabilities.
pub(crate) fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let normaliser = log_sum_exp(logits);
    logits.iter().map(|logit| logit - normaliser).collect()
}

/// The 2-norm of `found - expected` over that of `expected`; NaN where any value is.
pub(crate) fn relative_error(found: &[Vec<f64>], expected: &[Vec<f64>]) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        difference += (found - expected) * (found - expected);
        size += expected * expected;
    }
    (difference / size).sqrt()
}

/// transformers' own float32 forward differs from float64 by this much at most, relative to the logits.
const FLOAT32_ERROR: f64 = 1e-5;
/// The recorded errors of transformers' bfloat16 forward are ours within this factor: the order of its sums is not ours.
const BFLOAT16_LIKENESS: f64 = 1.5;

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|one| one.as_f64().expect("a number")).collect()
}

/// The float64 forward is transformers' float32 forward, and the rounded one is as wrong as its bfloat16 forward.
fn equals_transformers(path: &str) {
    let folder = Folder::read(path);
    let reference = Reference::new(&folder.config, &folder.weights());
    let text = std::fs::read_to_string(data(path).join("expected.json")).expect("expected.json is there");
    let recorded: Value = serde_json::from_str(&text).expect("expected.json is JSON");
    for case in recorded["cases"].as_array().expect("cases") {
        let prompt: Vec<u32> = numbers(&case["prompt"]).into_iter().map(|id| id as u32).collect();
        let what = format!("{path}, prompt of {} tokens", prompt.len());
        let logits = reference.forward(&prompt, exact);
        let last = numbers(&case["last_logits"]);
        assert_eq!((logits.len(), logits[0].len()), (prompt.len(), last.len()), "{what}");
        let error = relative_error(&logits[prompt.len() - 1..], &[last]);
        assert!(error <= FLOAT32_ERROR, "{what}: relative error {error} of the last logits, {FLOAT32_ERROR} allowed");
        let recorded = numbers(&case["prompt_logprobs"]);
        assert_eq!(recorded.len(), prompt.len() - 1, "{what}");
        for (position, (recorded, &token)) in recorded.iter().zip(&prompt[1..]).enumerate() {
            let found = log_softmax(&logits[position])[token as usize];
            let error = (found - recorded).abs();
            assert!(error <= 1e-3, "{what}: log-probability of token {}: {found}, {recorded} recorded", position + 1);
        }
        let rounded = reference.forward_rounded(&prompt);
        let error = relative_error(&rounded, &logits);
        let ratio = error / case["bf16_rel_err_all"].as_f64().expect("a number");
        assert!(
            (BFLOAT16_LIKENESS.recip()..=BFLOAT16_LIKENESS).contains(&ratio),
            "{what}: the rounded forward's error {error} is {ratio} times that of transformers' bfloat16 forward"
        );
    }
}
