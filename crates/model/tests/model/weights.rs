//! The host's view of the fixtures, the device tensors made of it, and sharded checkpoints.

use gridpoint_model::{Checkpoint, ModelConfig, WeightPlan, Weights};
use half::bf16;
use serde_json::{Map, Value, json};

use crate::folder::{FIXTURES, edited_config, fixture, safetensors, shakespeare, split_safetensors, temporary};

/// A tensor of a safetensors file, found without the crate under test.
fn raw<'a>(header: &Map<String, Value>, data: &'a [u8], name: &str) -> &'a [u8] {
    let offset = |end: usize| header[name]["data_offsets"][end].as_u64().unwrap() as usize;
    &data[offset(0)..offset(1)]
}

/// Rows multiplied by a vector in float32, rounded once.
fn scaled(rows: &[u8], scale: &[u8]) -> Vec<u8> {
    let value = |pair: &[u8]| bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
    let row = |row: &[u8]| -> Vec<u8> {
        let products = row.chunks(2).zip(scale.chunks(2)).map(|(a, b)| bf16::from_f32(value(a) * value(b)));
        products.flat_map(bf16::to_le_bytes).collect()
    };
    rows.chunks(scale.len()).flat_map(row).collect()
}

#[test]
fn every_device_tensor_holds_the_rows_that_it_should() {
    for folder in FIXTURES.map(fixture).into_iter().chain([shakespeare()]) {
        let config = ModelConfig::load(&folder).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let weights = Weights::new(&config, &checkpoint).unwrap();
        let file = std::fs::read(folder.join("model.safetensors")).unwrap();
        let (header, data) = split_safetensors(&file);
        let raw = |name: &str| raw(&header, data, name);
        let written = |index: usize| {
            let mut out = vec![0xAA; weights.plan().tensors()[index].bytes as usize];
            weights.write(index, &mut out).unwrap();
            out
        };
        let places = weights.plan().places();
        assert_eq!(written(places.embed_tokens), raw("model.embed_tokens.weight"));
        assert_eq!(written(places.norm), raw("model.norm.weight"));
        assert_eq!(places.layers.len(), config.num_hidden_layers);
        for (layer, place) in places.layers.iter().enumerate() {
            let raw = |part: &str| raw(&format!("model.layers.{layer}.{part}.weight"));
            let row = config.hidden_size * 2;
            let mut qkv = Vec::new();
            for head in [raw("self_attn.q_proj"), raw("self_attn.k_proj")].concat().chunks(config.head_dim * row) {
                for element in 0..config.head_dim / 2 {
                    qkv.extend_from_slice(&head[element * row..][..row]);
                    qkv.extend_from_slice(&head[(element + config.head_dim / 2) * row..][..row]);
                }
            }
            qkv.extend_from_slice(raw("self_attn.v_proj"));
            assert!(written(place.qkv) == scaled(&qkv, raw("input_layernorm")), "layer {layer}: queries, keys, values");
            assert_eq!(written(place.o_proj), raw("self_attn.o_proj"));
            assert_eq!(written(place.down_proj), raw("mlp.down_proj"));
            assert!(place.qkv_bias.is_none() && place.o_bias.is_none());
            let rows = raw("mlp.gate_proj").chunks(row).zip(raw("mlp.up_proj").chunks(row));
            let gate_up: Vec<u8> = rows.flat_map(|(gate, up)| [gate, up].concat()).collect();
            assert!(
                written(place.gate_up) == scaled(&gate_up, raw("post_attention_layernorm")),
                "layer {layer}: gate, up"
            );
        }
        if config.tie_word_embeddings {
            assert_eq!(places.lm_head, places.embed_tokens);
            assert_eq!(weights.host().lm_head.as_ptr(), weights.host().embed_tokens.as_ptr());
        } else {
            assert_eq!(written(places.lm_head), raw("lm_head.weight"));
        }
        let folded = (2 * config.num_hidden_layers * config.hidden_size * 2) as u64;
        assert_eq!(weights.plan().bytes() + folded, data.len() as u64, "all weights, none twice");
        assert_eq!(weights.plan().parameters(), data.len() as u64 / 2);
    }
}

