//! The ordered list of points.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::InvalidPlan;
use crate::merge::KernelKey;
use crate::planner::MAX_CANDIDATES;
use crate::point::{GridPoint, PointKind};

/// The points to capture, in capture order. A plan may be empty.
///
/// Serialised it is `{"points":[{"tokens":..,"prefills":..,"decodes":..},..],"token_counts":[..]}`; read back, points that
/// no batch can have and token counts that are not those of the points are refused ([`InvalidPlan`]). Fields that are not
/// known are ignored, and `token_counts` may be missing. [`PlanFile`](crate::PlanFile) adds what the plan was made for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Plan {
    points: Vec<GridPoint>,
    token_counts: Option<Vec<u32>>,
}

/// How many points of each kind a plan has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PointCounts {
    /// Points with P = 0.
    pub decode_only: usize,
    /// Points with P > 0 and D > 0.
    pub mixed: usize,
    /// Points with P > 0 and D = 0.
    pub prefill_only: usize,
}

impl Plan {
    pub(crate) fn from_points(points: Vec<GridPoint>) -> Self {
        let token_counts: BTreeSet<u32> = points.iter().map(|point| point.tokens).collect();
        let token_counts = (!points.is_empty()).then(|| token_counts.into_iter().rev().collect());
        Self { points, token_counts }
    }

    /// The points in capture order.
    #[must_use]
    pub fn points(&self) -> &[GridPoint] {
        &self.points
    }

    /// Every T once, largest first. None for a plan without points.
    #[must_use]
    pub fn token_counts(&self) -> Option<&[u32]> {
        self.token_counts.as_deref()
    }

    /// The number of points, which is the number of graphs to capture.
    #[must_use]
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether every step would run eagerly.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// How many points there are of each kind.
    #[must_use]
    pub fn counts(&self) -> PointCounts {
        let mut counts = PointCounts::default();
        for point in &self.points {
            match point.kind() {
                PointKind::DecodeOnly => counts.decode_only += 1,
                PointKind::Mixed => counts.mixed += 1,
                PointKind::PrefillOnly => counts.prefill_only += 1,
            }
        }
        counts
    }

    /// The number of different kernels by the default key, [`KernelKey`].
    #[must_use]
    pub fn distinct(&self) -> usize {
        self.distinct_by(KernelKey::of)
    }

    /// The number of different keys, a key standing for all that the captured kernels depend on.
    #[must_use]
    pub fn distinct_by<K: Ord>(&self, key: impl Fn(&GridPoint) -> K) -> usize {
        self.points.iter().map(key).collect::<BTreeSet<_>>().len()
    }

    /// The largest T of a point with prefill slots: a step with prefills and more tokens than this runs eagerly.
    #[must_use]
    pub fn largest_prefill_tokens(&self) -> Option<u32> {
        self.points.iter().filter(|point| point.prefills > 0).map(|point| point.tokens).max()
    }
}

/// What a plan is written as.
#[derive(Deserialize)]
pub(crate) struct Fields {
    pub(crate) points: Vec<GridPoint>,
    #[serde(default)]
    pub(crate) token_counts: Option<Vec<u32>>,
}

impl TryFrom<Fields> for Plan {
    type Error = InvalidPlan;

    fn try_from(file: Fields) -> Result<Self, InvalidPlan> {
        if file.points.len() as u64 > MAX_CANDIDATES {
            return Err(InvalidPlan::TooManyPoints { points: file.points.len(), limit: MAX_CANDIDATES });
        }
        for (index, point) in file.points.iter().enumerate() {
            if !(1..=u64::from(point.tokens)).contains(&point.requests()) {
                let GridPoint { tokens, prefills, decodes } = *point;
                return Err(InvalidPlan::ImpossiblePoint { index, tokens, prefills, decodes });
            }
        }
        let plan = Self::from_points(file.points);
        if let Some(given) = file.token_counts {
            let own = plan.token_counts().unwrap_or_default();
            if given != own {
                let index = given.iter().zip(own).take_while(|(a, b)| a == b).count();
                return Err(InvalidPlan::TokenCountsDiffer { index });
            }
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::plan;
    use crate::policy::{Limits, Policy};

    #[test]
    fn the_headline_plan_in_numbers() {
        let plan = plan(&Limits::default(), &Policy::default()).expect("a plan");
        assert_eq!(plan.counts(), PointCounts { decode_only: 9, mixed: 43, prefill_only: 8 });
        assert_eq!(plan.distinct(), 17);
        assert_eq!(plan.largest_prefill_tokens(), Some(396));
        assert_eq!(plan.points()[43], GridPoint { tokens: 396, prefills: 1, decodes: 395 });
    }

    #[test]
    fn json_reads_back() {
        let plan = plan(&Limits { max_requests: 2, ..Limits::default() }, &Policy::default()).expect("a plan");
        let json = serde_json::to_string(&plan).expect("json");
        assert!(json.starts_with(r#"{"points":[{"tokens":2,"prefills":2,"decodes":0},"#), "{json}");
        assert!(json.ends_with(r#""token_counts":[2,1]}"#), "{json}");
        assert_eq!(serde_json::from_str::<Plan>(&json).expect("a plan"), plan);
        let empty = serde_json::to_string(&Plan::default()).expect("json");
        assert_eq!(empty, r#"{"points":[],"token_counts":null}"#);
        assert_eq!(serde_json::from_str::<Plan>(&empty).expect("a plan"), Plan::default());
    }

    #[test]
    fn what_is_not_known_or_missing_is_no_matter() {
        let json = r#"{"version":7,"points":[{"tokens":2,"prefills":1,"decodes":1,"kind":"mixed"}]}"#;
        let plan: Plan = serde_json::from_str(json).expect("a plan");
        assert_eq!(plan.token_counts(), Some(&[2][..]));
        assert_eq!(
            serde_json::from_str::<Plan>(r#"{"points":[],"token_counts":[]}"#).expect("a plan"),
            Plan::default()
        );
    }

    #[test]
    fn hostile_json_is_an_error() {
        let point = |tokens: &str, prefills: &str, decodes: &str| {
            format!(r#"{{"points":[{{"tokens":{tokens},"prefills":{prefills},"decodes":{decodes}}}]}}"#)
        };
        let deep = "[".repeat(100_000);
        let cases = [
            String::new(),
            "[]".into(),
            "{}".into(),
            "null".into(),
            r#"{"points":3}"#.into(),
            r#"{"points":[[1,2]]}"#.into(),
            r#"{"points":[{"tokens":4}]}"#.into(),
            format!(r#"{{"points":{deep}"#),
            point("-1", "0", "1"),
            point("1.5", "0", "1"),
            point("4294967296", "0", "1"),
            point("\"4\"", "0", "1"),
            point("0", "0", "0"),
            point("4", "0", "0"),
            point("4", "3", "2"),
            point("4294967295", "4294967295", "4294967295"),
            r#"{"points":[{"tokens":4,"prefills":0,"decodes":4}],"token_counts":[3]}"#.into(),
            r#"{"points":[{"tokens":4,"prefills":0,"decodes":4}],"token_counts":[4,2]}"#.into(),
            r#"{"points":[{"tokens":4,"prefills":0,"decodes":4}],"token_counts":[]}"#.into(),
        ];
        for json in cases {
            assert!(serde_json::from_str::<Plan>(&json).is_err(), "{json}");
        }
        let error = serde_json::from_str::<Plan>(&point("4", "3", "2")).expect_err("5 requests in 4 tokens");
        assert!(error.to_string().starts_with("points[0] has tokens `4`, prefills `3` and decodes `2`"), "{error}");
    }
}
