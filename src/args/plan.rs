//! Which graphs to capture: the arguments of every command that makes a plan.

mod budget;
mod choice;
mod file;
mod make;

use std::path::PathBuf;

use clap::Args;
use gridpoint_plan::{
    DecodeAxis, GraphCount, Limits, PlanFile, Policy, PrefillAxis, Preset, Ratio, Sizing, TokenCeiling,
};

use crate::args::{integer_64, natural_32};
use crate::commands::Failure;

pub(crate) use budget::{Reduced, bytes, number, seconds, size};
pub(crate) use choice::{Choice, Comparison, short_sizing};
pub(crate) use file::{read_bounded, read_plan, refusal};
pub(crate) use make::{FitTo, Graphs, Made};

use budget::ReductionArgs;
use choice::SizingWord;

/// A plan from a file, or limits and a policy; and what it may cost.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    pub(crate) reduction: ReductionArgs,
    /// Take the plan, and the limits that are not given, from a file that `plan --output` wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "PolicyArgs", help_heading = "Graphs")]
    plan: Option<PathBuf>,
}

/// Which law the points follow.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Graphs")]
pub(crate) struct PolicyArgs {
    /// How token counts descend: exponential (by halves), linear (by even steps), hybrid (by halves with prefills, even steps
    /// without), geometric:R or geometric:R/R (by ratios, of two the first for decodes), list:N,N or list:N,N/N,N (these), or
    /// fit:K (K counts that suit the traffic of --trace or --steps) [default: exponential].
    #[arg(long, value_name = "LAW")]
    sizing: Option<SizingWord>,
    /// The ratio of neighbouring token counts without prefills, any number above 1, under geometric sizing.
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    decode_ratio: Option<Ratio>,
    /// The ratio of neighbouring token counts with prefills, any number above 1, under geometric sizing.
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    prefill_ratio: Option<Ratio>,
    /// The graphs of another engine: megatron, vllm, sglang or tensorrt-llm, the last three also with their largest size, as in
    /// vllm:1024. Other flags that are given override it.
    #[arg(long, value_name = "ENGINE", conflicts_with_all = ["sizing", "decode_ratio", "prefill_ratio"])]
    preset: Option<Preset>,
    /// Prefill slots P of the points of a token count: auto (1, 2, 4, ..., max-requests; one P under linear sizing), off (all
    /// slots in one point), geometric:R or list:N,N [default: auto].
    #[arg(long, value_name = "AXIS")]
    prefill_axis: Option<PrefillAxis>,
    /// Decode slots D of a mixed point: rest (all that fit beside P) or geometric:R [default: rest].
    #[arg(long, value_name = "AXIS")]
    decode_axis: Option<DecodeAxis>,
    /// Token counts of each ladder: as many as it takes (auto), no graphs at all (none), or at most N [default: auto].
    #[arg(long, value_name = "auto|none|N", allow_negative_numbers = true)]
    num_cuda_graphs: Option<GraphCount>,
    /// Whether there are graphs for steps with prefills (above 0); under linear sizing, also their prefill slots [default: 16].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = integer_64)]
    mixed_prefill_count: Option<i64>,
    /// No graphs for steps with prefills.
    #[arg(long)]
    decode_only: bool,
    /// Capture up to max-tokens tokens, instead of max-requests x (speculative-tokens + 1). A list is its own ceiling.
    #[arg(long)]
    all_prefills: bool,
    /// Capture up to N tokens, whatever --all-prefills says; 0 or less, or more than max-tokens, means max-tokens.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = integer_64)]
    graph_max_tokens: Option<i64>,
    /// Align token counts to 64, so that a request's bits do not depend on its batch.
    #[arg(long)]
    batch_invariant: bool,
}

/// What the engine can hold.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Graphs")]
struct LimitArgs {
    /// Request slots [default: 396].
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = natural_32)]
    max_requests: Option<u32>,
    /// Token rows of one step [default: 16384].
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = natural_32)]
    max_tokens: Option<u32>,
    /// Tokens of one request, prompt and output together [default: the model's, 4096 without a model].
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = natural_32)]
    max_seq_len: Option<u32>,
    /// Tensor-parallel size, of which every token count is a multiple [default: 1].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = natural_32)]
    tp: Option<u32>,
    /// Speculative tokens: a decode takes K + 1 tokens of a step [default: 0].
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = natural_32)]
    speculative_tokens: Option<u32>,
}