#[test]
fn a_small_staging_buffer_takes_a_tensor_in_pieces() {
    let folder = fixture("llama-gqa");
    let config = ModelConfig::load(&folder).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let weights = Weights::new(&config, &checkpoint).unwrap();
    for (index, tensor) in weights.plan().tensors().iter().enumerate() {
        let mut whole = vec![0; tensor.bytes as usize];
        weights.write(index, &mut whole).unwrap();
        for size in [97, 256, 4096, 65_536, 100_000] {
            let mut pieces = vec![0xAA; whole.len()];
            for (piece, out) in pieces.chunks_mut(size).enumerate() {
                weights.write_at(index, (piece * size) as u64, out).unwrap();
            }
            assert!(pieces == whole, "`{}` in pieces of {size} bytes", tensor.name);
        }
        weights.write_at(index, tensor.bytes, &mut []).unwrap();
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let folder = shakespeare();
    let config = ModelConfig::load(&folder).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let weights = Weights::new(&config, &checkpoint).unwrap();
    let large: Vec<usize> = (0..)
        .zip(weights.plan().tensors())
        .filter(|(_, tensor)| tensor.bytes > 300_000)
        .map(|(index, _)| index)
        .collect();
    assert!(large.len() > 4, "tensors of several threads");
    for index in large.into_iter().take(3) {
        // From an odd byte on: every thread begins within an element.
        let length = weights.plan().tensors()[index].bytes as usize - 1;
        let written = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0xAA; length];
            pool.install(|| weights.write_at(index, 1, &mut out)).unwrap();
            out
        };
        let mut pieces = vec![0xAA; length];
        for (piece, out) in pieces.chunks_mut(1001).enumerate() {
            weights.write_at(index, 1 + 1001 * piece as u64, out).unwrap();
        }
        for threads in [1, 2, 5] {
            assert!(written(threads) == pieces, "tensor {index}, {threads} threads");
        }
    }
}

#[test]
fn wrong_buffers_are_refused() {
    let folder = fixture("llama-gqa");
    let config = ModelConfig::load(&folder).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let weights = Weights::new(&config, &checkpoint).unwrap();
    let error = |result: gridpoint_model::Result<()>| result.unwrap_err().to_string();
    let norm = weights.plan().places().norm;
    assert_eq!(
        error(weights.write(norm, &mut [0; 255])),
        "tensor `model.norm` of 256 bytes cannot fill a buffer of `255` bytes from byte `0`"
    );
    assert_eq!(
        error(weights.write_at(norm, 200, &mut [0; 57])),
        "tensor `model.norm` of 256 bytes cannot fill a buffer of `57` bytes from byte `200`"
    );
    assert!(weights.write_at(norm, u64::MAX, &mut [0; 57]).is_err());
    assert_eq!(error(weights.write(11, &mut [])), "device tensor `11` does not exist, the index must be below 11");
}

