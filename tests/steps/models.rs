//! Checkpoints against Hugging Face transformers' recorded results (expected.json beside each).

use gridpoint_engine::{Engine, EngineOptions, Event, FinishReason, NewRequest, SamplingParameters};
use gridpoint_model::{Shape, Tokenizer, WeightSource};
use gridpoint_plan::{Limits, Policy, plan};
use serde_json::Value;

use super::rig::Folder;
use crate::support::{Case, TestDevice, data};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("models/llama_gqa", |device| random_model(device, "tests/models/llama-gqa", &BFLOAT16)),
        Case::new("models/llama3_rope_scaling", |device| {
            random_model(device, "tests/models/llama3-rope-scaling", &BFLOAT16);
        }),
        Case::new("models/llama_gqa_float16", |device| random_model(device, "tests/models/llama-gqa", &FLOAT16)),
        Case::new("models/random_weights", random_weights),
        Case::new("models/shakespeare_greedy", shakespeare_greedy),
        Case::new("models/shakespeare_perplexity", shakespeare_perplexity),
    ]
}

/// The type of a model's weights, and how far from float32 its results may lie.
struct Rule {
    read: fn(&str) -> Folder,
    /// Times the error that transformers' own bfloat16 forward has.
    times: f64,
    /// What the rounding of the recorded numbers, to five decimal places, may add.
    recorded: f64,
}

/// The usual rule: twice that error.
const BFLOAT16: Rule = Rule { read: Folder::read, times: 2.0, recorded: 0.0 };
/// float16 has three more bits of significand.
const FLOAT16: Rule = Rule { read: Folder::read_as_float16, times: 2.0 / 8.0, recorded: 1e-5 };
/// A greedy step of shakespeare-3m whose two best logits are closer than this may differ in bfloat16.
const SHAKESPEARE_MARGIN: f64 = 0.13;

