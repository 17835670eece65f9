//! `config.json` and `generation_config.json` of a Hugging Face folder, checked: a [`ModelConfig`] that exists is usable.

use std::path::Path;

use serde_json::Value;

use crate::error::{Result, read_bytes};
use crate::json::{Object, parse_object};
use crate::rope::{RopeConfig, RopeScaling};

/// The architectures that this crate loads.
const ARCHITECTURES: &[&str] = &["LlamaForCausalLM"];
/// A configuration file larger than this is not one.
const CONFIG_BYTES: u64 = 16 << 20;

const MOST_HIDDEN: u64 = 65_536;
const MOST_INTERMEDIATE: u64 = 1_048_576;
const MOST_LAYERS: u64 = 1_024;
const MOST_HEADS: u64 = 1_024;
const MOST_VOCABULARY: u64 = 4_194_304;
const MOST_POSITIONS: u64 = 16_777_216;
/// The most query heads that share one key-value head.
const MOST_GROUP: usize = 16;
/// The head dimensions that kernels exist for, in words.
const HEAD_DIMS: &str = "64, 96, 128 and 256";
/// Row lengths are multiples of this many bf16 values, 16 bytes: the unit of the kernels' asynchronous copies.
const ROW_UNIT: u64 = 8;

/// What a decoder-only transformer of the Llama architecture is made of.
///
/// Made only by reading a configuration, so every instance satisfies: all sizes above 0 and within the limits that the
/// errors name; `head_dim` 64, 96, 128 or 256; `num_attention_heads` a multiple of `num_key_value_heads`, at most 16 times it;
/// `hidden_size` and `intermediate_size` multiples of 8; token ids below `vocab_size`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Elements of one head: 64, 96, 128 or 256.
    pub head_dim: usize,
    /// Rows of the embedding, and logits per token.
    pub vocab_size: usize,
    /// Epsilon of every RMS normalisation.
    pub rms_norm_eps: f32,
    /// The longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Whether the language-model head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the four projections of attention (q, k, v, o) add a bias.
    pub attention_bias: bool,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Tokens that end a sequence: those of generation_config.json where it names any, else those of config.json.
    pub eos_token_ids: Vec<u32>,
    /// The token that begins a text, where the model has one.
    pub bos_token_id: Option<u32>,
}

impl ModelConfig {
    /// Reads `config.json` of a folder and, where it is present, `generation_config.json`.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, a field that is missing, out of range, contradictory or not supported.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = read_bytes(&path, CONFIG_BYTES, "the `config.json` of a Hugging Face model folder")?;
        let mut config = Self::parse(&text, &path)?;
        let path = folder.join("generation_config.json");
        if path.exists() {
            let text = read_bytes(&path, CONFIG_BYTES, "the `generation_config.json` of a Hugging Face model folder")?;
            config.apply_generation(&text, &path)?;
        }
        Ok(config)
    }

    /// Reads the text of a `config.json`.
    ///
    /// ```
    /// let config = gridpoint_model::ModelConfig::from_json(
    ///     r#"{"model_type": "llama", "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 2,
    ///         "num_attention_heads": 2, "vocab_size": 1003, "rope_theta": 10000.0}"#,
    /// )?;
    /// assert_eq!((config.head_dim, config.num_key_value_heads), (64, 2));
    /// # Ok::<(), gridpoint_model::ModelError>(())
    /// ```
    ///
    /// # Errors
    /// As [`ModelConfig::load`]; messages name the file `config.json`.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::parse(text.as_bytes(), Path::new("config.json"))
    }

    /// Reads the text of the `config.json` that came from `path`, which messages name.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Self> {
        let map = parse_object(text, path)?;
        let object = Object::new(path, "", &map);
        check_architecture(&object)?;
        let num_attention_heads = object.required("num_attention_heads", 1..=MOST_HEADS)?;
        let num_key_value_heads = object.integer("num_key_value_heads", 1..=MOST_HEADS)?.unwrap_or(num_attention_heads);
        check_group(&object, num_attention_heads, num_key_value_heads)?;
        let hidden_size = required_row(&object, "hidden_size", MOST_HIDDEN)?;
        let vocab_size = size(object.required("vocab_size", 1..=MOST_VOCABULARY)?);
        Ok(ModelConfig {
            hidden_size: size(hidden_size),
            intermediate_size: size(required_row(&object, "intermediate_size", MOST_INTERMEDIATE)?),
            num_hidden_layers: size(object.required("num_hidden_layers", 1..=MOST_LAYERS)?),
            num_attention_heads: size(num_attention_heads),
            num_key_value_heads: size(num_key_value_heads),
            head_dim: head_dim(&object, hidden_size, num_attention_heads)?,
            vocab_size,
            rms_norm_eps: object.number("rms_norm_eps", 1e-30..=1.0)?.unwrap_or(1e-6) as f32,
            max_position_embeddings: size(
                object.integer("max_position_embeddings", 1..=MOST_POSITIONS)?.unwrap_or(2_048),
            ),
            tie_word_embeddings: object.boolean("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: object.boolean("attention_bias")?.unwrap_or(false),
            rope: rope(&object)?,
            eos_token_ids: object.token_ids("eos_token_id", vocab_size)?.unwrap_or_default(),
            bos_token_id: first(object.token_ids("bos_token_id", vocab_size)?),
        })
    }

    /// Takes over what `generation_config.json` (its text, and the path that messages name) says about tokens.
    fn apply_generation(&mut self, text: &[u8], path: &Path) -> Result<()> {
        let map = parse_object(text, path)?;
        let object = Object::new(path, "", &map);
        if let Some(ids) = object.token_ids("eos_token_id", self.vocab_size)? {
            self.eos_token_ids = ids;
        }
        if let Some(id) = first(object.token_ids("bos_token_id", self.vocab_size)?) {
            self.bos_token_id = Some(id);
        }
        Ok(())
    }

    /// Elements of one token's queries: heads times `head_dim`.
    #[must_use]
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Elements of one token's keys, and of its values: key-value heads times `head_dim`.
    #[must_use]
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Elements of one token's queries, keys and values together.
    #[must_use]
    pub fn qkv_size(&self) -> usize {
        self.query_size() + 2 * self.kv_size()
    }

    /// Weights `[n, k]` of the products of a step: qkv, output, gate-up, down and the head.
    #[must_use]
    pub fn products(&self) -> [(usize, usize); 5] {
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size);
        [
            (self.qkv_size(), hidden),
            (hidden, self.query_size()),
            (2 * intermediate, hidden),
            (hidden, intermediate),
            (self.vocab_size, hidden),
        ]
    }

    /// Query heads for each key-value head, 1 to 16.
    #[must_use]
    pub fn group_size(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Bytes of keys and values that one token takes in the cache, over all layers.
    #[must_use]
    pub fn kv_bytes_per_token(&self) -> u64 {
        // At most 2^10 layers of 2^18 values: within u64 by the limits above.
        2 * 2 * self.kv_size() as u64 * self.num_hidden_layers as u64
    }
}

