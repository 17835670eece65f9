//! Whether every sizing generated the same tokens: graphs choose how a step is launched, never what it computes.

use std::fmt;

/// The first place where two runs of the same requests differ. Requests, tokens and rounds count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The sizing whose tokens they are.
    pub(super) sizing: String,
    pub(super) round: usize,
    pub(super) request: usize,
    pub(super) position: usize,
    /// Nothing where the request has fewer tokens.
    pub(super) found: Option<u32>,
    /// The token of the first sizing's first round.
    pub(super) expected: Option<u32>,
    /// The first sizing.
    pub(super) reference: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sizing, round, request, position, found, expected, reference } = self;
        let token = |token: &Option<u32>| token.map_or("no token".to_owned(), |token| format!("`{token}`"));
        write!(
            formatter,
            "request {request}, token {position}, counted from 0: {} under `{sizing}` in round {round}, {} under `{reference}` in round 0; \
             graphs must not change what is generated",
            token(found),
            token(expected)
        )
    }
}

/// The first request and position where tokens are not those expected; `None` if all are.
pub(super) fn first_difference(expected: &[Vec<u32>], found: &[Vec<u32>]) -> Option<(usize, usize)> {
    let none = Vec::new();
    (0..expected.len().max(found.len())).find_map(|request| {
        let [expected, found] = [expected, found].map(|tokens| tokens.get(request).unwrap_or(&none));
        if expected == found {
            return None;
        }
        let shared = expected.iter().zip(found).take_while(|(expected, found)| expected == found).count();
        Some((request, shared))
    })
}

/// The first difference of any round of any sizing from the first round of the first one.
pub(super) fn compare<'a>(runs: impl Iterator<Item = (&'a str, Vec<&'a [Vec<u32>]>)>) -> Option<Difference> {
    let mut reference: Option<(&str, &[Vec<u32>])> = None;
    for (sizing, rounds) in runs {
        for (round, &tokens) in rounds.iter().enumerate() {
            let &mut (of, expected) = reference.get_or_insert((sizing, tokens));
            if let Some((request, position)) = first_difference(expected, tokens) {
                let token = |tokens: &[Vec<u32>]| tokens.get(request)?.get(position).copied();
                return Some(Difference {
                    sizing: sizing.to_owned(),
                    round,
                    request,
                    position,
                    found: token(tokens),
                    expected: token(expected),
                    reference: of.to_owned(),
                });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Vec<Vec<u32>> {
        vec![vec![1, 2, 3], vec![4, 5, 6], vec![7, 8, 9]]
    }

    #[test]
    fn equal_tokens_do_not_differ() {
        assert_eq!(first_difference(&tokens(), &tokens()), None);
        let (one, other) = (tokens(), tokens());
        assert_eq!(compare([("a", vec![&one[..], &other]), ("b", vec![&other[..]])].into_iter()), None);
        assert_eq!(compare(std::iter::empty()), None);
    }

    #[test]
    fn the_first_request_and_position_are_found() {
        let good = tokens();
        let mut planted = tokens();
        planted[2][0] = 0;
        planted[1][2] = 60;
        let difference = compare([("linear", vec![&good[..]]), ("hybrid", vec![&good[..], &planted])].into_iter());
        let difference = difference.expect("a planted difference");
        assert_eq!((difference.request, difference.position, difference.round), (1, 2, 1));
        assert_eq!((difference.found, difference.expected), (Some(60), Some(6)));
        assert_eq!(
            difference.to_string(),
            "request 1, token 2, counted from 0: `60` under `hybrid` in round 1, `6` under `linear` in round 0; graphs must not change \
             what is generated"
        );
    }

    #[test]
    fn too_few_tokens_and_requests_differ() {
        let mut short = tokens();
        short[1].pop();
        assert_eq!(first_difference(&tokens(), &short), Some((1, 2)));
        assert_eq!(first_difference(&short, &tokens()), Some((1, 2)));
        assert_eq!(first_difference(&tokens(), &tokens()[..2]), Some((2, 0)));
        let difference = compare([("a", vec![&tokens()[..]]), ("b", vec![&short[..]])].into_iter()).expect("shorter");
        assert_eq!((difference.found, difference.expected), (None, Some(6)));
        assert!(difference.to_string().contains("no token under `b`"));
    }
}