fn expected(path: &str) -> Value {
    let file = data(path).join("expected.json");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str(&text).expect("expected.json is JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|one| one.as_f64().expect("a number")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|one| one as u32).collect()
}

fn engine(device: &TestDevice, folder: &Folder, max_requests: u32, max_tokens: u32) -> Engine {
    let limits = Limits { max_requests, max_tokens, ..Limits::default() };
    let policy = Policy { token_ceiling: gridpoint_plan::TokenCeiling::new(true, None), ..Policy::default() };
    let plan = plan(&limits, &policy).expect("a plan");
    let options =
        EngineOptions { max_requests, max_tokens, kv_pages: Some(max_requests * 16 + 1), ..EngineOptions::default() };
    Engine::new(device.device(), &folder.config, &folder.weights(), &plan, &options, |_| {}).expect("an engine")
}

/// Weights made on the device follow from their seed: the same tokens from one seed, others from another, and not one token for all.
fn random_weights(device: &TestDevice) {
    let config = Shape::find("tiny").and_then(|shape| shape.config(None).ok()).expect("the shape is there");
    let limits = Limits { max_requests: 2, max_tokens: 16, ..Limits::default() };
    let plan = plan(&limits, &Policy::default()).expect("a plan");
    let options = EngineOptions { max_requests: 2, max_tokens: 16, kv_pages: Some(5), ..EngineOptions::default() };
    let tokens = |seed| {
        let mut engine = Engine::new(device.device(), &config, WeightSource::Random(seed), &plan, &options, |_| {})
            .expect("an engine");
        let id = engine.add(NewRequest::greedy(vec![1, 2, 3], 8)).expect("a request");
        while engine.step().expect("the step runs").is_some() {}
        engine.take(id).expect("a result").tokens
    };
    let first = tokens(0);
    assert_eq!(first.len(), 8);
    assert!(first.iter().any(|token| token != &first[0]), "{first:?}");
    assert_eq!(tokens(0), first);
    assert_ne!(tokens(1), first);
}

/// Fails unless `found` is greedy's answer up to the first step whose margin is below `margin`.
fn assert_greedy(found: &[u32], case: &Value, margin: f64, what: &str) {
    let margins = numbers(&case["greedy_top2_margin"]);
    let greedy = ids(&case["greedy"]);
    let sure = margins.iter().position(|&one| one < margin).unwrap_or(greedy.len());
    for (step, (found, expected)) in found.iter().zip(&greedy).take(sure).enumerate() {
        assert_eq!(found, expected, "{what}: greedy token {step} of {sure} sure ones");
    }
    assert!(found.len() >= sure, "{what}: {} tokens, {sure} are sure", found.len());
}

fn random_model(device: &TestDevice, path: &str, rule: &Rule) {
    let folder = (rule.read)(path);
    let mut engine = engine(device, &folder, 4, 256);
    let expected = expected(path);
    let cases = expected["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 5);
    for case in cases {
        let prompt = ids(&case["prompt"]);
        let what = format!("{path}, prompt of {} tokens", prompt.len());
        let allowed_error = |name: &str| rule.times * case[name].as_f64().expect("a number") + rule.recorded;
        let request = NewRequest { logprobs: true, ..NewRequest::greedy(prompt.clone(), 16) };
        let id = engine.add(request).expect("a request");
        assert!(engine.step().expect("the step runs").is_some());
        // One request alone: its scored rows, then the sampled one.
        let logits = engine.logits(prompt.len() as u32 - 1).expect("logits");
        let last = numbers(&case["last_logits"]);
        assert_eq!(logits.len(), last.len(), "{what}");
        let difference: f64 = logits.iter().zip(&last).map(|(&found, one)| (f64::from(found) - one).powi(2)).sum();
        let size: f64 = last.iter().map(|one| one * one).sum();
        let error = (difference / size).sqrt();
        let allowed = allowed_error("bf16_rel_err_last");
        assert!(error <= allowed, "{what}: relative error {error} of the last logits, {allowed} allowed");

        while engine.step().expect("the step runs").is_some() {}
        let finished = engine.take(id).expect("a result");
        assert_greedy(&finished.tokens, case, allowed_error("bf16_last_logit_max_err"), &what);
        let logprobs = finished.logprobs.expect("they were asked for");
        assert_eq!(logprobs.prompt.len(), prompt.len(), "{what}");
        assert_eq!(logprobs.prompt[0], None, "{what}");
        assert_eq!(logprobs.tokens.len(), finished.tokens.len(), "{what}");
        let recorded = numbers(&case["prompt_logprobs"]);
        let found: Vec<f64> = logprobs.prompt.iter().flatten().map(|&one| f64::from(one)).collect();
        assert_eq!(found.len(), recorded.len(), "{what}");
        let errors: Vec<f64> = found.iter().zip(&recorded).map(|(found, one)| (found - one).abs()).collect();
        let greatest = allowed_error("bf16_prompt_logprob_max_err");
        for (position, error) in errors.iter().enumerate() {
            assert!(
                *error <= greatest,
                "{what}: log-probability of token {}: error {error}, {greatest} allowed",
                position + 1
            );
        }
        let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
        let allowed = allowed_error("bf16_prompt_logprob_mean_err");
        assert!(mean <= allowed, "{what}: mean error {mean} of the log-probabilities, {allowed} allowed");
    }
}

fn shakespeare_greedy(device: &TestDevice) {
    let path = "assets/shakespeare-3m";
    let folder = Folder::read(path);
    let expected = expected(path);
    let cases = expected["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 10);
    let mut engine = engine(device, &folder, 10, 128);
    let requests: Vec<_> = cases
        .iter()
        .map(|case| {
            let stop_tokens = folder.config.eos_token_ids.clone();
            let request = NewRequest { stop_tokens, ..NewRequest::greedy(ids(&case["prompt_ids"]), 64) };
            engine.add(request).expect("a request")
        })
        .collect();
    let mut streamed = 0;
    while let Some(outcome) = engine.step().expect("the step runs") {
        streamed += outcome.events.iter().filter(|event| matches!(event, Event::Token { .. })).count();
    }
    let tokenizer = Tokenizer::load(&data(path), folder.config.vocab_size).expect("a tokenizer").expect("a tokenizer");
    for (request, case) in requests.into_iter().zip(cases) {
        let finished = engine.take(request).expect("a result");
        streamed -= finished.tokens.len();
        assert_ne!(finished.reason, FinishReason::Failed);
        assert_greedy(&finished.tokens, case, SHAKESPEARE_MARGIN, &format!("{}", case["prompt"]));
        assert_eq!(
            tokenizer.encode(case["prompt"].as_str().expect("a text")).expect("tokens"),
            ids(&case["prompt_ids"])
        );
    }
    assert_eq!(streamed, 0, "tokens came as events that no result holds, or the other way round");
    assert_eq!(engine.totals().eager, 0, "every step is a replay");
}

fn shakespeare_perplexity(device: &TestDevice) {
    let path = "assets/shakespeare-3m";
    let folder = Folder::read(path);
    let nll = &expected(path)["nll"];
    let tokenizer = Tokenizer::load(&data(path), folder.config.vocab_size).expect("a tokenizer").expect("a tokenizer");
    let text = std::fs::read_to_string(data(path).join("eval.txt")).expect("the text");
    let tokens = tokenizer.encode(&text).expect("tokens");
    let mut engine = engine(device, &folder, 4, 512);
    let requests: Vec<_> = tokens
        .chunks(nll["window"].as_u64().expect("a number") as usize)
        .map(|window| {
            let request = NewRequest {
                prompt: window.to_vec(),
                max_new_tokens: 0,
                sampling: SamplingParameters::GREEDY,
                logprobs: true,
                stop_tokens: Vec::new(),
            };
            engine.add(request).expect("a request")
        })
        .collect();
    while engine.step().expect("the step runs").is_some() {}
    let logprobs: Vec<f32> = requests
        .into_iter()
        .flat_map(|request| engine.take(request).expect("a result").logprobs.expect("asked for").prompt)
        .flatten()
        .collect();
    assert_eq!(logprobs.len() as u64, nll["tokens"].as_u64().expect("a number"));
    let mean = -logprobs.iter().map(|&one| f64::from(one)).sum::<f64>() / logprobs.len() as f64;
    let reference = nll["mean_nll_f32"].as_f64().expect("a number");
    approx::assert_abs_diff_eq!(mean, reference, epsilon = 0.003);
}
