//! Finds a model's tensors by name and checks them against the configuration, wherever their bytes are.

use std::marker::PhantomData;
use std::path::Path;

use safetensors::Dtype;

use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::weight_plan::ElementType;
use crate::weight_source::Part;
use crate::weights::{AttentionBiases, LayerWeights, ModelWeights};

/// The tensor whose type is that of all.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// A tensor as it was given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tensor<'s, B> {
    /// Where it comes from, for errors: the file that holds it.
    pub(crate) path: &'s Path,
    /// The type of its elements.
    pub(crate) dtype: Dtype,
    /// Its shape, outermost dimension first.
    pub(crate) shape: &'s [usize],
    /// Its elements, row-major, little-endian, at any alignment.
    pub(crate) bytes: B,
}

/// Tensors by name.
pub(crate) trait Tensors<B> {
    /// Where they come from, for errors.
    fn path(&self) -> &Path;
    /// All their names.
    fn names(&self) -> impl Iterator<Item = &str>;
    /// The one of this name.
    fn tensor(&self, name: &str) -> Option<Tensor<'_, B>>;
}

/// Finds a model's tensors and checks them: the type of all, and where they are.
pub(crate) fn find_model<B: Part>(
    config: &ModelConfig,
    given: &impl Tensors<B>,
) -> Result<(ElementType, ModelWeights<B>)> {
    refuse_contradictions(config, given)?;
    let element = match given.tensor(EMBEDDING).map(|tensor| tensor.dtype) {
        Some(Dtype::F16) => ElementType::Float16,
        _ => ElementType::BFloat16,
    };
    let found = Finder { given, element, bytes: PhantomData }.model(config)?;
    Ok((element, found))
}

/// Looks tensors up by name, type and shape.
struct Finder<'s, B, S> {
    given: &'s S,
    element: ElementType,
    bytes: PhantomData<B>,
}

impl<B: Part, S: Tensors<B>> Finder<'_, B, S> {
    fn model(&self, config: &ModelConfig) -> Result<ModelWeights<B>> {
        let table = [config.vocab_size, config.hidden_size];
        let meaning = "`vocab_size`, `hidden_size`";
        let embed_tokens = self.find(EMBEDDING, &table, meaning, "")?;
        let lm_head = if config.tie_word_embeddings {
            embed_tokens
        } else {
            let hint = ", or `tie_word_embeddings` = `true` in `config.json`";
            self.find("lm_head.weight", &table, meaning, hint)?
        };
        let norm = self.find("model.norm.weight", &[config.hidden_size], "`hidden_size`", "")?;
        let layers = (0..config.num_hidden_layers).map(|layer| self.layer(config, layer)).collect::<Result<_>>()?;
        Ok(ModelWeights { embed_tokens, layers, norm, lm_head })
    }

    fn layer(&self, config: &ModelConfig, layer: usize) -> Result<LayerWeights<B>> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (query, kv) = (config.query_size(), config.kv_size());
        let find = |part: &str, shape: &[usize], meaning: &'static str| {
            self.find(&format!("model.layers.{layer}.{part}"), shape, meaning, "")
        };
        let query_rows = "`num_attention_heads` x `head_dim`, `hidden_size`";
        let kv_rows = "`num_key_value_heads` x `head_dim`, `hidden_size`";
        let gated = "`intermediate_size`, `hidden_size`";
        let biases = || -> Result<AttentionBiases<B>> {
            Ok(AttentionBiases {
                q: find("self_attn.q_proj.bias", &[query], "`num_attention_heads` x `head_dim`")?,
                k: find("self_attn.k_proj.bias", &[kv], "`num_key_value_heads` x `head_dim`")?,
                v: find("self_attn.v_proj.bias", &[kv], "`num_key_value_heads` x `head_dim`")?,
                o: find("self_attn.o_proj.bias", &[hidden], "`hidden_size`")?,
            })
        };
        Ok(LayerWeights {
            input_layernorm: find("input_layernorm.weight", &[hidden], "`hidden_size`")?,
            q_proj: find("self_attn.q_proj.weight", &[query, hidden], query_rows)?,
            k_proj: find("self_attn.k_proj.weight", &[kv, hidden], kv_rows)?,
            v_proj: find("self_attn.v_proj.weight", &[kv, hidden], kv_rows)?,
            o_proj: find(
                "self_attn.o_proj.weight",
                &[hidden, query],
                "`hidden_size`, `num_attention_heads` x `head_dim`",
            )?,
            biases: if config.attention_bias { Some(biases()?) } else { None },
            post_attention_layernorm: find("post_attention_layernorm.weight", &[hidden], "`hidden_size`")?,
            gate_proj: find("mlp.gate_proj.weight", &[intermediate, hidden], gated)?,
            up_proj: find("mlp.up_proj.weight", &[intermediate, hidden], gated)?,
            down_proj: find("mlp.down_proj.weight", &[hidden, intermediate], "`hidden_size`, `intermediate_size`")?,
        })
    }

    fn find(&self, name: &str, expected: &[usize], meaning: &'static str, hint: &'static str) -> Result<B> {
        let Some(Tensor { path, dtype, shape, bytes }) = self.given.tensor(name) else {
            return Err(ModelError::MissingTensor {
                path: self.given.path().to_owned(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                hint,
            });
        };
        let expected_type = match self.element {
            ElementType::BFloat16 => Dtype::BF16,
            ElementType::Float16 => Dtype::F16,
        };
        if dtype != expected_type {
            return Err(ModelError::Unsupported {
                path: path.to_owned(),
                field: format!("dtype of {name}"),
                value: dtype.to_string(),
                supported: if name == EMBEDDING {
                    "BF16 and F16".into()
                } else {
                    format!("{expected_type}, the type of {EMBEDDING}")
                },
            });
        }
        if shape != expected {
            return Err(ModelError::TensorShape {
                path: path.to_owned(),
                tensor: name.to_owned(),
                // A header may claim thousands of dimensions of length 1: the message repeats only the first few.
                found: shape.iter().copied().take(8).collect(),
                expected: expected.to_vec(),
                meaning,
            });
        }
        Ok(bytes)
    }
}

