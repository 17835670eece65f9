//! Kernels with a bug or a waste put in, for the tests of the simulated device's detectors and of budgets: copies of `kernels/*.cu` in
//! which a few words differ.

use std::fs;
use std::path::Path;

use crate::host::{self, Archive};
use crate::sources::Sources;

/// A kernel file with a bug.
pub(crate) struct Plant {
    /// What is wrong with it.
    pub(crate) name: &'static str,
    /// The module.
    pub(crate) module: &'static str,
    /// Words of the file, each of which stands there once, and what replaces them.
    patches: &'static [(&'static str, &'static str)],
}

/// Only the smallest tile with one epilogue, so that the copies compile quickly.
const ONE_GEMM: (&str, &str) = (
    "  GEMM_ELEMENTS(X, 64x64, Tile64x64, 3)     \\\n  GEMM_ELEMENTS(X, 128x128, Tile128x128, 2)\n",
    "  GEMM_INSTANCE(X, gemm_64x64_logits, 3, Tile64x64, Bf16, kLogits)\n",
);

/// Only one kernel of few rows.
const fn one_skinny(instance: &'static str) -> (&'static str, &'static str) {
    ("  SKINNY_ELEMENT(X, Bf16, )   \\\n  SKINNY_ELEMENT(X, F16, _f16)\n", instance)
}

/// Only one kernel by warpgroups.
const fn one_hopper(instance: &'static str) -> (&'static str, &'static str) {
    (
        "  GEMM_HOPPER_ELEMENTS(X, 64)  \\\n  GEMM_HOPPER_ELEMENTS(X, 128) \\\n  GEMM_HOPPER_ELEMENTS(X, 192) \\\n  \
         GEMM_HOPPER_ELEMENTS(X, 256)\n",
        instance,
    )
}

/// Attention on bf16 alone.
const BF16_ATTENTION: (&str, &str) = (" ATTENTION_INSTANCES(X, _f16, F16)", "");

/// Attention on Hopper for heads of 64 elements of bf16 alone.
const ONE_HOPPER_ATTENTION: (&str, &str) = (
    "  ATTENTION_HOPPER_INSTANCES(X, , Bf16) ATTENTION_HOPPER_INSTANCES(X, _f16, F16)\n",
    "  ATTENTION_HOPPER_INSTANCE(X, attention_hopper_d64, Bf16, 64)\n",
);