#[test]
fn the_plan_needs_no_checkpoint() {
    let text = edited_config(&json!({"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128_256}));
    let plan = WeightPlan::new(&ModelConfig::from_json(&text).unwrap());
    assert_eq!(plan.parameters(), 8_030_261_248, "Llama 3 8B, as its model card has it");
    let names = plan.places().map(|&index| plan.tensors()[index].name.clone());
    assert_eq!(names.layers[31].gate_up, "model.layers.31.mlp.gate_up");
    assert_eq!((names.embed_tokens.as_str(), names.lm_head.as_str()), ("model.embed_tokens", "lm_head"));
}

/// `llama-gqa` with biases on all four projections of attention, of distinct values.
fn biased(config: &ModelConfig) -> Vec<u8> {
    let file = std::fs::read(fixture("llama-gqa").join("model.safetensors")).unwrap();
    let (mut header, data) = split_safetensors(&file);
    let mut data = data.to_vec();
    for layer in 0..config.num_hidden_layers {
        let sizes = [config.query_size(), config.kv_size(), config.kv_size(), config.hidden_size];
        for (kind, (name, size)) in ["q", "k", "v", "o"].into_iter().zip(sizes).enumerate() {
            let start = data.len();
            data.extend(std::iter::repeat_n((16 * layer + kind + 1) as u8, size * 2));
            header.insert(
                format!("model.layers.{layer}.self_attn.{name}_proj.bias"),
                json!({"dtype": "BF16", "shape": [size], "data_offsets": [start, data.len()]}),
            );
        }
    }
    safetensors(&Value::Object(header).to_string(), &data)
}

#[test]
fn attention_biases() {
    let text = edited_config(&json!({"attention_bias": true}));
    let config = ModelConfig::from_json(&text).unwrap();
    let folder = temporary(&[("model.safetensors", &biased(&config))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let weights = Weights::new(&config, &checkpoint).unwrap();
    let place = &weights.plan().places().layers[1];
    let mut qkv = vec![0; config.qkv_size() * 2];
    weights.write(place.qkv_bias.unwrap(), &mut qkv).unwrap();
    let expected = [vec![17; 512], vec![18; 256], vec![19; 256]].concat();
    assert_eq!(qkv, expected);
    let mut output = vec![0; config.hidden_size * 2];
    weights.write(place.o_bias.unwrap(), &mut output).unwrap();
    assert_eq!(output, vec![20; 256]);
    let error = Weights::new(&ModelConfig::load(&fixture("llama-gqa")).unwrap(), &checkpoint).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "tensor `model.layers.0.self_attn.k_proj.bias` contradicts `attention_bias` = `false` of `config.json`, \
             which must be true"
        ),
        "{error}"
    );
}

#[test]
fn shards_are_the_same_as_one_file() {
    let file = std::fs::read(fixture("llama-gqa").join("model.safetensors")).unwrap();
    let (header, data) = split_safetensors(&file);
    let mut weight_map = Map::new();
    let mut shards = vec![(Map::new(), Vec::new()); 3];
    for (position, name) in header.keys().filter(|name| *name != "__metadata__").enumerate() {
        let (shard_header, shard_data): &mut (Map<String, Value>, Vec<u8>) = &mut shards[position % 3];
        let start = shard_data.len();
        shard_data.extend(raw(&header, data, name));
        let offsets = [start, shard_data.len()];
        let info = json!({"dtype": "BF16", "shape": header[name]["shape"], "data_offsets": offsets});
        shard_header.insert(name.clone(), info);
        weight_map.insert(name.clone(), json!(format!("model-{}-of-3.safetensors", position % 3 + 1)));
    }
    let index = json!({"metadata": {"total_size": data.len()}, "weight_map": weight_map}).to_string();
    let folder = temporary(&[("model.safetensors.index.json", index.as_bytes())]);
    for (position, (header, data)) in shards.into_iter().enumerate() {
        // Blanks after the header, as writers align with, and here of an odd number: elements at odd addresses.
        let header = format!("{}{}", Value::Object(header), " ".repeat(position));
        let path = folder.path().join(format!("model-{}-of-3.safetensors", position + 1));
        std::fs::write(path, safetensors(&header, &data)).unwrap();
    }
    let config = ModelConfig::load(&fixture("llama-gqa")).unwrap();
    let (single, sharded) =
        (Checkpoint::open(&fixture("llama-gqa")).unwrap(), Checkpoint::open(folder.path()).unwrap());
    let (single, sharded) = (Weights::new(&config, &single).unwrap(), Weights::new(&config, &sharded).unwrap());
    for (index, tensor) in single.plan().tensors().iter().enumerate() {
        let [mut expected, mut found] = [vec![0; tensor.bytes as usize], vec![1; tensor.bytes as usize]];
        single.write(index, &mut expected).unwrap();
        sharded.write(index, &mut found).unwrap();
        assert!(expected == found, "{}", tensor.name);
    }
}
