//! Which graphs to capture: the arguments of every command that makes a plan.

use clap::Args;
use gridpoint_plan::{GraphCount, Limits, Policy, Sizing, TokenCeiling};

use crate::args::{integer_64, natural_32};

/// Limits and policy.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Graphs")]
pub(crate) struct PlanArgs {
    /// How token counts descend: by halves (exponential) or by even steps (linear).
    #[arg(long, value_name = "exponential|linear", default_value_t = Sizing::Exponential)]
    sizing: Sizing,
    /// Token counts of each ladder: as many as it takes (auto), no graphs at all (none), or at most N.
    #[arg(long, value_name = "auto|none|N", default_value_t = GraphCount::Auto, allow_negative_numbers = true)]
    num_cuda_graphs: GraphCount,
    /// Whether there are graphs for steps with prefills (above 0); under linear sizing, also their prefill slots.
    #[arg(long, value_name = "N", default_value_t = 16, allow_negative_numbers = true, value_parser = integer_64)]
    mixed_prefill_count: i64,
    /// No graphs for steps with prefills.
    #[arg(long)]
    decode_only: bool,
    /// Capture up to max-tokens tokens, instead of max-requests x (speculative-tokens + 1).
    #[arg(long)]
    all_prefills: bool,
    /// Capture up to N tokens, whatever --all-prefills says; 0 or less, or more than max-tokens, means max-tokens.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = integer_64)]
    graph_max_tokens: Option<i64>,
    /// Request slots.
    #[arg(long, value_name = "R", default_value_t = 396, allow_negative_numbers = true, value_parser = natural_32)]
    max_requests: u32,
    /// Token rows of one step.
    #[arg(long, value_name = "T", default_value_t = 16384, allow_negative_numbers = true, value_parser = natural_32)]
    max_tokens: u32,
    /// Tokens of one request, prompt and output together [default: the model's, 4096 without a model].
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = natural_32)]
    max_seq_len: Option<u32>,
    /// Tensor-parallel size, of which every token count is a multiple.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = natural_32)]
    tp: u32,
    /// Speculative tokens: a decode takes K + 1 tokens of a step.
    #[arg(long, value_name = "K", default_value_t = 0, allow_negative_numbers = true, value_parser = natural_32)]
    speculative_tokens: u32,
    /// Align token counts to 64, so that a request's bits do not depend on its batch.
    #[arg(long)]
    batch_invariant: bool,
}

impl PlanArgs {
    /// The limits asked for, with this sequence length where none was given.
    pub(crate) fn limits(&self, default_max_sequence_length: u32) -> Limits {
        Limits {
            max_requests: self.max_requests,
            max_tokens: self.max_tokens,
            max_sequence_length: self.max_seq_len.unwrap_or(default_max_sequence_length),
            tensor_parallel: self.tp,
            speculative_tokens: self.speculative_tokens,
        }
    }

    /// The policy asked for.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            sizing: self.sizing.clone(),
            graph_count: self.num_cuda_graphs,
            token_ceiling: TokenCeiling::new(self.all_prefills, self.graph_max_tokens),
            mixed_prefill_count: Some(self.mixed_prefill_count),
            decode_only: self.decode_only,
            batch_invariant: self.batch_invariant,
            ..Policy::default()
        }
    }
}
