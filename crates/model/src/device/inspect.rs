//! The memory of steps, read and filled from the host: for proofs and tests.

use gridpoint_runtime::parameters::GRIDPOINT_PAGE_TOKENS;

use super::memory::Workspace;
use super::model::Model;
use crate::error::Result;
use crate::weight_plan::ElementType;

/// One layer's keys, or its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSide {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

impl Model {
    /// The type of weights, activations and the cache.
    #[must_use]
    pub fn element(&self) -> ElementType {
        self.kernels.element
    }

    /// Fills activations, scratch and logits with one byte value. Counters of arrivals, which are zero between steps, stay.
    ///
    /// # Errors
    /// The driver's error.
    pub fn fill_workspace(&self, byte: u8) -> Result<()> {
        let Workspace { stream, row_scales, queries, attended, gated, head_input, logits, .. } = self.workspace;
        for region in [stream, queries, attended, gated, head_input] {
            self.run.fill(region, byte)?;
        }
        for region in [row_scales, logits] {
            self.run.fill(region, byte)?;
        }
        let Workspace { work, counters, partial_output, partial_state, product_partials, .. } = self.workspace;
        self.run.fill(work, byte)?;
        self.run.fill(counters, byte)?;
        for region in [partial_output, partial_state, product_partials] {
            self.run.fill(region, byte)?;
        }
        Ok(())
    }

    /// The raw logits of the first rows of the step that ran last, as many as fit `logits`: `[rows, vocab]`.
    ///
    /// # Errors
    /// Rows beyond the workspace, or the driver's error.
    pub fn read_logits(&self, logits: &mut [f32]) -> Result<()> {
        Ok(self.run.download(self.workspace.logits, 0, logits)?)
    }

    /// Counters of arrivals at the meetings of products' segments: zero between steps.
    ///
    /// # Errors
    /// The driver's error.
    pub fn product_counters(&self) -> Result<Vec<u32>> {
        let region = self.workspace.product_counters;
        let mut counters = vec![0; usize::try_from(region.count()).unwrap_or(usize::MAX)];
        self.run.download(region, 0, &mut counters)?;
        Ok(counters)
    }

    /// Elements of one page of a layer's keys, `[kv_heads, 64, head_dim]`, and of its values.
    #[must_use]
    pub fn page_elements(&self) -> usize {
        GRIDPOINT_PAGE_TOKENS as usize * self.config.kv_size()
    }

    /// Reads a layer's first pages, as many as fit `pages`: `[pages, kv_heads, 64, head_dim]`.
    ///
    /// # Errors
    /// Pages beyond the cache, or the driver's error.
    pub fn read_cache(&self, layer: usize, side: CacheSide, pages: &mut [u16]) -> Result<()> {
        Ok(self.cache_memory.download(self.cache.elements, self.plane(layer, side), pages)?)
    }

    /// Writes a layer's first pages, see [`Self::read_cache`].
    ///
    /// # Errors
    /// Pages beyond the cache, or the driver's error.
    pub fn write_cache(&self, layer: usize, side: CacheSide, pages: &[u16]) -> Result<()> {
        Ok(self.cache_memory.upload(self.cache.elements, self.plane(layer, side), pages)?)
    }

    /// Where a layer's keys, or its values, begin in the cache.
    fn plane(&self, layer: usize, side: CacheSide) -> u64 {
        let before = 2 * layer as u64 + u64::from(side == CacheSide::Values);
        before * self.cache.plane
    }
}
