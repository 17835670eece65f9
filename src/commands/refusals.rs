//! What the engine refuses, in the words of the command line: limits go by the names of their flags.

use gridpoint_engine::{EngineError, RequestError, SamplingError};
use gridpoint_graph::Bytes;
use gridpoint_model::{LimitError, ModelError};
use gridpoint_plan::Limits;
use gridpoint_runtime::RuntimeError;

use super::Failure;

/// Why a request was not taken.
pub(crate) fn request(error: &RequestError) -> String {
    match error {
        RequestError::NothingToDo => {
            "--max-new-tokens is `0`: it must be at least 1, or --logprobs must ask for those of the prompt".to_owned()
        }
        RequestError::TooManyPages { needed, capacity, max_new_tokens } => format!(
            "the kv cache has `{capacity}` pages beside the dummy page: the prompt and `{max_new_tokens}` new tokens need \
             `{needed}`, so --kv-pages must be at least {} or the request smaller",
            u64::from(*needed) + 1
        ),
        RequestError::Sampling(error) => sampling(error),
        other => other.to_string(),
    }
}

/// Which of the sampling flags is out of range.
pub(crate) fn sampling(error: &SamplingError) -> String {
    let flag = match error {
        SamplingError::Temperature { .. } => "--temperature",
        SamplingError::TopP { .. } => "--top-p",
    };
    let words = error.to_string();
    words.split_once(' ').map_or_else(|| words.clone(), |(_, rest)| format!("{flag} {rest}"))
}

/// Why there is no engine.
pub(crate) fn engine(error: EngineError, limits: &Limits) -> Failure {
    let Limits { max_requests, max_tokens, max_sequence_length, .. } = limits;
    let smaller = format!(
        "--max-requests (`{max_requests}`), --max-tokens (`{max_tokens}`), --max-seq-len (`{max_sequence_length}`) or the \
         token counts of the graphs must be smaller"
    );
    match error {
        EngineError::Limits(_) | EngineError::SequenceLength { .. } | EngineError::MemoryUtilization { .. } => {
            Failure::usage(error)
        }
        EngineError::Runtime(RuntimeError::OutOfMemory { what, needed, free, total })
        | EngineError::Model(ModelError::Runtime(RuntimeError::OutOfMemory { what, needed, free, total })) => {
            let [needed, free, total] = [needed, free, total].map(Bytes::from);
            let what = what.trim_end_matches(',');
            Failure::Failed(format!("{what}: {needed} are needed and {free} of {total} are free, so {smaller}").into())
        }
        EngineError::MemoryBudget { budget, needed } => {
            let [budget, needed] = [budget, needed].map(Bytes::from);
            Failure::Failed(
                format!(
                    "the model with its largest step and the least kv cache takes {needed}, graphs not counted, and {budget} may be \
                     taken: --memory-budget or --gpu-memory-utilization must be larger, or {smaller}"
                )
                .into(),
            )
        }
        EngineError::PlanBudget(error) => Failure::Failed(
            format!("the graphs do not fit, --capture-budget, --memory-budget or --gpu-memory-utilization must be larger: {error}")
                .into(),
        ),
        EngineError::Runtime(RuntimeError::LayoutOverflow { region })
        | EngineError::Model(ModelError::Runtime(RuntimeError::LayoutOverflow { region })) => {
            Failure::Failed(format!("the {region} of a step is larger than can be addressed: {smaller}").into())
        }
        EngineError::Runtime(error @ RuntimeError::NoProgrammaticLaunches { .. }) => {
            Failure::Failed(format!("--launches is `programmatic`: {error}").into())
        }
        EngineError::Model(ModelError::Limit(error)) => {
            let LimitError { name, value, limit, .. } = error;
            Failure::Failed(
                format!("`{name}` would be `{value}`, the kernels count it to at most {limit}: {smaller}").into(),
            )
        }
        other => Failure::failed(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named() {
        let words = |temperature, top_p| {
            let parameters = gridpoint_engine::SamplingParameters { temperature, top_k: 0, top_p, seed: 0 };
            sampling(&parameters.validate().expect_err("out of range"))
        };
        assert!(words(f32::NAN, 1.0).starts_with("--temperature is `NaN`: it must be 0 (greedy) or "));
        assert!(words(0.0, 1.5).starts_with("--top-p is `1.5`: it must be above 0 and at most 1"));
        assert_eq!(
            request(&RequestError::TooManyPages { needed: 2, capacity: 1, max_new_tokens: 100 }),
            "the kv cache has `1` pages beside the dummy page: the prompt and `100` new tokens need `2`, so --kv-pages must \
             be at least 3 or the request smaller"
        );
    }
}
