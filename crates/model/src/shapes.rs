//! Sizes of models whose speed is of interest, without their weights.

use crate::config::ModelConfig;
use crate::error::Result;

/// A model's sizes under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    hidden: u32,
    intermediate: u32,
    /// Its layers.
    pub layers: u32,
    query_heads: u32,
    kv_heads: u32,
    head_dim: u32,
    vocabulary: u32,
    positions: u32,
    /// Whether the head is the embedding.
    tied: bool,
}

/// All shapes. The sizes are those that Meta's configurations of these models name; `tp8` is what one of eight devices has of the
/// model when attention heads, feed-forward columns and the vocabulary are split. The longest sequence is that of the models' later versions.
pub const SHAPES: [Shape; 4] = [
    Shape {
        name: "llama-3-8b",
        hidden: 4096,
        intermediate: 14_336,
        layers: 32,
        query_heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocabulary: 128_256,
        positions: 131_072,
        tied: false,
    },
    Shape {
        name: "llama-3-70b-tp8",
        hidden: 8192,
        intermediate: 3584,
        layers: 80,
        query_heads: 8,
        kv_heads: 1,
        head_dim: 128,
        vocabulary: 16_032,
        positions: 131_072,
        tied: false,
    },
    Shape {
        name: "llama-3.2-1b",
        hidden: 2048,
        intermediate: 8192,
        layers: 16,
        query_heads: 32,
        kv_heads: 8,
        head_dim: 64,
        vocabulary: 128_256,
        positions: 131_072,
        tied: true,
    },
    // For tests: every stage there is, and small enough for the simulated device.
    Shape {
        name: "tiny",
        hidden: 128,
        intermediate: 192,
        layers: 2,
        query_heads: 2,
        kv_heads: 1,
        head_dim: 64,
        vocabulary: 520,
        positions: 4096,
        tied: false,
    },
];

impl Shape {
    /// The shape of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// Its configuration, with the first `layers` layers where that is given.
    ///
    /// # Errors
    /// A number of layers that no configuration may have.
    pub fn config(&self, layers: Option<u32>) -> Result<ModelConfig> {
        let Self { hidden, intermediate, query_heads, kv_heads, head_dim, vocabulary, positions, tied, .. } = self;
        let layers = layers.unwrap_or(self.layers);
        ModelConfig::from_json(&format!(
            r#"{{"model_type": "llama", "hidden_size": {hidden}, "intermediate_size": {intermediate}, "num_hidden_layers": {layers},
                "num_attention_heads": {query_heads}, "num_key_value_heads": {kv_heads}, "head_dim": {head_dim},
                "vocab_size": {vocabulary}, "rope_theta": 500000.0, "max_position_embeddings": {positions},
                "tie_word_embeddings": {tied}, "rms_norm_eps": 1e-5}}"#
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WeightPlan;

    #[test]
    fn every_shape_is_a_model_of_the_size_that_its_name_says() {
        let parameters = |name| {
            let config = Shape::find(name).expect("the shape is there").config(None).expect("the shape is a model");
            WeightPlan::new(&config).parameters()
        };
        assert_eq!(parameters("llama-3-8b"), 8_030_261_248);
        assert_eq!(parameters("llama-3.2-1b"), 1_235_814_400);
        // The model has 70 553 706 496 parameters, of which normalisations, 161 vectors of 8192, are on each device.
        let norms = 161 * 8192;
        assert_eq!((parameters("llama-3-70b-tp8") - norms) * 8 + norms, 70_553_706_496);
        assert!(parameters("tiny") < 500_000);
    }

    #[test]
    fn layers_can_be_fewer() {
        let shape = Shape::find("llama-3-8b").expect("the shape is there");
        assert_eq!(shape.config(Some(3)).expect("three layers").num_hidden_layers, 3);
        assert!(shape.config(Some(0)).unwrap_err().to_string().contains("num_hidden_layers"));
        assert_eq!(Shape::find("llama-4"), None);
    }
}
