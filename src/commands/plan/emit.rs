//! A plan in the words of other engines, and what those have no words for.

mod megatron;

use std::collections::BTreeSet;

use clap::ValueEnum;
use gridpoint_plan::{GridPoint, Limits, Plan, Policy};

use super::Printed;

/// Whose words.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Engine {
    /// Arguments of `vllm serve`, version 0.33.
    Vllm,
    /// Arguments of `sglang.launch_server`, version 0.5.23.
    Sglang,
    /// A configuration file of `trtllm-serve --config`, version 1.3.
    Trtllm,
    /// Arguments of Megatron-LM since pull request 5797.
    Megatron,
}

/// What is to be said: lines for the engine, and sentences for people.
struct Words {
    /// Who takes the lines, and how.
    title: &'static str,
    lines: Vec<String>,
    cannot: Vec<String>,
}

/// What engines ask of a plan.
struct Sizes {
    /// Requests of decode-only points, ascending.
    batches: Vec<u32>,
    /// T of points without prefills, ascending.
    decode: Vec<u32>,
    /// T of points with prefills, ascending.
    prefill: Vec<u32>,
}

/// Lines that the engine reads, and comments, which begin with `#`.
pub(super) fn text(engine: Engine, printed: &Printed<'_>) -> String {
    let (plan, limits, policy) = (&printed.made.reduced.plan, &printed.limits, &printed.made.policy);
    let sizes = Sizes::of(plan);
    let Words { title, lines, cannot } = match engine {
        Engine::Vllm => vllm(plan, limits, policy, &sizes),
        Engine::Sglang => sglang(plan, limits, policy, &sizes),
        Engine::Trtllm => trtllm(plan, limits, policy, &sizes),
        Engine::Megatron => megatron::words(plan, limits, policy),
    };
    let mut text = format!("# {title}\n");
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    match cannot.is_empty() {
        true => text.push_str("# there is nothing in this plan that it cannot express\n"),
        false => text.push_str("# it cannot express:\n"),
    }
    for sentence in cannot {
        text.push_str(&format!("# - {sentence}\n"));
    }
    text
}

impl Sizes {
    fn of(plan: &Plan) -> Self {
        let ascending = |numbers: BTreeSet<u32>| numbers.into_iter().collect();
        let (decode_only, with_prefills): (Vec<GridPoint>, Vec<GridPoint>) =
            plan.points().iter().copied().partition(|point| point.prefills == 0);
        Self {
            batches: ascending(decode_only.iter().map(|point| point.decodes).collect()),
            decode: ascending(decode_only.iter().map(|point| point.tokens).collect()),
            prefill: ascending(with_prefills.iter().map(|point| point.tokens).collect()),
        }
    }
}

