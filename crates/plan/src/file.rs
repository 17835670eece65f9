//! A plan beside what it was made for, as it is kept in a file.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::InvalidPlan;
use crate::plan::{Fields, Plan};
use crate::point::GridPoint;
use crate::policy::{Limits, Policy};

/// The version of plan files that this crate writes and reads. It changes with the meaning of what stands in them.
pub const PLAN_FILE_VERSION: u32 = 1;

/// A plan with the policy and the limits that it was made from.
///
/// Serialised it is the plan's own fields with `version`, `policy` and `limits` before them. Files of another version are
/// refused when read. A file without the three, as a plan alone is written, reads too; it names no limits, and
/// [`PlanFile::check`] refuses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct PlanFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    #[serde(flatten)]
    plan: Plan,
}

/// Why a plan from a file is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanFileError {
    /// Written by a program that may mean something else by it.
    #[error(
        "the plan is of version `{version}`; this program reads version {}: make the plan again",
        PLAN_FILE_VERSION
    )]
    OtherVersion {
        /// The version in the file.
        version: String,
    },
    /// A file of this version without what it was made for.
    #[error("the plan is of version {} and names no {field}: make the plan again", PLAN_FILE_VERSION)]
    Incomplete {
        /// What is missing.
        field: &'static str,
    },
    /// A plan alone, where limits must agree.
    #[error("the plan names no version and no limits, so it may not fit these; make it again with them")]
    NoLimits,
    /// A plan for other limits.
    #[error("the plan is for {field} `{planned}`, not for `{given}`: make the plan again")]
    OtherLimits {
        /// The first limit that differs.
        field: &'static str,
        /// The plan's.
        planned: u32,
        /// That of [`PlanFile::check`].
        given: u32,
    },
    /// A point that the limits in the same file do not allow.
    #[error("points[{index}] has {requests} requests; the plan's max_requests is {max_requests}")]
    TooManyRequests {
        /// Its position.
        index: usize,
        /// Its P + D.
        requests: u64,
        /// [`Limits::max_requests`].
        max_requests: u32,
    },
    /// Points that are no plan.
    #[error(transparent)]
    Plan(#[from] InvalidPlan),
}

impl PlanFile {
    /// A file of this version.
    #[must_use]
    pub fn new(plan: Plan, policy: Policy, limits: Limits) -> Self {
        Self { version: Some(PLAN_FILE_VERSION), policy: Some(policy), limits: Some(limits), plan }
    }

    /// The plan, whatever it was made for.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The plan, whatever it was made for.
    #[must_use]
    pub fn into_plan(self) -> Plan {
        self.plan
    }

    /// The policy that made the plan, where the file names one.
    #[must_use]
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }

    /// The limits that the plan was made for, where the file names them.
    #[must_use]
    pub fn limits(&self) -> Option<&Limits> {
        self.limits.as_ref()
    }

    /// The plan, if it was made for exactly these limits.
    ///
    /// # Errors
    /// Other limits, none, or points that they do not allow.
    pub fn check(&self, limits: &Limits) -> Result<&Plan, PlanFileError> {
        let planned = self.limits.as_ref().ok_or(PlanFileError::NoLimits)?;
        for ((field, planned), (_, given)) in named(planned).into_iter().zip(named(limits)) {
            if planned != given {
                return Err(PlanFileError::OtherLimits { field, planned, given });
            }
        }
        let max_requests = limits.max_requests;
        let too_many = |point: &GridPoint| point.requests() > max_requests.into();
        match self.plan.points().iter().position(too_many) {
            Some(index) => {
                let requests = self.plan.points()[index].requests();
                Err(PlanFileError::TooManyRequests { index, requests, max_requests })
            }
            None => Ok(&self.plan),
        }
    }
}

fn named(limits: &Limits) -> [(&'static str, u32); 5] {
    let Limits { max_requests, max_tokens, max_sequence_length, tensor_parallel, speculative_tokens } = *limits;
    [
        ("max_requests", max_requests),
        ("max_tokens", max_tokens),
        ("max_sequence_length", max_sequence_length),
        ("tensor_parallel", tensor_parallel),
        ("speculative_tokens", speculative_tokens),
    ]
}

/// What a file may hold. The version stands first, so that no word of another version is looked into.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    version: Option<Version>,
    #[serde(default)]
    policy: Option<Policy>,
    #[serde(default)]
    limits: Option<Limits>,
    points: Vec<GridPoint>,
    #[serde(default)]
    token_counts: Option<Vec<u32>>,
}

/// [`PLAN_FILE_VERSION`]. No other is read.
struct Version;

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ThisVersion;

        impl Visitor<'_> for ThisVersion {
            type Value = Version;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "version {PLAN_FILE_VERSION} of plan files")
            }

            fn visit_u64<E: Error>(self, version: u64) -> Result<Version, E> {
                if version == u64::from(PLAN_FILE_VERSION) { Ok(Version) } else { Err(other_version(version)) }
            }

            fn visit_i64<E: Error>(self, version: i64) -> Result<Version, E> {
                Err(other_version(version))
            }

            fn visit_f64<E: Error>(self, version: f64) -> Result<Version, E> {
                Err(other_version(version))
            }

            fn visit_str<E: Error>(self, version: &str) -> Result<Version, E> {
                Err(other_version(version))
            }
        }

        deserializer.deserialize_any(ThisVersion)
    }
}

fn other_version<E: Error>(version: impl fmt::Display) -> E {
    E::custom(PlanFileError::OtherVersion { version: version.to_string() })
}

impl TryFrom<Written> for PlanFile {
    type Error = PlanFileError;

    fn try_from(written: Written) -> Result<Self, PlanFileError> {
        let Written { version, policy, limits, points, token_counts } = written;
        let plan = Plan::try_from(Fields { points, token_counts })?;
        if version.is_none() {
            return Ok(Self { version: None, policy: None, limits: None, plan });
        }
        let policy = policy.ok_or(PlanFileError::Incomplete { field: "policy" })?;
        let limits = limits.ok_or(PlanFileError::Incomplete { field: "limits" })?;
        Ok(Self::new(plan, policy, limits))
    }
}
