//! Weights onto the device: at the start, and again in place of those that are there.
//!
//! A checkpoint's bytes are stacked, interleaved and multiplied by the weights of normalisations on the host, into page-locked memory of
//! which one half is filled while the other is on its way. Tensors that lie on the device already are treated the same, so that both ways
//! give the same bits: those that only need a copy stay on the device; the others, the projections of queries, keys and values and those
//! of the gate and the feed-forward layer's input, cross to the host and back, each byte once in each direction.

use std::sync::Arc;

use gridpoint_runtime::{Arena, ArenaLayout, Device, DeviceBytes, RuntimeError, Staging};

use super::memory::WeightStore;
use super::model::Model;
use crate::config::ModelConfig;
use crate::device_weights::DeviceWeights;
use crate::error::{ModelError, Result};
use crate::rope::rotary_rows;
use crate::weight_plan::{DeviceTensor, ElementType, WeightPlan};
use crate::weight_source::{Source, Window};
use crate::weights::Weights;

/// Bytes of a half of the staging memory: long enough that a copy's start costs nothing beside it, short enough to stay near the caches.
pub(super) const STAGING_BYTES: usize = 8 << 20;

/// Weights that take the place of those that a model has.
#[derive(Clone, Copy, Debug)]
pub enum NewWeights<'a> {
    /// Of a folder.
    Checkpoint(&'a Weights<'a>),
    /// On the device already.
    Device(&'a DeviceWeights<'a>),
}

impl<'a> From<&'a Weights<'a>> for NewWeights<'a> {
    fn from(weights: &'a Weights<'a>) -> Self {
        Self::Checkpoint(weights)
    }
}

impl<'a> From<&'a DeviceWeights<'a>> for NewWeights<'a> {
    fn from(weights: &'a DeviceWeights<'a>) -> Self {
        Self::Device(weights)
    }
}

/// Bytes that an update moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateBytes {
    /// From the host to the device.
    pub to_device: u64,
    /// From the device to the host, on their way back.
    pub to_host: u64,
    /// On the device alone.
    pub on_device: u64,
}

impl UpdateBytes {
    /// Bytes of weights that were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.to_device + self.on_device
    }
}

impl NewWeights<'_> {
    fn facts(&self) -> (&WeightPlan, ElementType, usize) {
        match self {
            Self::Checkpoint(weights) => (weights.plan(), weights.element(), weights.head_dim()),
            Self::Device(weights) => (weights.plan(), weights.element(), weights.head_dim()),
        }
    }
}

/// Computes the rotary table and uploads it.
pub(super) fn upload_rotary(arena: &Arena, config: &ModelConfig, store: &WeightStore) -> Result<()> {
    let positions = store.rotary.count() as usize / config.head_dim;
    let piece = STAGING_BYTES / size_of::<f32>() / config.head_dim;
    for first in (0..positions).step_by(piece) {
        let rows = rotary_rows(&config.rope, config.head_dim, first..positions.min(first + piece));
        arena.upload(store.rotary, (first * config.head_dim) as u64, &rows)?;
    }
    Ok(())
}

/// Sends the tensors of a checkpoint.
fn send(arena: &Arena, staging: &mut Staging, store: &WeightStore, weights: &Weights<'_>) -> Result<UpdateBytes> {
    let mut moved = UpdateBytes::default();
    for (index, &region) in store.uploads.iter().enumerate() {
        let mut first = 0;
        while first < region.bytes() {
            let bytes = (region.bytes() - first).min(staging.capacity() as u64);
            staging.send((arena, region, first), bytes as usize, |out| weights.write_at(index, first, out))?;
            first += bytes;
        }
        moved.to_device += region.bytes();
    }
    staging.finish()?;
    Ok(moved)
}

/// Sends tensors of the device.
fn send_device(
    arena: &Arena,
    staging: &mut Staging,
    store: &WeightStore,
    weights: &DeviceWeights<'_>,
) -> Result<UpdateBytes> {
    let mut moved = UpdateBytes::default();
    let mut inbox = Vec::new();
    for (&region, source) in store.uploads.iter().zip(weights.sources()) {
        let scale = match source.scale() {
            Some((columns, element)) => {
                moved.to_host += columns.bytes();
                Some((download(columns)?, element))
            }
            None => None,
        };
        for window in source.windows(staging.capacity()) {
            let Window { first, parts, chunk } = window;
            let bytes: u64 = parts.iter().map(DeviceBytes::bytes).sum();
            if let ([part], None) = (&parts[..], &scale) {
                staging.copy((arena, region, first as u64), *part)?;
                moved.on_device += bytes;
                continue;
            }
            inbox.resize(bytes as usize, 0);
            let mut rest = &mut inbox[..];
            let mut here = Vec::with_capacity(parts.len());
            for part in &parts {
                let (now, later) = rest.split_at_mut(part.bytes() as usize);
                part.download(now)?;
                here.push(&*now);
                rest = later;
            }
            let mut staged = Source::new([(here, chunk)]);
            if let Some((columns, element)) = &scale {
                staged = staged.scaled(columns, *element);
            }
            staging.send((arena, region, first as u64), bytes as usize, |out| {
                staged.read_by_all(0, out);
                Ok::<(), RuntimeError>(())
            })?;
            moved.to_host += bytes;
            moved.to_device += bytes;
        }
    }
    staging.finish()?;
    Ok(moved)
}

