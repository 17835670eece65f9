//! Where a model's weights come from: a checkpoint, or nowhere.

use std::borrow::Cow;

use gridpoint_runtime::{Arena, Staging};

use super::memory::WeightStore;
use super::model::Model;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::weight_plan::{ElementType, WeightPlan};
use crate::weights::Weights;

/// Where weights come from.
#[derive(Clone, Copy, Debug)]
pub enum WeightSource<'a> {
    /// A checkpoint.
    Checkpoint(&'a Weights<'a>),
    /// Numbers made on the device from this seed, in every tensor that the configuration asks for.
    Random(u64),
}

impl<'a> From<&'a Weights<'a>> for WeightSource<'a> {
    fn from(weights: &'a Weights<'a>) -> Self {
        Self::Checkpoint(weights)
    }
}

impl<'a> WeightSource<'a> {
    /// The type of the elements.
    #[must_use]
    pub fn element(&self) -> ElementType {
        match self {
            Self::Checkpoint(weights) => weights.element(),
            Self::Random(_) => ElementType::BFloat16,
        }
    }

    /// What the device holds of a model of this configuration.
    #[must_use]
    pub fn plan(&self, config: &ModelConfig) -> Cow<'a, WeightPlan> {
        match *self {
            Self::Checkpoint(weights) => Cow::Borrowed(weights.plan()),
            Self::Random(_) => Cow::Owned(WeightPlan::new(config)),
        }
    }
}

impl Model {
    /// Fills an arena that `store` was laid out for with the weights and the rotary table; random weights need no staging.
    ///
    /// # Errors
    /// The driver's error.
    pub fn load_into(
        arena: &Arena,
        staging: &mut Staging,
        config: &ModelConfig,
        source: WeightSource<'_>,
        store: &WeightStore,
    ) -> Result<()> {
        match source {
            WeightSource::Checkpoint(weights) => Self::upload_into(arena, staging, config, weights, store),
            WeightSource::Random(seed) => Self::randomize(arena, config, seed, (store, &source.plan(config))),
        }
    }
}
