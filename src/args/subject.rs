//! Which model is measured: a folder, or the sizes of one with random weights.

use std::path::PathBuf;

use clap::Args;
use gridpoint_model::{Checkpoint, ModelConfig, SHAPES, Shape, WeightSource, Weights};

use crate::args::model::DEFAULT_MODEL;
use crate::args::natural_32;
use crate::commands::Failure;
use crate::folder::look_for;

/// Seed of random weights.
pub(crate) const SEED: u64 = 0;

/// A model folder, or a shape.
#[derive(Debug, Args)]
pub(crate) struct SubjectArgs {
    /// A Hugging Face model folder: config.json, safetensors.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_MODEL)]
    model: PathBuf,
    #[command(flatten)]
    shape: ShapeArgs,
}

/// A shape, beside an argument `model` that it takes the place of.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ShapeArgs {
    /// A model without weights, which are random numbers: llama-3-8b, llama-3-70b-tp8, llama-3.2-1b or tiny.
    #[arg(long, value_name = "NAME", value_parser = shape, conflicts_with = "model")]
    shape: Option<Shape>,
    /// Layers of the shape [default: all, or at most 16 where times of many steps are taken].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = natural_32)]
    layers: Option<u32>,
}

/// A shape's name.
fn shape(word: &str) -> Result<Shape, String> {
    Shape::find(word).ok_or_else(|| {
        let names: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
        format!("the shapes are {}", names.join(", "))
    })
}

impl ShapeArgs {
    /// The shape that is asked for and its configuration, with at most `most_layers` layers where no number is given.
    pub(crate) fn read(&self, most_layers: u32) -> Result<Option<(Shape, ModelConfig)>, Failure> {
        let usage = |words: String| Err(Failure::Usage(words.into()));
        match (self.shape, self.layers) {
            (None, None) => Ok(None),
            (None, Some(layers)) => usage(format!("--layers is `{layers}`: it goes with --shape")),
            (Some(shape), layers) => {
                let layers = layers.unwrap_or(most_layers.min(shape.layers));
                match shape.config(Some(layers)) {
                    Ok(config) => Ok(Some((shape, config))),
                    Err(_) => usage(format!("--layers is `{layers}`: it must be from 1 to 1024")),
                }
            }
        }
    }
}

impl SubjectArgs {
    /// Runs `then` with the model that is asked for; a shape has at most `most_layers` layers where no number is given.
    pub(crate) fn with_model<T>(
        &self,
        most_layers: u32,
        then: impl FnOnce(&str, &ModelConfig, WeightSource<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Some((shape, config)) = self.shape.read(most_layers)? {
            return then(shape.name, &config, WeightSource::Random(SEED));
        }
        look_for(&self.model)?;
        let config = ModelConfig::load(&self.model).map_err(Failure::failed)?;
        let checkpoint = Checkpoint::open(&self.model).map_err(Failure::failed)?;
        let weights = Weights::new(&config, &checkpoint).map_err(Failure::failed)?;
        then(&self.model.display().to_string(), &config, WeightSource::Checkpoint(&weights))
    }
}