/// Refuses tensors whose presence means that running without them would give wrong results.
fn refuse_contradictions<B>(config: &ModelConfig, given: &impl Tensors<B>) -> Result<()> {
    for name in given.names() {
        let contradiction = |field, value: &dyn ToString, expected: String| ModelError::Contradiction {
            path: given.path().to_owned(),
            tensor: crate::error::excerpt(name),
            field,
            value: value.to_string(),
            expected,
        };
        let unsupported = |supported: &str| ModelError::Unsupported {
            path: given.path().to_owned(),
            field: "tensor".into(),
            value: crate::error::excerpt(name),
            supported: supported.into(),
        };
        if QUANTISED.iter().any(|suffix| name.ends_with(suffix)) {
            return Err(unsupported("bfloat16 weights without quantisation"));
        }
        let Some((layer, part)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        let layers = config.num_hidden_layers;
        if layer.parse::<usize>().is_ok_and(|layer| layer >= layers) {
            return Err(contradiction("num_hidden_layers", &layers, format!("above {layer}")));
        }
        if part.starts_with("self_attn.") && part.ends_with("_norm.weight") {
            return Err(unsupported("attention without norms of queries and keys"));
        }
        if part.ends_with("_proj.bias") {
            if part.starts_with("mlp.") {
                return Err(unsupported("a feed-forward layer without biases"));
            }
            if !config.attention_bias {
                return Err(contradiction("attention_bias", &false, "true".into()));
            }
        }
    }
    Ok(())
}

/// Endings of tensor names that only quantised checkpoints have (GPTQ, AWQ, bitsandbytes, block-scaled FP8).
const QUANTISED: &[&str] = &[
    ".qweight",
    ".qzeros",
    ".scales",
    ".g_idx",
    ".weight_scale",
    ".weight_scale_inv",
    ".input_scale",
    ".absmax",
    ".SCB",
];
