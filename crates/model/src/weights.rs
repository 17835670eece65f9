//! The weights of a Llama model, checked: the host's view, stage by stage, and what goes to the device.
//!
//! [`Weights`] borrows the checkpoint's bytes and writes the tensors of a [`WeightPlan`] piece by piece into a staging
//! buffer, so that nothing is held twice.

use rayon::prelude::*;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::weight_plan::{DeviceTensor, ELEMENT, ElementType, WeightPlan};
use crate::weight_source::Source;

/// The tensors of one layer as the checkpoint has them: bfloat16 or float16, row-major, little-endian, at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct LayerWeights<'a> {
    /// `[hidden]`.
    pub input_layernorm: &'a [u8],
    /// `[heads * head_dim, hidden]`.
    pub q_proj: &'a [u8],
    /// `[kv_heads * head_dim, hidden]`.
    pub k_proj: &'a [u8],
    /// `[kv_heads * head_dim, hidden]`.
    pub v_proj: &'a [u8],
    /// `[hidden, heads * head_dim]`.
    pub o_proj: &'a [u8],
    /// The biases of q, k, v and o, where the model has them.
    pub biases: Option<AttentionBiases<'a>>,
    /// `[hidden]`.
    pub post_attention_layernorm: &'a [u8],
    /// `[intermediate, hidden]`.
    pub gate_proj: &'a [u8],
    /// `[intermediate, hidden]`.
    pub up_proj: &'a [u8],
    /// `[hidden, intermediate]`.
    pub down_proj: &'a [u8],
}

/// The biases of attention's four projections.
#[derive(Debug, Clone, Copy)]
pub struct AttentionBiases<'a> {
    /// `[heads * head_dim]`.
    pub q: &'a [u8],
    /// `[kv_heads * head_dim]`.
    pub k: &'a [u8],
    /// `[kv_heads * head_dim]`.
    pub v: &'a [u8],
    /// `[hidden]`.
    pub o: &'a [u8],
}

/// The tensors of a model as the checkpoint has them.
#[derive(Debug, Clone)]
pub struct HostWeights<'a> {
    /// `[vocab, hidden]`.
    pub embed_tokens: &'a [u8],
    /// The decoder layers, first to last.
    pub layers: Vec<LayerWeights<'a>>,
    /// `[hidden]`.
    pub norm: &'a [u8],
    /// `[vocab, hidden]`; the embedding's own bytes where the two are tied.
    pub lm_head: &'a [u8],
}

/// The weights of a checkpoint, checked against the configuration: every tensor that the model needs is there, all in BF16 or all in F16,
/// in the shape that the configuration gives it.
#[derive(Debug)]
pub struct Weights<'a> {
    plan: WeightPlan,
    element: ElementType,
    host: HostWeights<'a>,
    sources: Vec<Source<'a>>,
}

impl<'a> Weights<'a> {
    /// Finds the model's tensors in the checkpoint and checks them. Tensors that the model does not use are ignored,
    /// except those that show the configuration to be wrong: layers beyond its last, biases that it does not name,
    /// scales of quantised weights, norms of queries and keys.
    ///
    /// # Errors
    /// A tensor that is missing, has another type than BF16 or F16, than the embedding, or another shape, or contradicts the configuration.
    pub fn new(config: &ModelConfig, checkpoint: &'a Checkpoint) -> Result<Self> {
        refuse_contradictions(config, checkpoint)?;
        let element = match checkpoint.tensor(EMBEDDING).map(|tensor| tensor.dtype) {
            Some(safetensors::Dtype::F16) => ElementType::Float16,
            _ => ElementType::BFloat16,
        };
        let find = Finder { checkpoint, element };
        let host = find.model(config)?;
        let plan = WeightPlan::new(config);
        let sources = sources(config, &host, element);
        Ok(Weights { plan, element, host, sources })
    }

    /// Which tensors the device holds.
    #[must_use]
    pub fn plan(&self) -> &WeightPlan {
        &self.plan
    }

    /// The type of all weights.
    #[must_use]
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// The tensors as the checkpoint has them.
    #[must_use]
    pub fn host(&self) -> &HostWeights<'a> {
        &self.host
    }

    /// Writes the whole of device tensor `index` into `out`, which must have its length.
    ///
    /// # Errors
    /// No such tensor, or a buffer of another length.
    pub fn write(&self, index: usize, out: &mut [u8]) -> Result<()> {
        let tensor = self.device_tensor(index)?;
        if tensor.bytes != out.len() as u64 {
            return Err(buffer_error(tensor, 0, out.len()));
        }
        self.write_at(index, 0, out)
    }

    /// Writes the bytes of device tensor `index` from byte `offset` on into `out`: a staging buffer smaller than the
    /// tensor takes it in several calls. The threads of rayon's pool share the work; the bytes do not depend on how many there are.
    ///
    /// # Errors
    /// No such tensor, or fewer bytes from `offset` on than `out` holds.
    pub fn write_at(&self, index: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let tensor = self.device_tensor(index)?;
        let length = out.len();
        let fits = offset.checked_add(length as u64).is_some_and(|end| end <= tensor.bytes);
        let filled = match (fits, usize::try_from(offset), self.sources.get(index)) {
            (true, Ok(start), Some(source)) => {
                out.par_chunks_mut(SHARE).enumerate().all(|(share, out)| source.read(start + share * SHARE, out))
            }
            _ => false,
        };
        if filled { Ok(()) } else { Err(buffer_error(tensor, offset, length)) }
    }

    fn device_tensor(&self, index: usize) -> Result<&DeviceTensor> {
        let tensors = self.plan.tensors();
        tensors.get(index).ok_or(ModelError::TensorIndex { index, count: tensors.len() })
    }
}

