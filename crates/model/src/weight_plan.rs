//! Which tensors the device holds, from the configuration alone.
//!
//! The projections of queries, keys and values are stacked, so that one matrix product computes all three; rows of the
//! gate and up projections alternate, so that both halves of one output element of SwiGLU lie in the same tile.

use crate::config::ModelConfig;

/// Bytes of one bf16 element.
pub(crate) const ELEMENT: u64 = 2;

/// One `T` for each tensor of a layer that the device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerTensors<T> {
    /// Scale of the normalisation before attention: `[hidden]`.
    pub input_layernorm: T,
    /// Rows of q, then k, then v: `[(heads + 2 kv_heads) * head_dim, hidden]`.
    pub qkv: T,
    /// Biases of q, then k, then v: `[(heads + 2 kv_heads) * head_dim]`, where the model has them.
    pub qkv_bias: Option<T>,
    /// Output projection of attention: `[hidden, heads * head_dim]`.
    pub o_proj: T,
    /// Its bias: `[hidden]`, where the model has it.
    pub o_bias: Option<T>,
    /// Scale of the normalisation before the feed-forward layer: `[hidden]`.
    pub post_attention_layernorm: T,
    /// Rows of gate and up in turn (gate 0, up 0, gate 1, up 1, ...): `[2 * intermediate, hidden]`.
    pub gate_up: T,
    /// Output projection of the feed-forward layer: `[hidden, intermediate]`.
    pub down_proj: T,
}

/// One `T` for each tensor of a model that the device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTensors<T> {
    /// Token embedding: `[vocab, hidden]`.
    pub embed_tokens: T,
    /// The decoder layers, first to last.
    pub layers: Vec<LayerTensors<T>>,
    /// Scale of the normalisation after the last layer: `[hidden]`.
    pub norm: T,
    /// Language-model head: `[vocab, hidden]`; equal to `embed_tokens` where the two are tied.
    pub lm_head: T,
}

impl<T> ModelTensors<T> {
    /// The same tensors, each as `translate` gives it: device addresses for indices, for example.
    pub fn map<U>(&self, mut translate: impl FnMut(&T) -> U) -> ModelTensors<U> {
        let layer = |layer: &LayerTensors<T>| LayerTensors {
            input_layernorm: translate(&layer.input_layernorm),
            qkv: translate(&layer.qkv),
            qkv_bias: layer.qkv_bias.as_ref().map(&mut translate),
            o_proj: translate(&layer.o_proj),
            o_bias: layer.o_bias.as_ref().map(&mut translate),
            post_attention_layernorm: translate(&layer.post_attention_layernorm),
            gate_up: translate(&layer.gate_up),
            down_proj: translate(&layer.down_proj),
        };
        let layers = self.layers.iter().map(layer).collect();
        ModelTensors {
            embed_tokens: translate(&self.embed_tokens),
            layers,
            norm: translate(&self.norm),
            lm_head: translate(&self.lm_head),
        }
    }
}

/// One tensor that the device holds: bf16, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceTensor {
    /// Its name, in the checkpoint's manner: `model.layers.0.self_attn.qkv`.
    pub name: String,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// Size in bytes.
    pub bytes: u64,
}

/// Which tensors the device holds, in the order of upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightPlan {
    tensors: Vec<DeviceTensor>,
    places: ModelTensors<usize>,
}

impl WeightPlan {
    /// The plan of a model; needs no checkpoint.
    #[must_use]
    pub fn new(config: &ModelConfig) -> Self {
        let mut tensors = Vec::new();
        let mut add = |name: String, rows: usize, columns: usize| {
            // Below 2^45 bytes by the configuration's limits.
            let bytes = rows as u64 * columns as u64 * ELEMENT;
            tensors.push(DeviceTensor { name, rows, columns, bytes });
            tensors.len() - 1
        };
        let (hidden, intermediate, vocabulary) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let (query, qkv, biased) = (config.query_size(), config.qkv_size(), config.attention_bias);
        let embed_tokens = add("model.embed_tokens".into(), vocabulary, hidden);
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let mut add = |part: &str, rows, columns| add(format!("model.layers.{layer}.{part}"), rows, columns);
                LayerTensors {
                    input_layernorm: add("input_layernorm", 1, hidden),
                    qkv: add("self_attn.qkv", qkv, hidden),
                    qkv_bias: biased.then(|| add("self_attn.qkv_bias", 1, qkv)),
                    o_proj: add("self_attn.o_proj", hidden, query),
                    o_bias: biased.then(|| add("self_attn.o_bias", 1, hidden)),
                    post_attention_layernorm: add("post_attention_layernorm", 1, hidden),
                    gate_up: add("mlp.gate_up", 2 * intermediate, hidden),
                    down_proj: add("mlp.down_proj", hidden, intermediate),
                }
            })
            .collect();
        let norm = add("model.norm".into(), 1, hidden);
        let lm_head = if config.tie_word_embeddings { embed_tokens } else { add("lm_head".into(), vocabulary, hidden) };
        WeightPlan { places: ModelTensors { embed_tokens, layers, norm, lm_head }, tensors }
    }

    /// The tensors; a tied head is not among them a second time.
    #[must_use]
    pub fn tensors(&self) -> &[DeviceTensor] {
        &self.tensors
    }

    /// Where in [`WeightPlan::tensors`] each stage's tensor is.
    #[must_use]
    pub fn places(&self) -> &ModelTensors<usize> {
        &self.places
    }

    /// The sum of all tensors' bytes, without any alignment.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// The number of weights.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.bytes() / ELEMENT
    }
}
