//! The words for a law: what --sizing and --compare take.

use std::fmt;
use std::str::FromStr;

use gridpoint_plan::{ParseSizingError, Preset, Sizing};

/// The most characters of a list that a line shows.
const SHORT: usize = 32;

/// A law of token counts, or another engine's whole policy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Choice {
    Sizing(Sizing),
    /// So many token counts, fitted to traffic.
    Fit(usize),
    Preset(Preset),
}

/// What --sizing takes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SizingWord {
    Choice(Choice),
    /// Ratios come from flags of their own.
    Geometric,
}

/// What --compare takes: laws in the order given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Comparison(pub(crate) Vec<Choice>);

/// A word that is no law.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ParseChoiceError {
    #[error(
        "`{word}` is not a sizing; it is `exponential`, `linear`, `hybrid`, `geometric:R`, `geometric:R/R`, `list:N,N`, \
         `list:N,N/N,N`, of two parts the first for decodes, or `fit:K`"
    )]
    Unknown { word: String },
    #[error(
        "`{word}` is not a policy to compare; it is a sizing (`exponential`, `linear`, `hybrid`, `geometric:R`, `list:N,N`, \
         `fit:K`) or an engine (`megatron`, `vllm`, `sglang`, `tensorrt-llm`)"
    )]
    UnknownPolicy { word: String },
    #[error("`{word}` names no number of token counts; it is a whole number of at least 1, as in `fit:36`")]
    Fit { word: String },
    #[error(transparent)]
    Sizing(#[from] ParseSizingError),
    #[error("there is no policy to compare; name at least one")]
    Nothing,
}

impl Choice {
    /// The word, cut where a list makes it long.
    pub(crate) fn short(&self) -> String {
        let word = self.to_string();
        match self {
            Self::Sizing(sizing) => short_sizing(sizing),
            _ => word,
        }
    }

    fn sizing_or_fit(word: &str) -> Result<Self, ParseChoiceError> {
        if let Some(sizes) = word.strip_prefix("fit:") {
            let sizes = sizes.parse().ok().filter(|&sizes: &usize| sizes > 0 && word.as_bytes()[4] != b'+');
            return sizes.map(Self::Fit).ok_or_else(|| ParseChoiceError::Fit { word: word.to_owned() });
        }
        match word.parse() {
            Ok(sizing) => Ok(Self::Sizing(sizing)),
            Err(ParseSizingError::Unknown { word }) => Err(ParseChoiceError::Unknown { word }),
            Err(error) => Err(error.into()),
        }
    }
}

/// The sizing's word, cut where a list makes it long.
pub(crate) fn short_sizing(sizing: &Sizing) -> String {
    let word = sizing.to_string();
    let Sizing::List { decode, prefill } = sizing else { return word };
    if word.len() <= SHORT {
        return word;
    }
    let ends = |list: &[u32]| match (list.iter().min(), list.iter().max()) {
        (Some(least), Some(most)) if least != most => format!("{least}..{most}"),
        (Some(only), _) => only.to_string(),
        _ => String::new(),
    };
    if decode == prefill {
        return format!("list:{} ({} counts)", ends(decode), decode.len());
    }
    format!("list:{}/{} ({}/{} counts)", ends(decode), ends(prefill), decode.len(), prefill.len())
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sizing(sizing) => fmt::Display::fmt(sizing, f),
            Self::Fit(sizes) => write!(f, "fit:{sizes}"),
            Self::Preset(preset) => fmt::Display::fmt(preset, f),
        }
    }
}

impl FromStr for SizingWord {
    type Err = ParseChoiceError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        if word == "geometric" { Ok(Self::Geometric) } else { Choice::sizing_or_fit(word).map(Self::Choice) }
    }
}

impl FromStr for Comparison {
    type Err = ParseChoiceError;

    /// Commas part policies, and the sizes of a list too: what begins with a digit goes on with the list before it.
    fn from_str(words: &str) -> Result<Self, Self::Err> {
        let mut policies: Vec<String> = Vec::new();
        for word in words.split(',').map(str::trim) {
            match policies.last_mut() {
                Some(list) if list.starts_with("list:") && word.starts_with(|first: char| first.is_ascii_digit()) => {
                    list.push(',');
                    list.push_str(word);
                }
                _ => policies.push(word.to_owned()),
            }
        }
        if policies.iter().all(String::is_empty) {
            return Err(ParseChoiceError::Nothing);
        }
        let choice = |word: &String| match Choice::sizing_or_fit(word) {
            Err(ParseChoiceError::Unknown { word }) => {
                word.parse().map(Choice::Preset).map_err(|_| ParseChoiceError::UnknownPolicy { word })
            }
            choice => choice,
        };
        policies.iter().map(choice).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(words: &str) -> Vec<String> {
        let Comparison(choices) = words.parse().unwrap_or_else(|error| panic!("{words}: {error}"));
        choices.iter().map(Choice::to_string).collect()
    }

    #[test]
    fn commas_part_policies_and_sizes() {
        assert_eq!(compared("exponential, geometric:1.41,fit:36"), ["exponential", "geometric:1.41", "fit:36"]);
        assert_eq!(compared("list:1,2,4/512,1024,linear"), ["list:1,2,4/512,1024", "linear"]);
        assert_eq!(compared("vllm:1024,megatron"), ["vllm:1024", "megatron"]);
        let error = |words: &str| words.parse::<Comparison>().expect_err(words).to_string();
        assert!(error("linear,,hybrid").starts_with("`` is not a policy to compare"));
        assert!(error("").starts_with("there is no policy"));
        assert!(error("geometric").starts_with("`geometric` is not a policy to compare"));
        assert!(error("linear,geometric:1").contains("the ratio is `1`; it must be a finite number above 1"));
        assert!(error("4,linear").starts_with("`4` is not a policy"));
    }

    #[test]
    fn fits_have_at_least_one_size() {
        assert_eq!("fit:36".parse(), Ok(SizingWord::Choice(Choice::Fit(36))));
        for word in ["fit:", "fit:0", "fit:-1", "fit:+3", "fit:1.5", "fit:x", "fit:99999999999999999999999"] {
            assert_eq!(word.parse::<SizingWord>(), Err(ParseChoiceError::Fit { word: word.to_owned() }));
        }
        assert!(matches!("fit".parse::<SizingWord>(), Err(ParseChoiceError::Unknown { .. })));
        assert_eq!("geometric".parse(), Ok(SizingWord::Geometric));
    }

    #[test]
    fn long_lists_are_cut() {
        let sizes: Vec<u32> = (1..=100).collect();
        assert_eq!(short_sizing(&Sizing::list(sizes.clone(), vec![4096])), "list:1..100/4096 (100/1 counts)");
        assert_eq!(short_sizing(&Sizing::list(sizes.clone(), sizes)), "list:1..100 (100 counts)");
        assert_eq!(short_sizing(&Sizing::list(vec![1, 2], vec![1, 2])), "list:1,2");
    }
}