/// Bytes that a thread writes at a time: its own stay in the cache closest to it, and handing them out costs nothing beside them.
const SHARE: usize = 64 << 10;

fn buffer_error(tensor: &DeviceTensor, offset: u64, length: usize) -> ModelError {
    ModelError::Buffer { tensor: tensor.name.clone(), size: tensor.bytes, offset, length }
}

/// The sources of the plan's tensors, in the plan's order.
fn sources<'a>(config: &ModelConfig, host: &HostWeights<'a>, element: ElementType) -> Vec<Source<'a>> {
    let unit = ELEMENT as usize;
    let row = config.hidden_size * unit;
    // Rows of queries and keys alternate between the halves of a head, so that the two elements of a rotated pair are neighbours.
    let projections = |[q, k, v]: [&'a [u8]; 3], row: usize| {
        let heads = [q, k].into_iter().flat_map(|part| part.chunks(row * config.head_dim)).map(|head| {
            let (first, second) = head.split_at(head.len() / 2);
            (vec![first, second], row)
        });
        Source::new(heads.chain([(vec![v], v.len())]))
    };
    let mut sources = vec![Source::of(host.embed_tokens)];
    for layer in &host.layers {
        let qkv = projections([layer.q_proj, layer.k_proj, layer.v_proj], row);
        sources.push(qkv.scaled(layer.input_layernorm, element));
        sources.extend(layer.biases.map(|biases| projections([biases.q, biases.k, biases.v], unit)));
        sources.push(Source::of(layer.o_proj));
        sources.extend(layer.biases.map(|biases| Source::of(biases.o)));
        let gate_up = Source::new([(vec![layer.gate_proj, layer.up_proj], row)]);
        sources.push(gate_up.scaled(layer.post_attention_layernorm, element));
        sources.push(Source::of(layer.down_proj));
    }
    sources.push(Source::of(host.norm));
    if !config.tie_word_embeddings {
        sources.push(Source::of(host.lm_head));
    }
    sources
}

/// The tensor whose type is that of all.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Looks tensors up by name, type and shape.
struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    element: ElementType,
}

impl<'a> Finder<'a> {
    fn model(&self, config: &ModelConfig) -> Result<HostWeights<'a>> {
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
        Ok(HostWeights { embed_tokens, layers, norm, lm_head })
    }

    fn layer(&self, config: &ModelConfig, layer: usize) -> Result<LayerWeights<'a>> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (query, kv) = (config.query_size(), config.kv_size());
        let find = |part: &str, shape: &[usize], meaning: &'static str| {
            self.find(&format!("model.layers.{layer}.{part}"), shape, meaning, "")
        };
        let query_rows = "`num_attention_heads` x `head_dim`, `hidden_size`";
        let kv_rows = "`num_key_value_heads` x `head_dim`, `hidden_size`";
        let gated = "`intermediate_size`, `hidden_size`";
        let biases = || -> Result<AttentionBiases<'a>> {
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

    fn find(&self, name: &str, expected: &[usize], meaning: &'static str, hint: &'static str) -> Result<&'a [u8]> {
        let Some(Tensor { path, dtype, shape, bytes }) = self.checkpoint.tensor(name) else {
            return Err(ModelError::MissingTensor {
                path: self.checkpoint.path().to_owned(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                hint,
            });
        };
        let expected_type = match self.element {
            ElementType::BFloat16 => safetensors::Dtype::BF16,
            ElementType::Float16 => safetensors::Dtype::F16,
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
fn refuse_contradictions(config: &ModelConfig, checkpoint: &Checkpoint) -> Result<()> {
    for name in checkpoint.names() {
        let contradiction = |field, value: &dyn ToString, expected: String| ModelError::Contradiction {
            path: checkpoint.path().to_owned(),
            tensor: crate::error::excerpt(name),
            field,
            value: value.to_string(),
            expected,
        };
        let unsupported = |supported: &str| ModelError::Unsupported {
            path: checkpoint.path().to_owned(),
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
