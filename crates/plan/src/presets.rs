//! The default lists of other engines, as policies.

use std::fmt;
use std::str::FromStr;

use crate::axes::PrefillAxis;
use crate::error::{ParsePresetError, PlanError};
use crate::ladder::check_candidates;
use crate::policy::{GraphCount, Limits, Policy, TokenCeiling};
use crate::sizing::Sizing;
use crate::words::serde_as_word;

/// An engine whose graphs to capture, under the limits that it would have, with the largest size that it takes from its device.
///
/// It is written `megatron`, `vllm`, `sglang` or `tensorrt-llm`, the last three also with their largest size: `vllm:1024`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// Megatron-LM PR #3509.
    Megatron,
    /// vLLM 0.33.0, with full graphs of mixed batches.
    Vllm {
        /// `max_cudagraph_capture_size`, at most; by default 512, and 1024 on datacenter Blackwell.
        largest: Option<u32>,
    },
    /// SGLang 0.5.23, with the token counts of its prefill graphs.
    Sglang {
        /// `cuda_graph_max_bs` of decodes. By default that of a device of 60 to 160 GB: 256, and 512 from a tensor-parallel
        /// size of 4; it is 8 below 20 GB and 512 from 160 GB.
        largest: Option<u32>,
    },
    /// TensorRT-LLM 1.3 (the PyTorch flow since PR #12895), decodes only, batches padded.
    TensorRtLlm {
        /// `max_batch_size` of the graphs; 128 by default.
        largest: Option<u32>,
    },
}

impl Preset {
    /// Every preset, with its default sizes.
    pub const ALL: [Self; 4] = [
        Self::Megatron,
        Self::Vllm { largest: None },
        Self::Sglang { largest: None },
        Self::TensorRtLlm { largest: None },
    ];

