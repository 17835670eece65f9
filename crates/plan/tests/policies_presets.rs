//! Presets against the published default lists; sources beside each test.

use gridpoint_plan::{
    GraphCount, Limits, Match, Matcher, Matching, Plan, PlanError, Policy, Preset, Sizing, StepShape, plan,
};
use proptest::prelude::*;

fn limits(max_requests: u32, max_tokens: u32) -> Limits {
    Limits { max_requests, max_tokens, ..Limits::default() }
}

fn preset(word: &str, limits: &Limits) -> Plan {
    let policy = word.parse::<Preset>().expect("a preset").policy(limits).expect("a policy");
    plan(limits, &policy).unwrap_or_else(|error| panic!("{word} {limits:?}: {error}"))
}

/// Token counts, ascending, with and without prefills.
fn tokens(plan: &Plan, with_prefills: bool) -> Vec<u32> {
    let points = plan.points().iter().filter(|point| (point.prefills > 0) == with_prefills);
    let mut tokens: Vec<u32> = points.map(|point| point.tokens).collect();
    tokens.sort_unstable();
    tokens
}

fn range(from: u32, below: u32, step: usize) -> Vec<u32> {
    (from..below).step_by(step).collect()
}

/// Megatron-LM PR #3509 (commit 16b71941e2): the headline of 60 graphs, 9 of them decode-only; upstream's unit test at 80
/// requests of 20 tokens and 16 graphs.
#[test]
fn megatron() {
    let headline = preset("megatron", &limits(396, 16384));
    assert_eq!((headline.len(), headline.counts().decode_only), (60, 9));
    assert_eq!(headline.token_counts(), Some(&[396, 198, 98, 48, 24, 12, 6, 2, 1][..]));
    let unit = preset("megatron", &Limits { max_sequence_length: 20, ..limits(80, 16384) });
    assert_eq!(unit.token_counts(), Some(&[80, 40, 20, 10, 4, 2, 1][..]));
    assert_eq!(Policy::megatron(), Policy { graph_count: GraphCount::Count(16), ..Policy::default() });
}

/// vLLM 0.33.0, `vllm/config/vllm.py`, `_set_cudagraph_sizes`: `[1, 2, 4] + range(8, 256, 8) + range(256, max + 1, 16)`, max
/// being `min(max_num_seqs * decode_query_len * 2, 512)` and at most `max_num_batched_tokens`.
#[test]
fn vllm() {
    let published = [vec![1, 2, 4], range(8, 256, 8), range(256, 513, 16)].concat();
    let h100 = preset("vllm", &limits(1024, 8192));
    assert_eq!(published.len(), 51);
    assert_eq!((tokens(&h100, false), tokens(&h100, true)), (published.clone(), published.clone()));
    // 51 sizes, 102 descriptors; 83 and 166 on datacenter Blackwell.
    assert_eq!(h100.len(), 102);
    assert!(h100.points().iter().all(|point| point.requests() == point.tokens.min(1024).into()));
    assert_eq!(preset("vllm:1024", &limits(1024, 8192)).len(), 166);
    // Twice a full decode batch bounds the list: `max_num_seqs = 8` captures 1, 2, 4, 8, 16, and decodes end at 8.
    let small = preset("vllm", &limits(8, 8192));
    assert_eq!((tokens(&small, false), tokens(&small, true)), (vec![1, 2, 4, 8], vec![1, 2, 4, 8, 16]));
    // A step's tokens bound it, and are themselves captured.
    assert_eq!(tokens(&preset("vllm", &limits(100, 150)), true).last(), Some(&150));
    // Speculation rounds decode sizes up to whole decodes (`adjust_cudagraph_sizes_for_spec_decode`, here 6 tokens).
    let speculative = preset("vllm", &Limits { speculative_tokens: 5, ..limits(8, 8192) });
    assert_eq!(tokens(&speculative, false), [6, 12, 18, 24, 36, 42, 48]);
}

