//! The requests of a comparison: the same for every sizing.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use gridpoint_engine::{NewRequest, SamplingParameters};
use gridpoint_graph::verify::Random;

/// Tokens of a prompt, from the fewest to the most: `A:B`, or one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PromptTokens {
    pub(super) fewest: u32,
    pub(super) most: u32,
}

/// A word that is no range of prompt lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be the fewest and the most tokens of a prompt, such as `64:1024`, or one number, each at least 1")]
pub(super) struct ParsePromptTokensError;

impl FromStr for PromptTokens {
    type Err = ParsePromptTokensError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| digits.parse::<u32>().map_err(|_| ParsePromptTokensError);
        let (fewest, most) = word.split_once(':').unwrap_or((word, word));
        let (fewest, most) = (number(fewest)?, number(most)?);
        if fewest == 0 || most < fewest { Err(ParsePromptTokensError) } else { Ok(Self { fewest, most }) }
    }
}

impl fmt::Display for PromptTokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.fewest, self.most)
    }
}

/// Prompts of random tokens, all there from the start, and how many tokens each is continued by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Workload {
    pub(super) prompts: Vec<Vec<u32>>,
    pub(super) new_tokens: u32,
}

impl Workload {
    /// The requests of a seed: lengths are uniform in the range, tokens in the vocabulary. Each prompt follows from the seed and its
    /// number alone.
    pub(super) fn new(
        seed: u64,
        requests: u32,
        PromptTokens { fewest, most }: PromptTokens,
        new_tokens: u32,
        vocabulary: u32,
    ) -> Self {
        let prompt = |number: u32| {
            let mut random = Random::of(seed, &[u64::from(number)]);
            let length = random.between(fewest, most);
            (0..length).map(|_| random.between(0, vocabulary.saturating_sub(1))).collect()
        };
        Self { prompts: (0..requests).map(prompt).collect(), new_tokens }
    }

    /// The requests of these numbers. None stops before it has its tokens: another token would change the work.
    pub(super) fn requests(&self, numbers: Range<usize>, new_tokens: u32) -> impl Iterator<Item = NewRequest> {
        self.prompts.get(numbers).unwrap_or_default().iter().map(move |prompt| NewRequest {
            prompt: prompt.clone(),
            max_new_tokens: new_tokens,
            sampling: SamplingParameters::GREEDY,
            logprobs: false,
            stop_tokens: Vec::new(),
        })
    }

    /// Tokens of all prompts.
    pub(super) fn prompt_tokens(&self) -> u64 {
        self.prompts.iter().map(|prompt| prompt.len() as u64).sum()
    }

    /// Tokens of each request at its end.
    pub(super) fn lengths(&self) -> Vec<u64> {
        self.prompts.iter().map(|prompt| prompt.len() as u64 + u64::from(self.new_tokens)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_a_range_or_a_number() {
        let parsed = |word: &str| word.parse::<PromptTokens>().map(|range| (range.fewest, range.most));
        assert_eq!(parsed("64:1024"), Ok((64, 1024)));
        assert_eq!(parsed("7"), Ok((7, 7)));
        for word in ["", ":", "3:", ":3", "0:3", "4:3", "-1:3", "a", "1:2:3", "0"] {
            assert_eq!(parsed(word), Err(ParsePromptTokensError), "{word}");
        }
    }

    #[test]
    fn a_prompt_follows_from_the_seed_and_its_number() {
        let range = PromptTokens { fewest: 2, most: 9 };
        let few = Workload::new(5, 20, range, 4, 100);
        let many = Workload::new(5, 200, range, 4, 100);
        assert_eq!(few.prompts[..], many.prompts[..20]);
        assert_ne!(few, Workload::new(6, 20, range, 4, 100));
        let lengths: std::collections::BTreeSet<usize> = many.prompts.iter().map(Vec::len).collect();
        assert!(lengths.into_iter().eq(2..=9), "all lengths come, and no other");
        assert!(many.prompts.iter().flatten().all(|&token| token < 100));
        assert_eq!(few.prompt_tokens() + 20 * 4, few.lengths().iter().sum::<u64>());
    }
}
