//! Which real steps a point replays.

use gridpoint_plan::{GridPoint, StepShape};

use super::Room;

/// How many tokens of their sequences the requests of a step have in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// None, or one where a decode needs it.
    Short,
    /// As many as there are pages for: the first request as many as a sequence may have.
    Long,
    /// Random ones, many of them next to the end of a page or of a chunk of attention.
    Mixed,
}

impl std::fmt::Display for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::Mixed => "mixed",
        })
    }
}

/// A real step in outline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Case {
    /// Its counts.
    pub shape: StepShape,
    /// Tokens in the cache before it.
    pub context: Context,
    /// Whether tokens of prompts are scored, which takes more rows of the language-model head than there are requests.
    pub scores: bool,
}

/// The cases of a point, and whether its full shape is too large for the room and the bound on tokens.
pub(super) struct Cases {
    pub(super) cases: Vec<Case>,
    pub(super) reduced: bool,
}

/// Bounds of a step: the room's, and that on its real tokens.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) room: Room,
    pub(super) most_tokens: u32,
}

impl Bounds {
    /// The shape with as many of its counts as there is room for; `None` if nothing is left.
    pub(super) fn fit(&self, shape: StepShape) -> Option<StepShape> {
        let Self { room, most_tokens } = *self;
        // A request takes a page, and each 64 tokens one more at most.
        let in_pages = (room.pages / 2).max(room.pages.min(1));
        let most = room.requests.min(in_pages).min(most_tokens).min(room.tokens);
        let StepShape { mut prefills, mut decodes, .. } = shape;
        let requests = u64::from(prefills) + u64::from(decodes);
        if requests > u64::from(most) {
            let share = u64::from(prefills) * u64::from(most) / requests;
            prefills = (share as u32).max(prefills.min(1)).min(most);
            decodes = decodes.min(most - prefills);
        }
        let requests = prefills + decodes;
        if requests == 0 {
            return None;
        }
        if prefills == 0 {
            return Some(StepShape { tokens: decodes, prefills, decodes });
        }
        let in_pages =
            u64::from(room.pages - requests) * u64::from(gridpoint_runtime::parameters::GRIDPOINT_PAGE_TOKENS);
        let in_sequences = u64::from(decodes) + u64::from(prefills) * u64::from(room.sequence_length);
        let tokens =
            u64::from(shape.tokens.min(most_tokens).min(room.tokens)).min(in_pages.saturating_sub(u64::from(requests)));
        let tokens = (tokens.min(in_sequences) as u32).max(requests);
        Some(StepShape { tokens, prefills, decodes })
    }

    /// The point's own counts as far as there is room, and whether something is left out.
    pub(super) fn full(&self, point: GridPoint) -> Option<(Case, bool)> {
        let GridPoint { tokens, prefills, decodes } = point;
        let own = StepShape { tokens: if prefills == 0 { decodes } else { tokens }, prefills, decodes };
        let shape = self.fit(own)?;
        Some((Case { shape, context: Context::Mixed, scores: false }, shape != own))
    }