/// An integer that a limit above has bounded below 2^25.
fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn first(ids: Option<Vec<u32>>) -> Option<u32> {
    ids.and_then(|ids| ids.first().copied())
}

/// A required row length: a multiple of [`ROW_UNIT`].
fn required_row(object: &Object<'_>, field: &str, most: u64) -> Result<u64> {
    let value = object.required(field, ROW_UNIT..=most)?;
    if value % ROW_UNIT == 0 {
        Ok(value)
    } else {
        Err(object.refuse(field, value, &format!("a multiple of {ROW_UNIT} up to {most}")))
    }
}

/// Types that a configuration may name. Which of them the model has, the checkpoint's tensors say ([`crate::Weights::element`]).
const DTYPES: [&str; 2] = ["bfloat16", "float16"];

/// Refuses what this crate would otherwise read as a plain Llama and get wrong.
fn check_architecture(object: &Object<'_>) -> Result<()> {
    let supported = ARCHITECTURES.join(", ");
    let known = |name: &Value| name.as_str().is_some_and(|name| ARCHITECTURES.contains(&name));
    match object.get("architectures") {
        Some(Value::Array(names)) if names.iter().any(known) => {}
        Some(list @ Value::Array(names)) if !names.is_empty() && names.iter().all(Value::is_string) => {
            return Err(object.unsupported("architectures", crate::json::show(list), &supported));
        }
        Some(other) => return Err(object.wrong("architectures", other, "a list of names such as `LlamaForCausalLM`")),
        None if object.get("model_type").is_none() => {
            return Err(object.missing("architectures", &format!("a list with one of {supported}")));
        }
        None => {}
    }
    if let Some(kind) = object.string("model_type")?.filter(|&kind| kind != "llama") {
        return Err(object.unsupported("model_type", kind, "llama"));
    }
    if let Some(activation) = object.string("hidden_act")?.filter(|&name| name != "silu") {
        return Err(object.unsupported("hidden_act", activation, "silu"));
    }
    if object.boolean("mlp_bias")? == Some(true) {
        return Err(object.unsupported("mlp_bias", true, "false"));
    }
    // The field's name was `torch_dtype` before transformers 5.
    for field in ["dtype", "torch_dtype"] {
        if let Some(dtype) = object.string(field)?.filter(|dtype| !DTYPES.contains(dtype)) {
            return Err(object.unsupported(field, dtype, "bfloat16 and float16"));
        }
    }
    if let Some(quantization) = object.get("quantization_config") {
        return Err(object.unsupported("quantization_config", crate::json::show(quantization), "bfloat16 weights"));
    }
    whole_head_rotated(object)
}

