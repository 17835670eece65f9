//! The model as a subject of [`gridpoint_graph::verify`]: what its steps leave, and what lies in their padding.

use std::ops::Range;

use gridpoint_graph::verify::{Bits, Element, Padding, Random, RealStep, Room, Subject, Tensor};
use gridpoint_model::{CacheSide, ElementType, KvCache, Model};
use gridpoint_plan::GridPoint;
use gridpoint_runtime::{Launches, StepAddress};

use crate::error::EngineError;
use crate::pages::PAGE_TOKENS;

/// Tokens of a page.
const PAGE: usize = PAGE_TOKENS as usize;

/// The seed of the cache's contents.
const CACHE_SEED: u64 = 0x6b76;

/// A model whose steps are compared: logits, every element of the first pages of the kv cache in every layer, and the counters that
/// are zero between steps.
pub struct ModelSubject<'a> {
    model: &'a Model,
    step: StepAddress,
    room: Room,
    /// Pages that are compared, in every layer.
    pages: usize,
    /// `[layers][keys, values][pages]`: what the cache holds before a step, where tokens are.
    base: Vec<u16>,
    /// The same with the padding of the last step.
    before: Vec<u16>,
    after: Vec<u16>,
    /// For each page, the places of its tokens that the last step prepared for appends.
    appended: Vec<Range<usize>>,
}

/// A layer's keys or values, in the order of the cache.
fn planes(layers: usize) -> impl Iterator<Item = (usize, CacheSide)> {
    (0..layers).flat_map(|layer| [(layer, CacheSide::Keys), (layer, CacheSide::Values)])
}

impl<'a> ModelSubject<'a> {
    /// The model whose launches read the block at `step`; at most `most_cache_bytes` bytes of its cache take part, and two pages at
    /// least.
    #[must_use]
    pub fn new(model: &'a Model, step: StepAddress, most_cache_bytes: u64) -> Self {
        let (config, capacity) = (model.config(), model.capacity());
        let affordable = most_cache_bytes / KvCache::page_bytes(config).max(1);
        let pages = u64::from(capacity.pages).min(affordable.max(2)) as u32;
        let elements = 2 * config.num_hidden_layers * pages as usize * model.page_elements();
        let mut random = Random::new(CACHE_SEED);
        // A sign, and a magnitude from 2^-7 to 2 in bfloat16, from 1 to 2 in float16.
        let base = (0..elements).map(|_| (random.bits() as u16 & 0x83FF) | 0x3C00).collect();
        let room = Room {
            tokens: capacity.tokens,
            requests: capacity.requests,
            logit_rows: capacity.logit_rows,
            sequence_length: capacity.sequence_length,
            // The last of all is the dummy page, which no request has.
            pages: pages.min(capacity.pages.saturating_sub(1)),
            vocabulary: config.vocab_size as u32,
        };
        let (before, after) = (vec![0; elements], vec![0; elements]);
        let appended = vec![0..0; pages as usize];
        Self { model, step, room, pages: pages as usize, base, before, after, appended }
    }

    /// Elements of a layer's keys, or of its values, that take part.
    fn plane(&self) -> usize {
        (self.pages * self.model.page_elements()).max(1)
    }

    /// Makes `before` what the cache is to hold: the base, and `filling` wherever no token of the step's requests lies.
    fn lay_out(&mut self, filling: Option<u16>, step: &RealStep) {
        self.appended.fill(0..0);
        for row in step.rows() {
            let within = |position: usize, page: usize| position.saturating_sub(page * PAGE).min(PAGE);
            let first = row.first_position as usize;
            for (number, &page) in row.pages.iter().enumerate() {
                self.appended[page as usize] = within(first, number)..within(first + row.tokens.len(), number);
            }
        }
        self.before.copy_from_slice(&self.base);
        let Some(filling) = filling else { return };
        let head_dim = self.model.config().head_dim;
        let page = self.model.page_elements();
        for plane in self.before.chunks_exact_mut(page * self.pages) {
            for (elements, appended) in plane.chunks_exact_mut(page).zip(&self.appended) {
                let held = appended.start * head_dim;
                elements.chunks_exact_mut(PAGE * head_dim).for_each(|head| head[held..].fill(filling));
            }
        }
    }

