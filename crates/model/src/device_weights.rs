//! Weights that already lie on the device, as a trainer of the same process has them: named and shaped as in a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use gridpoint_runtime::DeviceBytes;
use safetensors::Dtype;

use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::weight_lookup::{Tensor, Tensors, find_model};
use crate::weight_plan::{ELEMENT, ElementType, WeightPlan};
use crate::weight_source::{Part, Source};
use crate::weights::sources;

/// Stands for a file in error messages.
const PLACE: &str = "tensors on the device";

/// A tensor on the device, row-major and without gaps.
#[derive(Clone, Debug)]
pub struct GivenTensor<'a> {
    /// Its name in a checkpoint: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The type of its elements. Trainers that keep float32 copies cast first: this is what a checkpoint of theirs would hold.
    pub element: ElementType,
    /// Where it lies.
    pub bytes: DeviceBytes<'a>,
}

/// The weights of a model on the device, checked as those of a checkpoint are. Nothing has been read yet.
#[derive(Debug)]
pub struct DeviceWeights<'a> {
    plan: WeightPlan,
    element: ElementType,
    head_dim: usize,
    sources: Vec<Source<DeviceBytes<'a>>>,
}

impl Part for DeviceBytes<'_> {
    fn length(self) -> usize {
        self.bytes() as usize
    }

    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at(at as u64)
    }
}

struct Given<'a>(BTreeMap<String, GivenTensor<'a>>);

impl<'a> Tensors<DeviceBytes<'a>> for Given<'a> {
    fn path(&self) -> &Path {
        Path::new(PLACE)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    fn tensor(&self, name: &str) -> Option<Tensor<'_, DeviceBytes<'a>>> {
        let GivenTensor { shape, element, bytes, .. } = self.0.get(name)?;
        let dtype = match element {
            ElementType::BFloat16 => Dtype::BF16,
            ElementType::Float16 => Dtype::F16,
        };
        Some(Tensor { path: Path::new(PLACE), dtype, shape, bytes: *bytes })
    }
}

impl<'a> DeviceWeights<'a> {
    /// Checks the tensors as [`crate::Weights::new`] checks those of a checkpoint; those that the model does not use are ignored.
    ///
    /// # Errors
    /// As there, and a name that comes twice, or bytes that are not those of the shape.
    pub fn new(config: &ModelConfig, tensors: impl IntoIterator<Item = GivenTensor<'a>>) -> Result<Self> {
        let mut given = BTreeMap::new();
        for tensor in tensors {
            let elements = tensor.shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
            let expected = elements.and_then(|elements| elements.checked_mul(ELEMENT)).unwrap_or(u64::MAX);
            let name = tensor.name.clone();
            if tensor.bytes.bytes() != expected {
                let (shape, found) = (tensor.shape, tensor.bytes.bytes());
                return Err(ModelError::TensorBytes { path: PLACE.into(), tensor: name, shape, found, expected });
            }
            if let Some(before) = given.insert(name, tensor) {
                return Err(ModelError::DuplicateTensor { path: PLACE.into(), tensor: before.name });
            }
        }
        let (element, found) = find_model(config, &Given(given))?;
        let sources = sources(config, &found, element);
        Ok(Self { plan: WeightPlan::new(config), element, head_dim: config.head_dim, sources })
    }

    /// Which tensors the model holds on the device.
    #[must_use]
    pub fn plan(&self) -> &WeightPlan {
        &self.plan
    }

    /// The type of all weights.
    #[must_use]
    pub fn element(&self) -> ElementType {
        self.element
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim
    }

    pub(crate) fn sources(&self) -> &[Source<DeviceBytes<'a>>] {
        &self.sources
    }
}