/// SGLang 0.5.23, `python/sglang/srt/server_args.py`: 36 decode sizes at 256, 52 at 512; 42, 50, 58 and 74 prefill sizes at
/// chunks of 2048, 4096, 8192 and 16384.
#[test]
fn sglang() {
    let fine = [vec![1, 2, 4, 8, 12], range(16, 257, 8)].concat();
    let all = [fine.clone(), range(272, 512, 16), vec![512]].concat();
    assert_eq!((fine.len(), all.len()), (36, 52));
    let prefill = [
        range(4, 33, 4),
        range(48, 257, 16),
        range(288, 513, 32),
        range(576, 1025, 64),
        range(1280, 4097, 256),
        range(4608, 8193, 512),
    ]
    .concat();
    let default = preset("sglang", &limits(2048, 8192));
    assert_eq!((tokens(&default, false), tokens(&default, true)), (fine, prefill.clone()));
    let wide = preset("sglang", &Limits { tensor_parallel: 4, ..limits(2048, 8192) });
    assert_eq!(tokens(&wide, false), all.iter().copied().filter(|size| size % 4 == 0).collect::<Vec<_>>());
    assert_eq!(tokens(&preset("sglang:512", &limits(2048, 8192)), false), all);
    assert_eq!(tokens(&preset("sglang:1024", &limits(2048, 8192)), false).len(), 52 + 16);
    for (chunk, count) in [(2048, 42), (4096, 50), (8192, 58), (16384, 74)] {
        assert_eq!(tokens(&preset("sglang", &limits(512, chunk)), true).len(), count, "{chunk}");
    }
    // `max_bs` and the chunk are appended where they are not on the list; 24 sizes at 160, 14 at 80, 7 at 24, 4 at 8.
    for (requests, count) in [(160, 24), (80, 14), (32, 8), (24, 7), (8, 4), (100, 17)] {
        let sizes = tokens(&preset("sglang", &limits(requests, 8192)), false);
        assert_eq!((sizes.len(), sizes.last().copied()), (count, Some(requests)));
    }
    assert_eq!(tokens(&preset("sglang", &limits(8, 100)), true), [4, 8, 12, 16, 20, 24, 28, 32, 48, 64, 80, 96, 100]);
    // With speculation the list is finer: 51 batches at 256.
    let speculative = preset("sglang", &Limits { speculative_tokens: 3, ..limits(2048, 8192) });
    let batches = [range(1, 9, 1), range(10, 33, 2), range(40, 65, 4), range(72, 257, 8)].concat();
    assert_eq!(batches.len(), 51);
    assert_eq!(tokens(&speculative, false), batches.iter().map(|batch| batch * 4).collect::<Vec<_>>());
}

/// TensorRT-LLM, `tensorrt_llm/llmapi/llm_args.py`, `_generate_cuda_graph_batch_sizes` with padding since PR #12895:
/// `[1, 2, 4]`, multiples of 8 up to 128, then steps of 64, and the largest; 49 sizes at 2048 (blog 20), 128 by default.
#[test]
fn tensorrt_llm() {
    let default = preset("tensorrt-llm", &limits(396, 8192));
    let fine = [vec![1, 2, 4], range(8, 129, 8)].concat();
    assert_eq!((tokens(&default, false), tokens(&default, true)), (fine.clone(), vec![]));
    let large = preset("tensorrt-llm:2048", &limits(4096, 8192));
    assert_eq!(tokens(&large, false), [fine, range(192, 2049, 64)].concat());
    assert_eq!(large.len(), 49);
    assert_eq!(preset("tensorrt-llm:512", &limits(4096, 8192)).len(), 25);
    assert_eq!(tokens(&preset("tensorrt-llm:200", &limits(396, 8192)), false)[18..], [128, 192, 200]);
    assert_eq!(tokens(&preset("tensorrt-llm", &limits(20, 8192)), false), [1, 2, 4, 8, 16, 20]);
    let speculative = preset("tensorrt-llm", &Limits { speculative_tokens: 2, ..limits(4, 8192) });
    assert_eq!(tokens(&speculative, false), [3, 6, 12]);
}