fn download(bytes: DeviceBytes<'_>) -> Result<Vec<u8>> {
    let mut out = vec![0; bytes.bytes() as usize];
    bytes.download(&mut out)?;
    Ok(out)
}

impl Model {
    /// Staging memory for uploads and updates of these weights: two halves of 8 MiB, or of the largest tensor where that is less.
    ///
    /// # Errors
    /// The driver's error.
    pub fn staging(device: &Arc<Device>, store: &WeightStore) -> Result<Staging> {
        let largest = store.uploads.iter().map(|region| region.bytes()).max().unwrap_or(1);
        Ok(Staging::new(device, largest.min(STAGING_BYTES as u64) as usize)?)
    }

    /// Allocates an arena for `store` and uploads the weights and the rotary table into it.
    ///
    /// # Errors
    /// Not enough device memory, or the driver's error.
    pub fn upload(
        device: &Arc<Device>,
        config: &ModelConfig,
        weights: &Weights<'_>,
        layout: &ArenaLayout,
        store: &WeightStore,
    ) -> Result<Arc<Arena>> {
        let arena = Arena::new(device, "the model's weights", layout)?;
        Self::upload_into(&arena, &mut Self::staging(device, store)?, config, weights, store)?;
        Ok(Arc::new(arena))
    }

    /// Uploads the weights and the rotary table into an arena that `store` was laid out for.
    ///
    /// # Errors
    /// The driver's error.
    pub fn upload_into(
        arena: &Arena,
        staging: &mut Staging,
        config: &ModelConfig,
        weights: &Weights<'_>,
        store: &WeightStore,
    ) -> Result<()> {
        send(arena, staging, store, weights)?;
        upload_rotary(arena, config, store)
    }

    /// Whether weights can take the place of the model's: the same tensors in the same shapes and type, interleaved alike. Reads no weight.
    ///
    /// # Errors
    /// [`ModelError::OtherModel`] with what differs.
    pub fn check_update(&self, weights: NewWeights<'_>) -> Result<()> {
        let (plan, element, head_dim) = weights.facts();
        let differs = |field: &str, found: String, expected: String| {
            Err(ModelError::OtherModel { field: field.to_owned(), found, expected })
        };
        if element != self.kernels.element {
            return differs("the type", element.to_string(), self.kernels.element.to_string());
        }
        if head_dim != self.config.head_dim {
            return differs("head_dim", head_dim.to_string(), self.config.head_dim.to_string());
        }
        let own = WeightPlan::new(&self.config);
        let shape = |tensor: Option<&DeviceTensor>| {
            tensor.map_or("no tensor".to_owned(), |one| format!("{} [{}, {}]", one.name, one.rows, one.columns))
        };
        for index in 0..own.tensors().len().max(plan.tensors().len()) {
            let (found, expected) = (plan.tensors().get(index), own.tensors().get(index));
            if found != expected {
                return differs("the device tensor", shape(found), shape(expected));
            }
        }
        Ok(())
    }

    /// Writes weights over the model's, at the same addresses: recorded launches and captured graphs go on with the new ones. No step may
    /// be on its way. It repeats what [`Model::upload`] did with the first ones, bit for bit.
    ///
    /// # Errors
    /// That of [`Model::check_update`] before anything is written; the driver's error otherwise, and then the weights are neither the old
    /// ones nor the new ones.
    pub fn update(&self, staging: &mut Staging, weights: NewWeights<'_>) -> Result<UpdateBytes> {
        self.check_update(weights)?;
        match weights {
            NewWeights::Checkpoint(weights) => send(&self.weights, staging, &self.store, weights),
            NewWeights::Device(weights) => send_device(&self.weights, staging, &self.store, weights),
        }
    }

    /// Computes the rotary table again, which lies beside the weights: after their memory was released and restored.
    ///
    /// # Errors
    /// The driver's error.
    pub fn restore_rotary(&self) -> Result<()> {
        upload_rotary(&self.weights, &self.config, &self.store)
    }

    /// The memory of the weights and the rotary table.
    #[must_use]
    pub fn weights_memory(&self) -> &Arc<Arena> {
        &self.weights
    }

    /// The memory of the kv cache.
    #[must_use]
    pub fn cache_memory(&self) -> &Arc<Arena> {
        &self.cache_memory
    }
}