    fn logits(&self, rows: u32) -> Result<Tensor, EngineError> {
        let vocabulary = self.model.config().vocab_size;
        let mut logits = vec![0.0_f32; rows as usize * vocabulary];
        self.model.read_logits(&mut logits)?;
        Ok(Tensor {
            name: "logits",
            axes: &["row", "token"],
            shape: vec![rows.into(), vocabulary as u64],
            element: Element::Float32,
            bits: Bits::All(logits.into_iter().map(f32::to_bits).collect()),
        })
    }

    /// The elements of the keys, or of the values, of all layers that the step changed, and all where it appends: whatever lay there.
    fn changed(&self, side: CacheSide) -> Tensor {
        let (page, head_dim) = (self.model.page_elements().max(1), self.model.config().head_dim);
        let layers = self.model.config().num_hidden_layers;
        let pages = self.before.chunks_exact(page).zip(self.after.chunks_exact(page));
        let mut changed = Vec::new();
        for (number, (before, after)) in pages.enumerate() {
            let (plane, number) = (number / self.pages, number % self.pages);
            let (layer, appended) = (plane / 2, &self.appended[number]);
            if plane % 2 != usize::from(side == CacheSide::Values) || (appended.is_empty() && before == after) {
                continue;
            }
            let first = (layer * self.pages + number) * page;
            for (place, (before, &after)) in before.iter().zip(after).enumerate() {
                if *before != after || appended.contains(&(place / head_dim % PAGE)) {
                    changed.push(((first + place) as u64, u32::from(after)));
                }
            }
        }
        let config = self.model.config();
        let sizes = [layers, self.pages, config.num_key_value_heads, PAGE, config.head_dim];
        Tensor {
            name: match side {
                CacheSide::Keys => "key_cache",
                CacheSide::Values => "value_cache",
            },
            axes: &["layer", "page", "head", "token", "element"],
            shape: sizes.map(|size| size as u64).to_vec(),
            element: match self.model.element() {
                ElementType::BFloat16 => Element::BFloat16,
                ElementType::Float16 => Element::Float16,
            },
            bits: Bits::Changed(changed),
        }
    }
}

impl Subject for ModelSubject<'_> {
    type Error = EngineError;

    fn room(&self) -> Room {
        self.room
    }

    fn record(&self, point: GridPoint) -> Result<Launches, EngineError> {
        Ok(self.model.record(point, self.step)?)
    }

    fn prepare(&mut self, padding: Padding, step: &RealStep) -> Result<(), EngineError> {
        let byte = padding.byte();
        if let Some(byte) = byte {
            self.model.fill_workspace(byte)?;
        }
        self.lay_out(byte.map(|byte| u16::from_ne_bytes([byte; 2])), step);
        let planes = planes(self.model.config().num_hidden_layers).zip(self.before.chunks_exact(self.plane()));
        for ((layer, side), elements) in planes {
            self.model.write_cache(layer, side, elements)?;
        }
        Ok(())
    }

    fn collect(&mut self, logit_rows: u32) -> Result<Vec<Tensor>, EngineError> {
        let plane = self.plane();
        for ((layer, side), elements) in
            planes(self.model.config().num_hidden_layers).zip(self.after.chunks_exact_mut(plane))
        {
            self.model.read_cache(layer, side, elements)?;
        }
        let counters = self.model.product_counters()?;
        let counters = Tensor {
            name: "product_counters",
            axes: &["counter"],
            shape: vec![counters.len() as u64],
            element: Element::Unsigned,
            bits: Bits::All(counters),
        };
        Ok(vec![self.logits(logit_rows)?, self.changed(CacheSide::Keys), self.changed(CacheSide::Values), counters])
    }
}