fn whole_head_rotated(object: &Object<'_>) -> Result<()> {
    match object.number("partial_rotary_factor", 0.0..=1.0)? {
        Some(part) if part < 1.0 => Err(object.unsupported("partial_rotary_factor", part, "1")),
        _ => Ok(()),
    }
}

fn check_group(object: &Object<'_>, heads: u64, kv_heads: u64) -> Result<()> {
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("a divisor of `num_attention_heads` ({heads})");
        return Err(object.refuse("num_key_value_heads", kv_heads, &expected));
    }
    let group = heads / kv_heads;
    if group > MOST_GROUP as u64 {
        let expected = format!(
            "at least `num_attention_heads` ({heads}) / {MOST_GROUP}, so that at most {MOST_GROUP} query heads share a key-value head"
        );
        return Err(object.refuse("num_key_value_heads", kv_heads, &expected));
    }
    Ok(())
}

fn head_dim(object: &Object<'_>, hidden_size: u64, heads: u64) -> Result<usize> {
    match object.integer("head_dim", 1..=MOST_HIDDEN)? {
        Some(given) => supported_head_dim(given).ok_or_else(|| object.unsupported("head_dim", given, HEAD_DIMS)),
        None if !hidden_size.is_multiple_of(heads) => {
            let expected = format!("a divisor of `hidden_size` ({hidden_size}), or `head_dim` must be given");
            Err(object.refuse("num_attention_heads", heads, &expected))
        }
        None => {
            let quotient = hidden_size / heads;
            let value = || format!("hidden_size / num_attention_heads = {quotient}");
            supported_head_dim(quotient).ok_or_else(|| object.unsupported("head_dim", value(), HEAD_DIMS))
        }
    }
}

/// The head dimensions that kernels exist for.
fn supported_head_dim(head_dim: u64) -> Option<usize> {
    [64, 96, 128, 256].into_iter().find(|&supported| supported as u64 == head_dim)
}

/// The rotary embedding in either form: `rope_theta` and `rope_scaling`, or `rope_parameters` (transformers 5).
fn rope(object: &Object<'_>) -> Result<RopeConfig> {
    let old = object.object("rope_scaling")?;
    let new = object.object("rope_parameters")?;
    if let (Some(old), Some(new)) = (old, new)
        && scaling(&old)? != scaling(&new)?
    {
        let value = object.get("rope_scaling").map(crate::json::show).unwrap_or_default();
        return Err(object.refuse("rope_scaling", value, "equal to `rope_parameters` or absent"));
    }
    let parameters = new.or(old);
    let outer = theta(object)?;
    let inner = parameters.as_ref().map(theta).transpose()?.flatten();
    if let (Some(outer), Some(inner)) = (outer, inner)
        && outer != inner
    {
        return Err(object.refuse(
            "rope_theta",
            outer,
            &format!("equal to that of `rope_parameters` ({inner}) or absent"),
        ));
    }
    Ok(RopeConfig {
        theta: inner.or(outer).unwrap_or(10_000.0),
        scaling: parameters.as_ref().map_or(Ok(RopeScaling::Default), scaling)?,
    })
}

fn theta(object: &Object<'_>) -> Result<Option<f64>> {
    object.number("rope_theta", 1.0..=1e12)
}

fn scaling(object: &Object<'_>) -> Result<RopeScaling> {
    if let Some((name, value)) = object.fields().find(|(_, value)| value.is_object()) {
        return Err(object.unsupported(name, crate::json::show(value), "one set of parameters for all layers"));
    }
    whole_head_rotated(object)?;
    // `type` is the name that the field had first; files that bear both give it the same value.
    let field = if object.get("rope_type").is_some() { "rope_type" } else { "type" };
    let factor = || object.required_number("factor", 1e-3..=1e6);
    match object.string(field)? {
        None | Some("default") => Ok(RopeScaling::Default),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
        Some("llama3") => {
            let low_frequency_factor = object.required_number("low_freq_factor", 1e-3..=1e6)?;
            let high_frequency_factor = object.required_number("high_freq_factor", 1e-3..=1e6)?;
            if low_frequency_factor >= high_frequency_factor {
                let expected = format!("above `low_freq_factor` ({low_frequency_factor})");
                return Err(object.refuse("high_freq_factor", high_frequency_factor, &expected));
            }
            let original = object.required("original_max_position_embeddings", 1..=MOST_POSITIONS)?;
            Ok(RopeScaling::Llama3 {
                factor: factor()?,
                low_frequency_factor,
                high_frequency_factor,
                original_positions: original as f64,
            })
        }
        Some(other) => Err(object.unsupported(field, other, "default, linear and llama3")),
    }
}
