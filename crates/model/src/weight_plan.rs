//! Which tensors the device holds, from the configuration alone.
//!
//! The projections of queries, keys and values are stacked, so that one matrix product computes all three; rows of the
//! gate and up projections alternate, so that both halves of one output element of SwiGLU lie in the same tile, and so do the rows of the two
//! halves of a query or key head, which are rotated against each other. The weights of the normalisations in front of these products are
//! multiplied into them (W diag(w), rounded once): the kernels multiply rows by 1 / rms alone, and the normalised rows never exist. The last
//! normalisation stays by itself, since the head may be the embedding.

use crate::config::ModelConfig;

/// Bytes of one element.
pub(crate) const ELEMENT: u64 = 2;

/// The 16-bit type of weights, activations and the key-value cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementType {
    /// 8 bits of exponent, 8 of precision.
    #[default]
    BFloat16,
    /// IEEE 754 binary16: 5 bits of exponent, 11 of precision.
    Float16,
}

impl ElementType {
    /// The value of 16 bits.
    pub(crate) fn widen(self, bits: u16) -> f32 {
        match self {
            Self::BFloat16 => half::bf16::from_bits(bits).to_f32(),
            Self::Float16 => half::f16::from_bits(bits).to_f32(),
        }
    }

    /// The nearest value, to even between two.
    pub(crate) fn narrow(self, value: f32) -> u16 {
        match self {
            Self::BFloat16 => half::bf16::from_f32(value).to_bits(),
            Self::Float16 => half::f16::from_f32(value).to_bits(),
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::BFloat16 => "bfloat16",
            Self::Float16 => "float16",
        })
    }
}

/// One `T` for each tensor of a layer that the device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerTensors<T> {
    /// Rows of q, then k, then v: `[(heads + 2 kv_heads) * head_dim, hidden]`; in heads of q and k element i, then element i + head_dim / 2.
    /// Columns are multiplied by the scale of the normalisation before attention.
    pub qkv: T,
    /// Biases of q, then k, then v in the same order: `[(heads + 2 kv_heads) * head_dim]`, where the model has them.
    pub qkv_bias: Option<T>,
    /// Output projection of attention: `[hidden, heads * head_dim]`.
    pub o_proj: T,
    /// Its bias: `[hidden]`, where the model has it.
    pub o_bias: Option<T>,
    /// Rows of gate and up in turn (gate 0, up 0, gate 1, up 1, ...): `[2 * intermediate, hidden]`. Columns are multiplied by the scale of the
    /// normalisation before the feed-forward layer.
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
            qkv: translate(&layer.qkv),
            qkv_bias: layer.qkv_bias.as_ref().map(&mut translate),
            o_proj: translate(&layer.o_proj),
            o_bias: layer.o_bias.as_ref().map(&mut translate),
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

/// One tensor that the device holds: 16-bit elements, row-major.
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
    /// Weights of normalisations that were multiplied into others.
    folded: u64,
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
                    qkv: add("self_attn.qkv", qkv, hidden),
                    qkv_bias: biased.then(|| add("self_attn.qkv_bias", 1, qkv)),
                    o_proj: add("self_attn.o_proj", hidden, query),
                    o_bias: biased.then(|| add("self_attn.o_bias", 1, hidden)),
                    gate_up: add("mlp.gate_up", 2 * intermediate, hidden),
                    down_proj: add("mlp.down_proj", hidden, intermediate),
                }
            })
            .collect();
        let norm = add("model.norm".into(), 1, hidden);
        let lm_head = if config.tie_word_embeddings { embed_tokens } else { add("lm_head".into(), vocabulary, hidden) };
        let folded = 2 * hidden as u64 * config.num_hidden_layers as u64;
        WeightPlan { places: ModelTensors { embed_tokens, layers, norm, lm_head }, tensors, folded }
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

    /// The number of the model's weights, those among them that were multiplied into others.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.bytes() / ELEMENT + self.folded
    }
}