    /// The engine's policy under these limits. Sizes that tensor parallelism does not divide are left out.
    ///
    /// # Errors
    /// A list of more than [`MAX_CANDIDATES`](crate::MAX_CANDIDATES) sizes.
    pub fn policy(self, limits: &Limits) -> Result<Policy, PlanError> {
        match self {
            Self::Megatron => Ok(Policy::megatron()),
            Self::Vllm { largest } => Policy::vllm(limits, largest.unwrap_or(512)),
            Self::Sglang { largest } => {
                let default = if limits.tensor_parallel < 4 { 256 } else { 512 };
                Policy::sglang(limits, largest.unwrap_or(default))
            }
            Self::TensorRtLlm { largest } => Policy::tensorrt_llm(limits, largest.unwrap_or(128)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Megatron => "megatron",
            Self::Vllm { .. } => "vllm",
            Self::Sglang { .. } => "sglang",
            Self::TensorRtLlm { .. } => "tensorrt-llm",
        }
    }

    fn largest(self) -> Option<u32> {
        match self {
            Self::Megatron => None,
            Self::Vllm { largest } | Self::Sglang { largest } | Self::TensorRtLlm { largest } => largest,
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.largest() {
            Some(largest) => write!(f, "{}:{largest}", self.name()),
            None => f.pad(self.name()),
        }
    }
}

impl FromStr for Preset {
    type Err = ParsePresetError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let error = || ParsePresetError { word: word.to_owned() };
        let (name, largest) = match word.split_once(':') {
            None => (word, None),
            Some((name, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let largest = digits.parse().ok().filter(|&largest: &u32| largest > 0);
                (name, Some(largest.ok_or_else(error)?))
            }
            Some(_) => return Err(error()),
        };
        match (name, largest) {
            ("megatron", None) => Ok(Self::Megatron),
            ("vllm", largest) => Ok(Self::Vllm { largest }),
            ("sglang", largest) => Ok(Self::Sglang { largest }),
            ("tensorrt-llm", largest) => Ok(Self::TensorRtLlm { largest }),
            _ => Err(error()),
        }
    }
}

serde_as_word!(Preset);

impl Policy {
    /// The policy of Megatron-LM PR #3509 with that PR's defaults: exponential ladders of at most 16 token counts up to a full
    /// decode batch, P in {1, 2, 4, ..., max_requests}. Later versions raise the ceiling to 512 tokens (PR #5797) and size
    /// decodes linearly (PR #6667, [`Sizing::Hybrid`]).
    #[must_use]
    pub fn megatron() -> Self {
        Self { graph_count: GraphCount::Count(16), ..Self::default() }
    }

    /// The policy of vLLM 0.33.0: 1, 2, 4, then every 8 below 256, then every 16 up to twice a full decode batch, at most
    /// `largest` and `max_tokens`, which is `max_num_batched_tokens` there. Full decode graphs take the same sizes, rounded up
    /// to whole decodes, and end at a full decode batch; a mixed graph has one number of requests, min(T, max_requests).
    ///
    /// # Errors
    /// A list of more than [`MAX_CANDIDATES`](crate::MAX_CANDIDATES) sizes.
    pub fn vllm(limits: &Limits, largest: u32) -> Result<Self, PlanError> {
        let largest = limits.decode_tokens().saturating_mul(2).min(largest.into()).min(limits.max_tokens.into());
        check_candidates(largest / 16)?;
        let mut sizes: Vec<u64> =
            [1, 2, 4].into_iter().chain((8..256).step_by(8)).chain((256..=largest).step_by(16)).collect();
        if u64::from(limits.max_tokens) <= largest {
            sizes.push(limits.max_tokens.into());
        }
        sizes.retain(|&size| size <= largest);
        let per_decode = limits.tokens_per_decode();
        let decode = sizes.iter().map(|size| size.next_multiple_of(per_decode)).filter(|&size| size <= largest);
        Ok(Self::listed(limits, decode.collect(), sizes))
    }

    /// The policy of SGLang 0.5.23. Decodes: 1, 2, 4, 8, 12, then every 8 up to 256, every 16 up to 512, every 32 beyond, and
    /// with speculation the finer list; up to `largest_decodes` requests, at most `max_requests`. Prefill: every 4 up to 32, 16
    /// to 256, 32 to 512, 64 to 1024, 256 to 4096, 512 beyond, up to `max_tokens`, which is `chunked_prefill_size` there. The
    /// prefill graph of a token count takes any requests, as the default (breakable) graphs there do.
    ///
    /// # Errors
    /// A list of more than [`MAX_CANDIDATES`](crate::MAX_CANDIDATES) sizes.
    pub fn sglang(limits: &Limits, largest_decodes: u32) -> Result<Self, PlanError> {
        let most = u64::from(largest_decodes.min(limits.max_requests));
        check_candidates(most / 16)?;
        let mut batches: Vec<u64> = if limits.speculative_tokens == 0 {
            let fine = [1, 2, 4, 8, 12].into_iter().chain((16..257).step_by(8)).chain((272..512).step_by(16));
            fine.chain((512..=most).step_by(32)).collect()
        } else {
            let fine = (1..9).chain((10..33).step_by(2)).chain((40..65).step_by(4)).chain((72..257).step_by(8));
            fine.chain((272..=most).step_by(16)).collect()
        };
        batches.retain(|&batch| batch < most);
        batches.push(most);
        let decode = batches.into_iter().map(|batch| batch.saturating_mul(limits.tokens_per_decode())).collect();

        let most = u64::from(limits.max_tokens);
        check_candidates(most / 512)?;
        let fine = (4..33).step_by(4).chain((48..257).step_by(16)).chain((288..513).step_by(32));
        let coarse = (576..1025).step_by(64).chain((1280..4097).step_by(256)).chain((4608..=most).step_by(512));
        let mut prefill: Vec<u64> = fine.chain(coarse).filter(|&size| size < most).collect();
        prefill.push(most);
        Ok(Self::listed(limits, decode, prefill))
    }

    /// The policy of TensorRT-LLM 1.3 with padded batches: decodes of 1, 2, 4, then every 8 up to 128, then every 64 up to
    /// `largest` requests, at most `max_requests`. Steps with prefills have no full graphs there.
    ///
    /// # Errors
    /// A list of more than [`MAX_CANDIDATES`](crate::MAX_CANDIDATES) sizes.
    pub fn tensorrt_llm(limits: &Limits, largest: u32) -> Result<Self, PlanError> {
        let most = u64::from(largest.min(limits.max_requests));
        check_candidates(most / 64)?;
        let batches = [1, 2, 4].into_iter().chain((8..129).step_by(8)).chain((192..=most).step_by(64));
        let batches = batches.filter(|&batch| batch < most).chain([most]);
        let decode = batches.map(|batch| batch.saturating_mul(limits.tokens_per_decode())).collect();
        Ok(Self { decode_only: true, ..Self::listed(limits, decode, Vec::new()) })
    }

    /// The lists, as far as they are token counts under the limits.
    fn listed(limits: &Limits, decode: Vec<u64>, prefill: Vec<u64>) -> Self {
        let alignment = u64::from(limits.tensor_parallel.max(1));
        let possible = |sizes: Vec<u64>| {
            let sizes = sizes.into_iter().filter(|&size| size > 0 && size <= u64::from(limits.max_tokens));
            sizes.filter(|size| size % alignment == 0).filter_map(|size| u32::try_from(size).ok()).collect::<Vec<_>>()
        };
        let (decode, prefill) = (possible(decode), possible(prefill));
        let largest = decode.iter().chain(&prefill).copied().max().unwrap_or(0);
        Self {
            sizing: Sizing::list(decode, prefill),
            prefill_axis: PrefillAxis::Off,
            token_ceiling: TokenCeiling::Tokens(largest.into()),
            ..Self::default()
        }
    }
}