#[test]
fn words_read_back_as_they_print() {
    for word in ["megatron", "vllm", "sglang", "tensorrt-llm", "vllm:1024", "sglang:8", "tensorrt-llm:4294967295"] {
        assert_eq!(word.parse::<Preset>().expect("a preset").to_string(), word);
    }
    assert!(Preset::ALL.iter().all(|preset| preset.to_string().parse() == Ok(*preset)));
    for word in
        ["", "VLLM", "vllm:", "vllm:0", "vllm:-1", "vllm:+1", "vllm:4294967296", "megatron:16", "tgi", "vllm:1:2"]
    {
        let error = word.parse::<Preset>().expect_err(word).to_string();
        assert!(error.starts_with(&format!("`{word}` is not a preset; it is `megatron`, `vllm`")), "{error}");
    }
}

#[test]
fn extreme_limits_make_a_plan_or_an_error() {
    let extremes = [0, 1, 2, 255, u32::MAX];
    let mut plans = 0;
    for (max_requests, max_tokens) in extremes.iter().flat_map(|&r| extremes.map(|t| (r, t))) {
        for (tensor_parallel, speculative_tokens) in extremes.iter().flat_map(|&p| extremes.map(|s| (p, s))) {
            let limits = Limits { tensor_parallel, speculative_tokens, ..limits(max_requests, max_tokens) };
            for preset in Preset::ALL
                .into_iter()
                .chain(["vllm:4294967295", "tensorrt-llm:4294967295"].map(|word| word.parse().expect("a preset")))
            {
                let Ok(policy) = preset.policy(&limits) else { continue };
                let Ok(plan) = plan(&limits, &policy) else { continue };
                plans += 1;
                // The reference's ladders round up to the tensor-parallel size, whatever the limits are.
                let within = plan.points().iter().all(|point| point.tokens <= max_tokens);
                assert!(within || preset == Preset::Megatron, "{preset} {limits:?}");
            }
        }
    }
    assert!(plans > 100, "only {plans} plans");
    let endless = limits(u32::MAX, u32::MAX);
    for word in ["vllm:4294967295", "sglang:4294967295", "tensorrt-llm:4294967295"] {
        let refused = word.parse::<Preset>().expect("a preset").policy(&endless);
        assert!(matches!(refused, Err(PlanError::TooManyCandidates { .. })), "{word}");
    }
}

proptest! {
    /// Every step up to the largest captured size of its kind replays.
    #[test]
    fn what_a_preset_covers_replays(
        word in prop::sample::select(vec!["vllm", "sglang", "tensorrt-llm", "sglang:512", "tensorrt-llm:396"]),
        max_requests in 1..600_u32,
        (prefills, decodes, tokens) in (0..50_u32, 1..600_u32, 1..4096_u32),
    ) {
        let limits = limits(max_requests, 4096);
        let policy = word.parse::<Preset>().expect("a preset").policy(&limits).expect("a policy");
        let Sizing::List { decode, prefill } = &policy.sizing else { panic!("a list") };
        let largest = if prefills == 0 { decode.last() } else { prefill.last() };
        let plan = plan(&limits, &policy).expect("a plan");
        let tokens = if prefills == 0 { decodes } else { tokens.max(prefills + decodes) };
        let step = StepShape { tokens, prefills, decodes };
        let covered = prefills + decodes <= max_requests && largest.is_some_and(|&largest| tokens <= largest);
        match Matcher::new(plan.points()).find(step, Matching::NonStrict) {
            Match::Replay { .. } => prop_assert!(covered),
            Match::Eager { reason } => prop_assert!(!covered, "{word} {limits:?} {step}: {reason}"),
        }
    }
}