fn spaced(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// Whether every token count with prefills has one point, which takes as many requests as there can be.
fn one_point_a_size(plan: &Plan, limits: &Limits) -> bool {
    let mut with_prefills = plan.points().iter().filter(|point| point.prefills > 0);
    with_prefills.all(|point| point.decodes == 0 && point.prefills == point.tokens.min(limits.max_requests))
}

/// That the engine has no prefill and decode slots beside token counts. None where the plan has none either.
fn no_request_axes(plan: &Plan, limits: &Limits, instead: &str) -> Option<String> {
    let points = plan.points().iter().filter(|point| point.prefills > 0).count();
    (!one_point_a_size(plan, limits))
        .then(|| format!("P and D of the {points} points with prefills: a token count has one graph, {instead}"))
}

fn speculation(limits: &Limits, flag: &str) -> Option<String> {
    (limits.speculative_tokens > 0).then(|| {
        format!("{} speculative tokens without the method that drafts them: set {flag}", limits.speculative_tokens)
    })
}

fn vllm(plan: &Plan, limits: &Limits, policy: &Policy, sizes: &Sizes) -> Words {
    let mut lines = vec![
        format!("--max-num-seqs {}", limits.max_requests),
        format!("--max-num-batched-tokens {}", limits.max_tokens),
        format!("--max-model-len {}", limits.max_sequence_length),
    ];
    if limits.tensor_parallel > 1 {
        lines.push(format!("--tensor-parallel-size {}", limits.tensor_parallel));
    }
    let all: BTreeSet<u32> = sizes.decode.iter().chain(&sizes.prefill).copied().collect();
    let all: Vec<u32> = all.into_iter().collect();
    let mut cannot = Vec::new();
    match all.last() {
        None => lines.push("--compilation-config.cudagraph_mode NONE".to_owned()),
        Some(largest) => {
            let mode = if sizes.prefill.is_empty() { "FULL_DECODE_ONLY" } else { "FULL" };
            lines.push(format!("--compilation-config.cudagraph_mode {mode}"));
            lines.push(format!("--max-cudagraph-capture-size {largest}"));
            lines.push(format!("--cudagraph-capture-sizes {}", spaced(&all)));
        }
    }
    if !sizes.prefill.is_empty() {
        if sizes.decode != sizes.prefill {
            cannot.push(format!(
                "sizes of their own for the {} decode-only and the {} other token counts: there is one list for both",
                sizes.decode.len(),
                sizes.prefill.len()
            ));
        }
        cannot.extend(no_request_axes(plan, limits, "with min(T, max-num-seqs) requests"));
        cannot.push(
            "mixed steps in one full graph under every attention backend: those without that support take piecewise \
             graphs, with attention outside"
                .to_owned(),
        );
    }
    cannot.extend(speculation(limits, "--speculative-config"));
    if policy.batch_invariant {
        cannot.push("batch invariance as an argument: set VLLM_BATCH_INVARIANT=1 in the environment".to_owned());
    }
    Words { title: "vLLM 0.33: arguments of `vllm serve`", lines, cannot }
}

fn sglang(plan: &Plan, limits: &Limits, policy: &Policy, sizes: &Sizes) -> Words {
    let mut lines = vec![
        format!("--max-running-requests {}", limits.max_requests),
        format!("--chunked-prefill-size {}", limits.max_tokens),
        format!("--context-length {}", limits.max_sequence_length),
    ];
    if limits.tensor_parallel > 1 {
        lines.push(format!("--tp-size {}", limits.tensor_parallel));
    }
    let mut cannot = Vec::new();
    if sizes.batches.is_empty() {
        lines.push("--cuda-graph-backend-decode disabled".to_owned());
    } else {
        lines.push("--cuda-graph-backend-decode full".to_owned());
        lines.push(format!("--cuda-graph-bs-decode {}", spaced(&sizes.batches)));
    }
    if sizes.prefill.is_empty() {
        lines.push("--cuda-graph-backend-prefill disabled".to_owned());
    } else {
        lines.push("--enable-mixed-chunk".to_owned());
        lines.push("--cuda-graph-backend-prefill breakable".to_owned());
        lines.push(format!("--cuda-graph-bs-prefill {}", spaced(&sizes.prefill)));
        cannot.extend(no_request_axes(plan, limits, "of any requests"));
        cannot.push(
            "steps with prefills as one graph: attention runs between the pieces (the backend `full` is experimental and has \
             one fixed number of request slots)"
                .to_owned(),
        );
        cannot.push("replays of more than twice a step's tokens: such a step runs eagerly".to_owned());
    }
    cannot.extend(speculation(limits, "--speculative-algorithm and --speculative-num-draft-tokens"));
    if policy.batch_invariant {
        cannot.push(
            "alignment of token counts to 64 as a switch (--enable-deterministic-inference is its batch invariance)"
                .to_owned(),
        );
    }
    Words { title: "SGLang 0.5.23: arguments of `python -m sglang.launch_server`", lines, cannot }
}

fn trtllm(plan: &Plan, limits: &Limits, policy: &Policy, sizes: &Sizes) -> Words {
    let list = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let mut lines = vec![
        format!("max_batch_size: {}", limits.max_requests),
        format!("max_num_tokens: {}", limits.max_tokens),
        format!("max_seq_len: {}", limits.max_sequence_length),
        format!("tensor_parallel_size: {}", limits.tensor_parallel),
    ];
    if sizes.batches.is_empty() {
        lines.push("cuda_graph_config: null".to_owned());
    } else {
        lines.push("cuda_graph_config:".to_owned());
        lines.push("  enable_padding: true".to_owned());
        lines.push(format!("  batch_sizes: [{}]", list(&sizes.batches)));
    }
    let mut cannot = Vec::new();
    if !sizes.prefill.is_empty() {
        lines.push("enable_chunked_prefill: true".to_owned());
        lines.push("torch_compile_config:".to_owned());
        lines.push("  enable_piecewise_cuda_graph: true".to_owned());
        lines.push(format!("  capture_num_tokens: [{}]", list(&sizes.prefill)));
        cannot.push(
            "steps with prefills as one graph: torch.compile cuts them into pieces, and attention runs between these"
                .to_owned(),
        );
        cannot.extend(no_request_axes(plan, limits, "of any requests"));
    }
    cannot.extend(speculation(limits, "speculative_config"));
    if policy.batch_invariant {
        cannot.push("batch invariance: token counts are aligned, kernels still depend on the batch".to_owned());
    }
    Words { title: "TensorRT-LLM 1.3: a file for `trtllm-serve --config`", lines, cannot }
}
