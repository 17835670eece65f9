//! What can be wrong with a model folder: every variant names the file, what was found and what would be right.

use std::path::{Path, PathBuf};

/// The result of everything in this crate that reads a model folder.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Why a model folder cannot be used. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The device layer failed.
    #[error(transparent)]
    Runtime(#[from] gridpoint_runtime::RuntimeError),
    /// A size beyond what the kernels count.
    #[error(transparent)]
    Limit(#[from] crate::device::LimitError),
    /// A table of measured choices that is not for this device.
    #[error(transparent)]
    Table(#[from] crate::device::TableError),
    /// A file or folder is not there, is not of the kind that was looked for, or is larger than such a file may be.
    #[error("`{}` {found}, expected {expected}", path.display())]
    NotFound {
        /// The path that was looked at.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// The operating system refused to read a file.
    #[error("`{}` cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A JSON file does not parse, or its outermost value is not an object.
    #[error("`{}` is not a JSON object: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with line and column.
        reason: String,
    },
    /// A field has a value that is out of range, of the wrong type, or contradicts another field.
    #[error("`{}`: `{field}` is `{value}`, it must be {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, with its parents (`rope_scaling.factor`).
        field: String,
        /// The value as the file has it, shortened.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// A field that has no default is absent.
    #[error("`{}`: `{field}` is missing, it must be {expected}", path.display())]
    MissingField {
        /// The file.
        path: PathBuf,
        /// The field, with its parents.
        field: String,
        /// What would be right.
        expected: String,
    },
    /// The folder asks for something that this crate does not do.
    #[error("`{}`: `{field}` is `{value}`, which is not supported: supported is {supported}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field or tensor that asks for it.
        field: String,
        /// What it asks for.
        value: String,
        /// What is supported.
        supported: String,
    },
    /// A safetensors file does not hold what its header says, or has no valid header.
    #[error("`{}` is not a valid safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// A tensor that the configuration calls for is absent.
    #[error("`{}` has no tensor `{tensor}`, expected one of shape {expected:?} in BF16{hint}", path.display())]
    MissingTensor {
        /// The weights file, or the index.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape that config.json calls for.
        expected: Vec<usize>,
        /// What to change in config.json, where that may be the fault; empty otherwise.
        hint: &'static str,
    },
    /// A tensor's shape is not the one that the configuration calls for.
    #[error("`{}`: tensor `{tensor}` has shape {found:?}, `config.json` calls for {expected:?} ({meaning})", path.display())]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that config.json calls for.
        expected: Vec<usize>,
        /// The same shape in words.
        meaning: &'static str,
    },
    /// A tensor of the weights contradicts a field of the configuration.
    #[error("`{}`: tensor `{tensor}` contradicts `{field}` = `{value}` of `config.json`, which must be {expected}", path.display())]
    Contradiction {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The field of config.json.
        field: &'static str,
        /// The field's value.
        value: String,
        /// What the field would have to be.
        expected: String,
    },
    /// Two tensors of one name were given.
    #[error("`{}`: tensor `{tensor}` was given twice, it must be given once", path.display())]
    DuplicateTensor {
        /// Where the tensors come from.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// A tensor was given with more or fewer bytes than its shape says.
    #[error("`{}`: tensor `{tensor}` of shape {shape:?} has `{found}` bytes, it must have {expected}", path.display())]
    TensorBytes {
        /// Where the tensor comes from.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes given.
        found: u64,
        /// Bytes of the shape.
        expected: u64,
    },
    /// Weights that are not those of the model whose place they are to take.
    #[error(
        "the new weights have {field} `{found}`, the model was loaded with {expected}: an update keeps the model and changes numbers alone"
    )]
    OtherModel {
        /// What differs.
        field: String,
        /// The new weights'.
        found: String,
        /// The model's.
        expected: String,
    },
    /// tokenizer.json cannot be used.
    #[error("`{}` cannot be used: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A token id lies outside the vocabulary.
    #[error("token id `{id}` is outside the vocabulary, it must be below {vocab_size}")]
    TokenId {
        /// The id.
        id: u32,
        /// The model's vocabulary size.
        vocab_size: usize,
    },
    /// A caller's buffer does not have the length of the range of the tensor that it is to receive.
    #[error("tensor `{tensor}` of {size} bytes cannot fill a buffer of `{length}` bytes from byte `{offset}`")]
    Buffer {
        /// The device tensor's name.
        tensor: String,
        /// The tensor's size in bytes.
        size: u64,
        /// The first byte asked for.
        offset: u64,
        /// The buffer's length in bytes.
        length: usize,
    },
    /// A caller named a tensor that the plan does not have.
    #[error("device tensor `{index}` does not exist, the index must be below {count}")]
    TensorIndex {
        /// The index that was asked for.
        index: usize,
        /// How many tensors the plan has.
        count: usize,
    },
}

/// The longest excerpt of a file's content that a message repeats, in characters.
const EXCERPT: usize = 80;

/// `text` on one line, control characters escaped, shortened to what a message can carry.
pub(crate) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(EXCERPT).flat_map(escape_control).collect();
    if text.chars().nth(EXCERPT).is_some() {
        short.push('…');
    }
    short
}

fn escape_control(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    let plain = (!character.is_control()).then_some(character);
    escaped.into_iter().flatten().chain(plain)
}

/// The text of a regular file of at most `limit` bytes.
///
/// # Errors
/// [`ModelError::NotFound`] where there is no such file, where it is not a regular file (a pipe would block) and where
/// it is too large to be what its name says; [`ModelError::Io`] otherwise.
pub(crate) fn read_bytes(path: &Path, limit: u64, expected: &str) -> Result<Vec<u8>> {
    let size = regular_file(path, expected)?;
    if size > limit {
        return Err(ModelError::NotFound {
            path: path.to_owned(),
            found: format!("is `{size}` bytes long"),
            expected: format!("{expected} of at most {limit} bytes"),
        });
    }
    std::fs::read(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })
}

/// The size in bytes of the regular file at `path`.
pub(crate) fn regular_file(path: &Path, expected: &str) -> Result<u64> {
    let not_found =
        |found: &str| ModelError::NotFound { path: path.to_owned(), found: found.into(), expected: expected.into() };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(metadata.len()),
        Ok(metadata) if metadata.is_dir() => Err(not_found("is a folder")),
        Ok(_) => Err(not_found("is not a regular file")),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Err(not_found("does not exist")),
        Err(source) => Err(ModelError::Io { path: path.to_owned(), source }),
    }
}