    /// The cases of the first point of a graph.
    pub(super) fn all(&self, point: GridPoint) -> Cases {
        let GridPoint { tokens: t, prefills: p, decodes: d } = point;
        let full = self.full(point);
        let reduced = full.is_none_or(|(_, reduced)| reduced);
        let between = |p: u32, d: u32, part: u32| {
            let least = p.saturating_add(d);
            least.saturating_add(t.saturating_sub(least) / part)
        };
        let (half_p, half_d) = (p / 2, d / 2);
        // Surplus decodes in slots of prefills.
        let surplus = p - half_p;
        let outlines = [
            (between(p, d, 3), p, d, Context::Long, false),
            (between(p, d, 5), p, d, Context::Short, false),
            (between(half_p, d, 2), half_p, d, Context::Mixed, true),
            (between(p, half_d, 2), p, half_d, Context::Short, true),
            (between(half_p, half_d, 4), half_p, half_d, Context::Long, false),
            (between(p.div_ceil(2), d / 4, 3), p.div_ceil(2), d / 4, Context::Mixed, true),
            (between(half_p, d.saturating_add(surplus), 2), half_p, d.saturating_add(surplus), Context::Mixed, false),
            (d, 0, d, Context::Long, false),
            (t, p.min(1), 0, Context::Long, true),
            (1, 0, 1, Context::Long, false),
            (1, 0, 1, Context::Short, false),
            (1, p.min(1), 0, Context::Short, false),
        ];
        let mut cases: Vec<Case> = full.into_iter().map(|(case, _)| case).collect();
        for (tokens, prefills, decodes, context, scores) in outlines {
            if prefills > p || u64::from(prefills) + u64::from(decodes) > point.requests() || tokens > t {
                continue;
            }
            let tokens = if prefills == 0 { decodes } else { tokens };
            let shape = self.fit(StepShape { tokens, prefills, decodes });
            cases.extend(shape.map(|shape| Case { shape, context, scores: scores && shape.prefills > 0 }));
        }
        let mut known = std::collections::HashSet::new();
        cases.retain(|&case| known.insert(case));
        Cases { cases, reduced }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(most_tokens: u32, pages: u32) -> Bounds {
        let room = Room { tokens: 4096, requests: 64, logit_rows: 64, sequence_length: 640, pages, vocabulary: 100 };
        Bounds { room, most_tokens }
    }

    fn point(tokens: u32, prefills: u32, decodes: u32) -> GridPoint {
        GridPoint { tokens, prefills, decodes }
    }

    #[test]
    fn a_graph_replays_fewer_of_everything() {
        let point = point(96, 4, 8);
        let Cases { cases, reduced } = bounds(u32::MAX, 200).all(point);
        assert!(!reduced);
        assert_eq!(cases[0].shape, StepShape { tokens: 96, prefills: 4, decodes: 8 });
        let any = |what: &str, holds: fn(&Case) -> bool| assert!(cases.iter().any(holds), "{what}: {cases:?}");
        any("fewer tokens", |case| case.shape.tokens < 96 && (case.shape.prefills, case.shape.decodes) == (4, 8));
        any("other P", |case| case.shape.prefills == 2 && case.shape.decodes == 8);
        any("other D", |case| case.shape.prefills == 4 && case.shape.decodes == 4);
        any("decodes in prefill slots", |case| case.shape.decodes > 8);
        any("only decodes", |case| case.shape.prefills == 0);
        any("only a prefill", |case| case.shape.decodes == 0);
        any("one token", |case| case.shape.tokens == 1);
        any("a long context", |case| case.context == Context::Long);
        any("a short context", |case| case.context == Context::Short);
        any("scores", |case| case.scores);
    }

    #[test]
    fn every_case_fits_its_point_and_the_room() {
        for most in [1, 7, 60, u32::MAX] {
            for pages in [1, 2, 9, 500] {
                for own in [
                    point(1, 0, 1),
                    point(1, 1, 0),
                    point(64, 0, 64),
                    point(64, 64, 0),
                    point(4096, 3, 60),
                    point(2, 1, 1),
                ] {
                    let bounds = bounds(most, pages);
                    for Case { shape, .. } in bounds.all(own).cases {
                        let StepShape { tokens, prefills, decodes } = shape;
                        assert!(tokens <= own.tokens && tokens <= most.max(1), "{shape} of {own}, {most}");
                        assert!(
                            u64::from(prefills + decodes) <= own.requests() && prefills <= own.prefills,
                            "{shape} of {own}"
                        );
                        assert!(prefills + decodes >= 1 && tokens >= prefills + decodes, "{shape} of {own}");
                        assert!(prefills > 0 || tokens == decodes, "{shape} of {own}");
                        assert!(tokens / 64 + prefills + decodes <= pages, "{shape} of {own} in {pages} pages");
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_bound_leaves_out_is_said() {
        assert!(bounds(20, 200).all(point(96, 4, 8)).reduced);
        assert!(bounds(u32::MAX, 10).all(point(64, 0, 64)).reduced);
        assert_eq!(bounds(20, 200).full(point(96, 4, 8)).map(|(case, _)| case.shape.tokens), Some(20));
    }
}
