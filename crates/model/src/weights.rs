//! The weights of a Llama model, checked: the host's view, stage by stage, and what goes to the device.
//!
//! [`Weights`] borrows the checkpoint's bytes and writes the tensors of a [`WeightPlan`] piece by piece into a staging
//! buffer, so that nothing is held twice.

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::weight_lookup::find_model;
use crate::weight_plan::{DeviceTensor, ELEMENT, ElementType, WeightPlan};
use crate::weight_source::{Part, Source};

/// The tensors of one layer as the checkpoint has them: bfloat16 or float16, row-major, little-endian, at any alignment. `B` is where their
/// bytes are: `&[u8]` on the host, [`gridpoint_runtime::DeviceBytes`] on the device.
#[derive(Debug, Clone, Copy)]
pub struct LayerWeights<B> {
    /// `[hidden]`.
    pub input_layernorm: B,
    /// `[heads * head_dim, hidden]`.
    pub q_proj: B,
    /// `[kv_heads * head_dim, hidden]`.
    pub k_proj: B,
    /// `[kv_heads * head_dim, hidden]`.
    pub v_proj: B,
    /// `[hidden, heads * head_dim]`.
    pub o_proj: B,
    /// The biases of q, k, v and o, where the model has them.
    pub biases: Option<AttentionBiases<B>>,
    /// `[hidden]`.
    pub post_attention_layernorm: B,
    /// `[intermediate, hidden]`.
    pub gate_proj: B,
    /// `[intermediate, hidden]`.
    pub up_proj: B,
    /// `[hidden, intermediate]`.
    pub down_proj: B,
}

/// The biases of attention's four projections.
#[derive(Debug, Clone, Copy)]
pub struct AttentionBiases<B> {
    /// `[heads * head_dim]`.
    pub q: B,
    /// `[kv_heads * head_dim]`.
    pub k: B,
    /// `[kv_heads * head_dim]`.
    pub v: B,
    /// `[hidden]`.
    pub o: B,
}

/// The tensors of a model as the checkpoint has them.
#[derive(Debug, Clone)]
pub struct ModelWeights<B> {
    /// `[vocab, hidden]`.
    pub embed_tokens: B,
    /// The decoder layers, first to last.
    pub layers: Vec<LayerWeights<B>>,
    /// `[hidden]`.
    pub norm: B,
    /// `[vocab, hidden]`; the embedding's own bytes where the two are tied.
    pub lm_head: B,
}

/// The weights of a checkpoint, checked against the configuration: every tensor that the model needs is there, all in BF16 or all in F16,
/// in the shape that the configuration gives it.
#[derive(Debug)]
pub struct Weights<'a> {
    plan: WeightPlan,
    element: ElementType,
    head_dim: usize,
    host: ModelWeights<&'a [u8]>,
    sources: Vec<Source<&'a [u8]>>,
}

impl<'a> Weights<'a> {
    /// Finds the model's tensors in the checkpoint and checks them. Tensors that the model does not use are ignored,
    /// except those that show the configuration to be wrong: layers beyond its last, biases that it does not name,
    /// scales of quantised weights, norms of queries and keys.
    ///
    /// # Errors
    /// A tensor that is missing, has another type than BF16 or F16, than the embedding, or another shape, or contradicts the configuration.
    pub fn new(config: &ModelConfig, checkpoint: &'a Checkpoint) -> Result<Self> {
        let (element, host) = find_model(config, &checkpoint)?;
        let sources = sources(config, &host, element);
        Ok(Weights { plan: WeightPlan::new(config), element, head_dim: config.head_dim, host, sources })
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

    /// Elements of a head: rows of queries and keys alternate by it.
    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The tensors as the checkpoint has them.
    #[must_use]
    pub fn host(&self) -> &ModelWeights<&'a [u8]> {
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
            (true, Ok(start), Some(source)) => source.read_by_all(start, out),
            _ => false,
        };
        if filled { Ok(()) } else { Err(buffer_error(tensor, offset, length)) }
    }

    fn device_tensor(&self, index: usize) -> Result<&DeviceTensor> {
        let tensors = self.plan.tensors();
        tensors.get(index).ok_or(ModelError::TensorIndex { index, count: tensors.len() })
    }
}

fn buffer_error(tensor: &DeviceTensor, offset: u64, length: usize) -> ModelError {
    ModelError::Buffer { tensor: tensor.name.clone(), size: tensor.bytes, offset, length }
}

/// The sources of the plan's tensors, in the plan's order.
pub(crate) fn sources<B: Part>(config: &ModelConfig, given: &ModelWeights<B>, element: ElementType) -> Vec<Source<B>> {
    let unit = ELEMENT as usize;
    let row = config.hidden_size * unit;
    // Rows of queries and keys alternate between the halves of a head, so that the two elements of a rotated pair are neighbours.
    let projections = |[q, k, v]: [B; 3], row: usize| {
        let heads = [q, k].into_iter().flat_map(|part| part.pieces(row * config.head_dim)).map(|head| {
            let (first, second) = head.cut(head.length() / 2);
            (vec![first, second], row)
        });
        Source::new(heads.chain([(vec![v], v.length())]))
    };
    let mut sources = vec![Source::of(given.embed_tokens)];
    for layer in &given.layers {
        let qkv = projections([layer.q_proj, layer.k_proj, layer.v_proj], row);
        sources.push(qkv.scaled(layer.input_layernorm, element));
        sources.extend(layer.biases.map(|biases| projections([biases.q, biases.k, biases.v], unit)));
        sources.push(Source::of(layer.o_proj));
        sources.extend(layer.biases.map(|biases| Source::of(biases.o)));
        let gate_up = Source::new([(vec![layer.gate_proj, layer.up_proj], row)]);
        sources.push(gate_up.scaled(layer.post_attention_layernorm, element));
        sources.push(Source::of(layer.down_proj));
    }
    sources.push(Source::of(given.norm));
    if !config.tie_word_embeddings {
        sources.push(Source::of(given.lm_head));
    }
    sources
}