/// The bugs.
pub(crate) const PLANTS: [Plant; 20] = [
    Plant {
        name: "attention_arrives_without_barrier",
        module: "attention",
        patches: &[BF16_ATTENTION, ("  block_barrier();\n  if (!arrive_last(", "  if (!arrive_last(")],
    },
    Plant {
        name: "attention_hopper_gathers_without_fence",
        module: "attention_hopper",
        patches: &[
            ONE_HOPPER_ATTENTION,
            (
                "#include \"attention_hopper_load.cuh\"\n",
                "#include \"ptx.cuh\"\n#define fence_proxy_async()\n#include \"attention_hopper_load.cuh\"\n",
            ),
        ],
    },
    Plant {
        name: "attention_hopper_reads_its_list_before_its_wait",
        module: "attention_hopper",
        patches: &[
            ONE_HOPPER_ATTENTION,
            (
                "  grid_dependency_wait();\n",
                "  const bool refused = parameters.attention.list->reserved[0] != 0;\n  grid_dependency_wait();\n",
            ),
            ("  if (parameters.attention.list->reserved[0] != 0) {\n", "  if (refused) {\n"),
        ],
    },
    Plant {
        name: "attention_hopper_reads_pages_before_they_are_there",
        module: "attention_hopper",
        patches: &[
            ONE_HOPPER_ATTENTION,
            ("      mbarrier_wait(memory.page_full(own, progress.pages), memory.page_parity(progress.pages));\n", ""),
        ],
    },
    Plant {
        name: "attention_hopper_reads_keys_before_they_are_there",
        module: "attention_hopper",
        patches: &[ONE_HOPPER_ATTENTION, ("    wait(value);\n    wait(key);\n", "    wait(value);\n")],
    },
    Plant {
        name: "attention_reuses_queries_without_barrier",
        module: "attention",
        patches: &[BF16_ATTENTION, ("  // The item before may still be read.\n  block_barrier();\n", "")],
    },
    // Touches nothing that the kernel before it wrote: a kernel further on runs ahead.
    Plant { name: "embedding_does_not_wait", module: "embedding", patches: &[("  grid_dependency_wait();\n", "")] },
    Plant {
        name: "gemm_ring_without_barrier",
        module: "gemm",
        patches: &[
            ONE_GEMM,
            (
                "      copy_async_wait<Tile::kStages - 2>();\n      block_barrier();\n",
                "      copy_async_wait<Tile::kStages - 2>();\n",
            ),
        ],
    },
    Plant {
        name: "gemm_waits_for_too_few_groups",
        module: "gemm",
        patches: &[ONE_GEMM, ("copy_async_wait<Tile::kStages - 2>();", "copy_async_wait<Tile::kStages - 1>();")],
    },
    // Loads what the other warpgroups still multiply.
    Plant {
        name: "gemm_hopper_does_not_wait_for_stages",
        module: "gemm_hopper",
        patches: &[
            one_hopper("  GEMM_HOPPER_INSTANCE(X, gemm_hopper_128x128_logits, 128, Bf16, kLogits)\n"),
            ("      mbarrier_wait(start + Layout::kStartEmpty + turn.stage * 8, turn.parity ^ 1);\n", ""),
        ],
    },
    Plant {
        name: "gemm_hopper_stores_without_fence",
        module: "gemm_hopper",
        patches: &[
            one_hopper("  GEMM_HOPPER_INSTANCE(X, gemm_hopper_128x64_residual, 64, Bf16, kResidual)\n"),
            ("  fence_proxy_async();\n", ""),
        ],
    },
    Plant {
        name: "norm_divides_by_the_first_row",
        module: "norm",
        patches: &[("parameters.width / kVectorElements;", "parameters.width / (kVectorElements * first);")],
    },
    Plant { name: "norm_does_not_wait", module: "norm", patches: &[("  grid_dependency_wait();\n", "")] },
    // One row further than it should where there is padding: right in every step that fills its point. For proofs of replay.
    Plant {
        name: "norm_reads_a_padded_row",
        module: "norm",
        patches: &[(
            "static_cast<uint32_t>(logit_rows[r].token_row);",
            "static_cast<uint32_t>(logit_rows[r].token_row) + (step->tokens < step->token_capacity);",
        )],
    },
    Plant {
        name: "norm_stays_in_its_row",
        module: "norm",
        patches: &[("r += stride, ++turn", "r += stride * 0, ++turn")],
    },
    Plant {
        name: "norm_sums_without_warp_barrier",
        module: "norm",
        patches: &[("[lane_index()] = partial;\n  warp_barrier();\n", "[lane_index()] = partial;\n")],
    },
    Plant {
        name: "norm_sums_in_one_buffer",
        module: "norm",
        patches: &[("const uint32_t buffer = turn % 2;", "const uint32_t buffer = turn * 0;")],
    },
    Plant {
        name: "skinny_arrives_without_barrier",
        module: "skinny",
        patches: &[
            one_skinny("  SKINNY_INSTANCE(X, skinny_logits, Bf16, kLogits)\n"),
            ("  warp_barrier();\n  bool last = false;\n", "  bool last = false;\n"),
        ],
    },
    Plant {
        name: "skinny_ring_without_barrier",
        module: "skinny",
        patches: &[
            one_skinny("  SKINNY_INSTANCE(X, skinny_logits, Bf16, kLogits)\n"),
            ("    wait_for_stage(ring.stages);\n    block_barrier();\n", "    wait_for_stage(ring.stages);\n"),
        ],
    },
    // No bug, a waste: for the budgets of tests/counters.rs.
    Plant {
        name: "norm_reads_twice",
        module: "norm",
        patches: &[(
            "if (vector < vectors) held[i] = load16(input + vector * kVectorElements);",
            "for (int turn = 0; turn < 2 && vector < vectors; ++turn) held[i] = load16(input + vector * kVectorElements);",
        )],
    },
];

/// The copies, to be compiled as checked kernels are.
pub(crate) fn archives(sources: &Sources, out: &Path) -> Result<Vec<Archive>, String> {
    PLANTS.iter().map(|plant| archive(plant, sources, out)).collect()
}

fn archive(plant: &Plant, sources: &Sources, out: &Path) -> Result<Archive, String> {
    let path = sources.folder.join(plant.module).with_extension("cu");
    let mut text = fs::read_to_string(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    for (from, to) in plant.patches {
        if text.matches(from).count() != 1 {
            let words = from.trim();
            return Err(format!(
                "build/planted.rs, `{}`: `{words}` must stand in `{}` once",
                plant.name,
                path.display()
            ));
        }
        text = text.replace(from, to);
    }
    let copy = out.join(plant.name).with_extension("cu");
    fs::write(&copy, text).map_err(|error| format!("cannot write `{}`: {error}", copy.display()))?;
    let symbol = format!("gridpoint_planted_{}", plant.name);
    host::told_file(sources, copy, &symbol, &symbol, out)
}
