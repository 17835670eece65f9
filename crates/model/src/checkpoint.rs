//! Safetensors by memory map: one `model.safetensors`, or the shards that `model.safetensors.index.json` names.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::error::{ModelError, Result, excerpt, read_bytes, regular_file};
use crate::json::{Object, parse_object};
use crate::mmap::map;
use crate::weight_lookup::{Tensor, Tensors};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// An index larger than this is not one.
const INDEX_BYTES: u64 = 64 << 20;
/// The format's own limit for the header.
const HEADER_BYTES: u64 = 100_000_000;
/// Bytes of the header's length at the start of the file.
const LENGTH_BYTES: usize = 8;

/// The mapped weights of a model folder: names, types, shapes and bytes, not yet compared with a configuration.
///
/// The files must not be changed or truncated while a checkpoint lives: the map shows such changes, and reading a page
/// that a truncation has removed ends the process.
#[derive(Debug)]
pub struct Checkpoint {
    root: PathBuf,
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    map: Mmap,
}

#[derive(Debug)]
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

impl Checkpoint {
    /// Maps the weights of a folder and reads their headers.
    ///
    /// # Errors
    /// No weights in the folder, a file that cannot be read, a header that is not valid or does not describe the file's
    /// bytes exactly, an index that names a shard outside the folder or a tensor that its shard does not hold.
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join(SINGLE);
        let index = folder.join(INDEX);
        if single.exists() {
            let mut checkpoint = Self { root: single.clone(), files: Vec::new(), tensors: BTreeMap::new() };
            checkpoint.tensors = checkpoint.add_file(single, "the weights of the model")?;
            Ok(checkpoint)
        } else if index.exists() {
            Self::open_shards(folder, index)
        } else if folder.is_dir() {
            Err(ModelError::NotFound {
                path: folder.to_owned(),
                found: "holds no weights".into(),
                expected: format!("`{SINGLE}` or `{INDEX}`"),
            })
        } else {
            Err(ModelError::NotFound {
                path: folder.to_owned(),
                found: "is not a folder".into(),
                expected: "a Hugging Face model folder".into(),
            })
        }
    }

    fn open_shards(folder: &Path, index: PathBuf) -> Result<Self> {
        let text = read_bytes(&index, INDEX_BYTES, "the index of sharded weights")?;
        let map = parse_object(&text, &index)?;
        let object = Object::new(&index, "", &map);
        let weight_map = object
            .object("weight_map")?
            .ok_or_else(|| object.missing("weight_map", "an object from tensor names to file names"))?;
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, _) in weight_map.fields() {
            let name = weight_map.string(tensor)?.unwrap_or_default();
            if !is_plain_file_name(name) {
                let expected = "the name of a `.safetensors` file beside the index";
                return Err(weight_map.refuse(&excerpt(tensor), excerpt(name), expected));
            }
            shards.entry(name).or_default().push(tensor);
        }
        let mut checkpoint = Self { root: index.clone(), files: Vec::new(), tensors: BTreeMap::new() };
        for (name, tensors) in shards {
            let mut found = checkpoint.add_file(folder.join(name), &format!("a shard that `{INDEX}` names"))?;
            for tensor in tensors {
                let place = found.remove(tensor).ok_or_else(|| {
                    weight_map.refuse(&excerpt(tensor), name, "the name of the shard that holds this tensor")
                })?;
                checkpoint.tensors.insert(tensor.to_owned(), place);
            }
        }
        Ok(checkpoint)
    }

    /// Maps one file and returns the places of its tensors.
    fn add_file(&mut self, path: PathBuf, expected: &str) -> Result<BTreeMap<String, Place>> {
        let size = regular_file(&path, expected)?;
        if size < LENGTH_BYTES as u64 {
            let reason = format!("it is `{size}` bytes long, it must have at least {LENGTH_BYTES}");
            return Err(ModelError::Safetensors { path, reason });
        }
        let map = map(&path, expected)?;
        let places = read_header(&map, self.files.len())
            .map_err(|reason| ModelError::Safetensors { path: path.clone(), reason })?;
        self.files.push(WeightFile { path, map });
        Ok(places)
    }

    /// The file that says which tensors there are: the single file, or the index.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The names of all tensors, in the order of their bytes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor called `name`.
    pub(crate) fn tensor(&self, name: &str) -> Option<Tensor<'_, &[u8]>> {
        let place = self.tensors.get(name)?;
        let file = self.files.get(place.file)?;
        let bytes = file.map.get(place.start..place.end)?;
        Some(Tensor { path: &file.path, dtype: place.dtype, shape: &place.shape, bytes })
    }
}

impl<'a> Tensors<&'a [u8]> for &'a Checkpoint {
    fn path(&self) -> &Path {
        Checkpoint::path(self)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        Checkpoint::names(self)
    }

    fn tensor(&self, name: &str) -> Option<Tensor<'_, &'a [u8]>> {
        Checkpoint::tensor(self, name)
    }
}

/// Whether `name` is one normal component, on every platform, and ends as weights do.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    single && !name.contains(['/', '\\', ':', '\0']) && name.ends_with(".safetensors")
}

/// The places of all tensors of a mapped file, which is the `file`-th of its checkpoint.
///
/// `SafeTensors::read_metadata` is not used because it adds the header's length to the last offset unchecked, which a
/// hostile header makes overflow; `Metadata` checks on its own that the tensors lie end to end and have the sizes that
/// their shapes and types give.
fn read_header(bytes: &[u8], file: usize) -> Result<BTreeMap<String, Place>, String> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().ok_or("it has no header length")?;
    let length = u64::from_le_bytes(*length);
    if length > HEADER_BYTES {
        return Err(format!("its header length is `{length}`, it must be at most {HEADER_BYTES}"));
    }
    let (header, data) = usize::try_from(length).ok().and_then(|at| rest.split_at_checked(at)).ok_or_else(|| {
        format!("its header length is `{length}`, only {} bytes follow: the file is truncated or damaged", rest.len())
    })?;
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|error| format!("its header: {}", excerpt(&error.to_string())))?;
    if metadata.data_len() != data.len() {
        return Err(format!(
            "its header describes `{}` bytes of tensors, {} follow: the file is truncated or damaged",
            metadata.data_len(),
            data.len()
        ));
    }
    let first = LENGTH_BYTES + header.len();
    let mut places = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        // Offsets are within the data, which begins at `first` within the map: neither sum can overflow.
        let (start, end) = (first + start, first + end);
        places.insert(name, Place { file, dtype: info.dtype, shape: info.shape.clone(), start, end });
    }
    Ok(places)
}
