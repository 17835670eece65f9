//! Weights that cannot be used: the whole message of each.

use gridpoint_model::{Checkpoint, ModelConfig, Weights};
use serde_json::{Value, json};

use crate::folder::{edited_config, fixture, message, safetensors, split_safetensors, temporary};

/// The message for these files beside `llama-gqa`'s configuration.
fn refused(files: &[(&str, &[u8])]) -> String {
    refused_with(&json!({}), files)
}

fn refused_with(edits: &Value, files: &[(&str, &[u8])]) -> String {
    let config = ModelConfig::from_json(&edited_config(edits)).unwrap();
    let folder = temporary(files);
    let checkpoint = match Checkpoint::open(folder.path()) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return message(&error, folder.path()),
    };
    message(&Weights::new(&config, &checkpoint).unwrap_err(), folder.path())
}

fn good() -> Vec<u8> {
    std::fs::read(fixture("llama-gqa").join("model.safetensors")).unwrap()
}

/// `llama-gqa`'s weights with the header changed and as many bytes of data as it then describes.
fn edited(edit: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Vec<u8> {
    let file = good();
    let (mut header, data) = split_safetensors(&file);
    edit(&mut header);
    safetensors(&Value::Object(header).to_string(), data)
}

fn single(file: &[u8]) -> String {
    refused(&[("model.safetensors", file)])
}

#[test]
fn files_that_are_not_there() {
    assert_eq!(
        refused(&[]),
        "`FOLDER` holds no weights, expected `model.safetensors` or `model.safetensors.index.json`"
    );
    let folder = temporary(&[]);
    let error = Checkpoint::open(&folder.path().join("nowhere")).unwrap_err();
    assert_eq!(message(&error, folder.path()), "`nowhere` is not a folder, expected a Hugging Face model folder");
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert_eq!(message(&error, folder.path()), "`model.safetensors` is a folder, expected the weights of the model");
}

#[test]
fn headers() {
    let invalid = |reason: &str| format!("`model.safetensors` is not a valid safetensors file: {reason}");
    assert_eq!(single(b""), invalid("it is `0` bytes long, it must have at least 8"));
    assert_eq!(single(b"1234567"), invalid("it is `7` bytes long, it must have at least 8"));
    assert_eq!(
        single(&[0xFF; 64]),
        invalid("its header length is `18446744073709551615`, it must be at most 100000000")
    );
    assert_eq!(
        single(&[9, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']),
        invalid("its header length is `9`, only 2 bytes follow: the file is truncated or damaged")
    );
    assert_eq!(single(&safetensors("", b"")), invalid("its header: EOF while parsing a value at line 1 column 0"));
    assert!(single(&safetensors("[1]", b"")).starts_with(&invalid("its header: invalid type")));
    assert_eq!(
        single(&safetensors("{}", b"x")),
        invalid("its header describes `0` bytes of tensors, 1 follow: the file is truncated or damaged")
    );
    let file = good();
    let header = u64::from_le_bytes(file[..8].try_into().unwrap());
    let tensors = file.len() as u64 - 8 - header;
    assert_eq!(
        single(&file[..file.len() - 1]),
        invalid(&format!(
            "its header describes `{tensors}` bytes of tensors, {} follow: the file is truncated or damaged",
            tensors - 1
        ))
    );
    assert_eq!(
        single(&file[..100]),
        invalid(&format!("its header length is `{header}`, only 92 bytes follow: the file is truncated or damaged"))
    );
}

#[test]
fn offsets() {
    let invalid = "`model.safetensors` is not a valid safetensors file: its header: ";
    let one = |shape: Value, offsets: Value| {
        single(&safetensors(&json!({"t": {"dtype": "BF16", "shape": shape, "data_offsets": offsets}}).to_string(), b""))
    };
    assert_eq!(one(json!([4]), json!([8, 0])), format!("{invalid}invalid offset for tensor `t`"));
    assert_eq!(one(json!([4]), json!([2, 10])), format!("{invalid}invalid offset for tensor `t`"));
    assert!(one(json!([4]), json!([0, 6])).starts_with(invalid));
    assert!(one(json!([1_u64 << 62, 8]), json!([0, 8])).starts_with(invalid));
    assert!(one(json!([-1]), json!([0, 8])).starts_with(invalid));
    // Tensors that together reach the end of the address space, so that offset plus header length overflows.
    let unit = 1_u64 << 60;
    let mut header = serde_json::Map::new();
    for tensor in 0..15 {
        let info = json!({"dtype": "U8", "shape": [unit], "data_offsets": [tensor * unit, (tensor + 1) * unit]});
        header.insert(format!("t{tensor:02}"), info);
    }
    let offsets = [15 * unit, u64::MAX];
    header.insert("t15".into(), json!({"dtype": "U8", "shape": [unit - 1], "data_offsets": offsets}));
    assert_eq!(
        single(&safetensors(&Value::Object(header).to_string(), b"")),
        "`model.safetensors` is not a valid safetensors file: its header describes `18446744073709551615` bytes of \
         tensors, 0 follow: the file is truncated or damaged"
    );
    let overlapping = edited(|header| {
        let offsets = header["model.norm.weight"]["data_offsets"].clone();
        header["model.layers.0.input_layernorm.weight"]["data_offsets"] = offsets;
    });
    assert!(single(&overlapping).starts_with(&format!("{invalid}invalid offset for tensor `")));
}

#[test]
fn tensors_that_do_not_fit_the_configuration() {
    let with_head = |change: &dyn Fn(&mut Value)| edited(|header| change(&mut header["lm_head.weight"]));
    assert_eq!(
        single(&with_head(&|head| head["dtype"] = json!("F16"))),
        "`model.safetensors`: `dtype of lm_head.weight` is `F16`, which is not supported: supported is BF16, the type of \
         model.embed_tokens.weight"
    );
    assert_eq!(
        single(&with_head(&|head| (head["dtype"], head["shape"]) = (json!("F32"), json!([512, 64])))),
        "`model.safetensors`: `dtype of lm_head.weight` is `F32`, which is not supported: supported is BF16, the type of \
         model.embed_tokens.weight"
    );
    assert_eq!(
        single(&with_head(&|head| head["shape"] = json!([128, 512]))),
        "`model.safetensors`: tensor `lm_head.weight` has shape [128, 512], `config.json` calls for [512, 128] \
         (`vocab_size`, `hidden_size`)"
    );
    let file = good();
    let refused_with = |edits: Value| refused_with(&edits, &[("model.safetensors", &file)]);
    assert_eq!(
        refused_with(json!({"vocab_size": 1003})),
        "`model.safetensors`: tensor `model.embed_tokens.weight` has shape [512, 128], `config.json` calls for \
         [1003, 128] (`vocab_size`, `hidden_size`)"
    );
    assert_eq!(
        refused_with(json!({"num_key_value_heads": 4})),
        "`model.safetensors`: tensor `model.layers.0.self_attn.k_proj.weight` has shape [128, 128], `config.json` \
         calls for [256, 128] (`num_key_value_heads` x `head_dim`, `hidden_size`)"
    );
    assert_eq!(
        refused_with(json!({"num_hidden_layers": 3})),
        "`model.safetensors` has no tensor `model.layers.2.input_layernorm.weight`, expected one of shape [128] in BF16"
    );
    assert_eq!(
        refused_with(json!({"num_hidden_layers": 1})),
        "`model.safetensors`: tensor `model.layers.1.input_layernorm.weight` contradicts `num_hidden_layers` = `1` of \
         `config.json`, which must be above 1"
    );
    assert_eq!(
        refused_with(json!({"attention_bias": true})),
        "`model.safetensors` has no tensor `model.layers.0.self_attn.q_proj.bias`, expected one of shape [256] in BF16"
    );
    let renamed = |from: &str, to: &str| {
        edited(|header| {
            let info = header.remove(from).unwrap();
            header.insert(to.into(), info);
        })
    };
    assert_eq!(
        single(&renamed("lm_head.weight", "head")),
        "`model.safetensors` has no tensor `lm_head.weight`, expected one of shape [512, 128] in BF16, or \
         `tie_word_embeddings` = `true` in `config.json`"
    );
}

#[test]
fn tensors_that_ask_for_more_than_is_done() {
    let added = |name: &str| {
        edited(|header| {
            let end = header.values().filter_map(|info| info["data_offsets"][1].as_u64()).max();
            header.insert(name.into(), json!({"dtype": "BF16", "shape": [0], "data_offsets": [end, end]}));
        })
    };
    for (name, supported) in [
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "bfloat16 weights without quantisation"),
        ("model.layers.0.self_attn.q_proj.qweight", "bfloat16 weights without quantisation"),
        ("model.layers.0.self_attn.q_norm.weight", "attention without norms of queries and keys"),
        ("model.layers.0.mlp.up_proj.bias", "a feed-forward layer without biases"),
    ] {
        let expected =
            format!("`model.safetensors`: `tensor` is `{name}`, which is not supported: supported is {supported}");
        assert_eq!(single(&added(name)), expected);
    }
    let config = ModelConfig::load(&fixture("llama-gqa")).unwrap();
    let folder = temporary(&[("model.safetensors", &added("model.layers.0.self_attn.rotary_emb.inv_freq"))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(Weights::new(&config, &checkpoint).is_ok(), "other tensors are ignored");
}

#[test]
fn indexes() {
    let index = |weight_map: Value| {
        let text = json!({"metadata": {}, "weight_map": weight_map}).to_string();
        refused(&[("model.safetensors.index.json", text.as_bytes()), ("part.safetensors", &good())])
    };
    let file = "`model.safetensors.index.json`";
    for escape in
        ["../part.safetensors", "/etc/passwd", "a/part.safetensors", "..", "", "part.bin", "c:part.safetensors"]
    {
        assert_eq!(
            index(json!({"lm_head.weight": escape})),
            format!(
                "{file}: `weight_map.lm_head.weight` is `{escape}`, it must be the name of a `.safetensors` file \
                 beside the index"
            )
        );
    }
    assert_eq!(
        index(json!({"lm_head.weight": 1})),
        format!("{file}: `weight_map.lm_head.weight` is `1`, it must be a string")
    );
    assert_eq!(index(json!([1])), format!("{file}: `weight_map` is `[1]`, it must be an object"));
    assert_eq!(
        index(Value::Null),
        format!("{file}: `weight_map` is missing, it must be an object from tensor names to file names")
    );
    assert_eq!(
        index(json!({"lm_head.weight": "other.safetensors"})),
        "`other.safetensors` does not exist, expected a shard that `model.safetensors.index.json` names"
    );
    assert_eq!(
        index(json!({"unheard.of": "part.safetensors"})),
        format!(
            "{file}: `weight_map.unheard.of` is `part.safetensors`, it must be the name of the shard that holds this \
             tensor"
        )
    );
    assert_eq!(
        index(json!({"lm_head.weight": "part.safetensors"})),
        format!("{file} has no tensor `model.embed_tokens.weight`, expected one of shape [512, 128] in BF16")
    );
}
