//! The plan in the words of other engines.

use super::stdout;

fn emitted(engine: &str, more: &[&str]) -> String {
    stdout(&[&["plan", "--emit", engine], more].concat())
}

fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|other| other == *line), "no `{line}`:\n{text}");
    }
}

#[test]
fn sizes_and_ceilings_go_by_each_engines_names() {
    let vllm = emitted("vllm", &[]);
    has(
        &vllm,
        &[
            "--max-num-seqs 396",
            "--max-num-batched-tokens 16384",
            "--max-cudagraph-capture-size 396",
            "--cudagraph-capture-sizes 1 2 6 12 24 48 98 198 396",
            "--compilation-config.cudagraph_mode FULL",
        ],
    );
    assert!(vllm.contains("# it cannot express:\n# - ") && vllm.contains("P and D of the 51 points"), "{vllm}");
    has(
        &emitted("sglang", &["--sizing", "list:1,4,16/64,512"]),
        &["--cuda-graph-bs-decode 1 4 16", "--cuda-graph-bs-prefill 64 512", "--chunked-prefill-size 16384"],
    );
    has(
        &emitted("trtllm", &["--preset", "tensorrt-llm:16"]),
        &["max_num_tokens: 16384", "  batch_sizes: [1, 2, 4, 8, 16]", "  enable_padding: true"],
    );
    has(&emitted("trtllm", &[]), &["  capture_num_tokens: [2, 6, 12, 24, 48, 98, 198, 396]"]);
}

#[test]
fn megatron_takes_laws() {
    let own = emitted("megatron", &["--all-prefills", "--num-cuda-graphs", "16"]);
    has(
        &own,
        &[
            "--inference-dynamic-batching-num-cuda-graphs 16",
            "--inference-dynamic-batching-cuda-graph-sizing-distribution exponential",
            "--inference-cuda-graph-all-prefills",
            "# there is nothing in this plan that it cannot express",
        ],
    );
    let finer = emitted("megatron", &["--decode-ratio", "1.25"]);
    has(&finer, &["--inference-dynamic-batching-cuda-graph-sizing-distribution hybrid"]);
    assert!(finer.contains("sizes other than by its own laws") && finer.contains("not in this plan"), "{finer}");
    let fewer = emitted("megatron", &["--budget-graphs", "20"]);
    assert!(fewer.contains("it captures 60, 40 of them not in this plan"), "{fewer}");
    has(&emitted("megatron", &["--decode-only"]), &["--decode-only-cuda-graphs"]);
}

#[test]
fn no_graphs_are_expressed_too() {
    let none = ["--num-cuda-graphs", "none"];
    has(&emitted("vllm", &none), &["--compilation-config.cudagraph_mode NONE"]);
    has(&emitted("sglang", &none), &["--cuda-graph-backend-decode disabled", "--cuda-graph-backend-prefill disabled"]);
    has(&emitted("trtllm", &none), &["cuda_graph_config: null"]);
    has(&emitted("megatron", &none), &["--cuda-graph-impl none"]);
}

#[test]
fn the_presets_lose_no_sizes() {
    let vllm = emitted("vllm", &["--preset", "vllm", "--decode-only"]);
    assert!(
        vllm.contains("FULL_DECODE_ONLY") && vllm.contains("nothing in this plan that it cannot express"),
        "{vllm}"
    );
}