impl PlanArgs {
    /// Reads the plan file, if there is one.
    ///
    /// # Errors
    /// A file that is no plan of this version, names no limits, or names others than the flags.
    pub(crate) fn read(&self) -> Result<Graphs<'_>, Failure> {
        let file = self.plan.as_deref().map(|path| self.limits.read_agreeing(path)).transpose()?;
        Ok(Graphs::new(self, file))
    }

    /// Whether a law is named, or a file with a plan.
    pub(crate) fn names_plan(&self) -> bool {
        self.policy.names_law() || self.plan.is_some()
    }
}

impl LimitArgs {
    /// The limits asked for, and what stands in `otherwise` of those that were not.
    fn or(&self, otherwise: Limits) -> Limits {
        Limits {
            max_requests: self.max_requests.unwrap_or(otherwise.max_requests),
            max_tokens: self.max_tokens.unwrap_or(otherwise.max_tokens),
            max_sequence_length: self.max_seq_len.unwrap_or(otherwise.max_sequence_length),
            tensor_parallel: self.tp.unwrap_or(otherwise.tensor_parallel),
            speculative_tokens: self.speculative_tokens.unwrap_or(otherwise.speculative_tokens),
        }
    }

    /// A plan for the limits that the flags name.
    fn read_agreeing(&self, path: &std::path::Path) -> Result<PlanFile, Failure> {
        let file = read_plan(path).map_err(Failure::failed)?;
        let limits = self.or(file.limits().copied().unwrap_or_default());
        match file.check(&limits) {
            Ok(_) => Ok(file),
            Err(error) => Err(Failure::Usage(
                format!("--plan is `{}`: {error}; `gridpoint plan --output FILE` makes one", path.display()).into(),
            )),
        }
    }
}

impl PolicyArgs {
    /// The law that the flags name.
    ///
    /// # Errors
    /// Ratios beside a sizing that has none, geometric sizing without any.
    pub(crate) fn choice(&self) -> Result<Choice, Failure> {
        if let Some(preset) = self.preset {
            return Ok(Choice::Preset(preset));
        }
        let usage = |words: String| Failure::Usage(words.into());
        let given = [("--decode-ratio", self.decode_ratio), ("--prefill-ratio", self.prefill_ratio)];
        let ratio = given.iter().find_map(|&(flag, ratio)| ratio.map(|ratio| (flag, ratio)));
        let (decode, prefill) = match (&self.sizing, ratio) {
            (Some(SizingWord::Choice(Choice::Sizing(Sizing::Geometric { decode, prefill }))), _) => (*decode, *prefill),
            (Some(SizingWord::Geometric), None) => {
                return Err(usage(
                    "--sizing is `geometric`: it must name a ratio, as in `geometric:1.41`, or --decode-ratio or \
                     --prefill-ratio must be given"
                        .to_owned(),
                ));
            }
            (None | Some(SizingWord::Geometric), Some(_)) => (Ratio::TWO, Ratio::TWO),
            (Some(SizingWord::Choice(choice)), Some((flag, ratio))) => {
                return Err(usage(format!(
                    "{flag} is `{ratio}`: it goes with geometric sizing, and --sizing is `{}`",
                    choice.short()
                )));
            }
            (Some(SizingWord::Choice(choice)), None) => return Ok(choice.clone()),
            (None, None) => return Ok(Choice::Sizing(Sizing::default())),
        };
        let (decode, prefill) = (self.decode_ratio.unwrap_or(decode), self.prefill_ratio.unwrap_or(prefill));
        Ok(Choice::Sizing(Sizing::Geometric { decode, prefill }))
    }

    /// Whether a law is named.
    pub(crate) fn names_law(&self) -> bool {
        let Self { sizing, decode_ratio, prefill_ratio, preset, .. } = self;
        sizing.is_some() || decode_ratio.is_some() || prefill_ratio.is_some() || preset.is_some()
    }

    /// The policy with everything that the flags give but the law.
    pub(crate) fn over(&self, policy: Policy) -> Policy {
        let token_ceiling = match (self.all_prefills, self.graph_max_tokens) {
            (false, None) => policy.token_ceiling,
            (all_prefills, tokens) => TokenCeiling::new(all_prefills, tokens),
        };
        Policy {
            prefill_axis: self.prefill_axis.clone().unwrap_or(policy.prefill_axis),
            decode_axis: self.decode_axis.unwrap_or(policy.decode_axis),
            graph_count: self.num_cuda_graphs.unwrap_or(policy.graph_count),
            token_ceiling,
            mixed_prefill_count: self.mixed_prefill_count.or(policy.mixed_prefill_count),
            decode_only: self.decode_only || policy.decode_only,
            batch_invariant: self.batch_invariant || policy.batch_invariant,
            ..policy
        }
    }
}
