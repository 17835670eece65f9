//! Every kernel that a product may take, timed: what a table of measured choices is made of.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gridpoint_model::{
    Arithmetic, Epilogue, LaunchNeed, MeasuredDevice, Measurement, ModelConfig, ProductClass, ProductKernel,
    ProductTable, RowClass, TableError,
};
use gridpoint_plan::GridPoint;
use gridpoint_runtime::{Launch, Launches, RuntimeError, Stream};

use super::{Bench, CACHE_FILLS, CHAIN_MICROSECONDS, Case, MOST_CHAINED, Quantiles, Relation, TimeError, capture};
use crate::rig::{Rig, RigShape, Sampling};

/// Microseconds that the samples of one candidate may take in all, and how many samples there are even so.
const CANDIDATE_MICROSECONDS: f64 = 5e4;
const LEAST_SAMPLES: u32 = 10;

/// Why a choice was not measured.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// The step of the products.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// A measurement that no table takes.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A kernel that gives other results: a defect of the kernel.
    #[error(
        "a step of `{rows}` rows answers other tokens with `{kernel}` than with the kernels before it: kernels must give the same bits"
    )]
    Differs {
        /// The kernel.
        kernel: ProductKernel,
        /// Rows of the step.
        rows: u32,
    },
    /// A product of the step without a launch of its own: a defect of the bookkeeping.
    #[error("a step of `{rows}` rows has no launch for `{operation}` with `{kernel}`")]
    NoLaunch {
        /// The product.
        operation: &'static str,
        /// The kernel.
        kernel: ProductKernel,
        /// Rows of the step.
        rows: u32,
    },
}

impl From<RuntimeError> for TuneError {
    fn from(error: RuntimeError) -> Self {
        Self::Time(error.into())
    }
}

/// Rows at which products are timed, all of them real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunedRows {
    /// How many.
    pub rows: u32,
    /// Whether products of the layers are timed.
    pub layers: bool,
    /// Whether the head is: with as many rows as requests, the most that steps without scored prompts have.
    pub head: bool,
}

impl TunedRows {
    /// The largest of each class of `rows`, in descending order. The head has at most `most_requests` rows.
    #[must_use]
    pub fn of(rows: impl IntoIterator<Item = u32>, most_requests: u32) -> Vec<Self> {
        let (mut layers, mut heads) = (BTreeMap::new(), BTreeMap::new());
        let note = |of: &mut BTreeMap<RowClass, u32>, rows: u32| {
            let most = of.entry(RowClass::of(rows)).or_insert(rows);
            *most = rows.max(*most);
        };
        for rows in rows.into_iter().filter(|&rows| rows > 0) {
            note(&mut layers, rows);
            note(&mut heads, rows.min(most_requests.max(1)));
        }
        let [layers, heads] = [layers, heads].map(|of| of.into_values().collect::<BTreeSet<u32>>());
        let all: BTreeSet<u32> = layers.union(&heads).copied().collect();
        let tuned = |rows: &u32| Self { rows: *rows, layers: layers.contains(rows), head: heads.contains(rows) };
        all.iter().rev().map(tuned).collect()
    }

    /// A step with so many rows: decodes alone where the head is timed, else prefills.
    #[must_use]
    pub fn shape(&self, config: &ModelConfig) -> RigShape {
        let longest = u32::try_from(config.max_position_embeddings).unwrap_or(u32::MAX).max(1);
        let tokens = self.rows;
        let (prefills, decodes) = if self.head { (0, tokens) } else { (tokens.div_ceil(longest), 0) };
        RigShape::full(GridPoint { tokens, prefills, decodes }, 0)
    }
}

/// A product of the step: where its launches are found, and the table's key.
struct Tuned {
    operation: &'static str,
    class: ProductClass,
    microseconds: Vec<(ProductKernel, f64)>,
}

/// The launches of a product in each layer, that of its rows' scales in front of it, and the bytes that only one layer's read.
fn units(launches: &Launches, needs: &[LaunchNeed], operation: &str) -> (Vec<Vec<Launch>>, u64) {
    let mut units = Vec::new();
    let mut layer_bytes = 0;
    let mut scales = None;
    for (launch, need) in launches.as_slice().iter().zip(needs) {
        if need.operation == operation && matches!(need.work.arithmetic, Arithmetic::Product { .. }) {
            units.push(scales.take().into_iter().chain([launch.clone()]).collect());
            layer_bytes = need.work.layer_bytes;
        }
        scales = (need.operation == "row scales").then(|| launch.clone());
    }
    (units, layer_bytes)
}

impl Bench {
    /// Times every kernel that the products of a step with these rows may take, one after another; products that may not take it keep the
    /// built-in choice meanwhile. The rig must be for [`TunedRows::shape`]; its model has the built-in choices afterwards.
    ///
    /// # Errors
    /// A step that the rig is not for, a kernel with other results, or the device's error.
    pub fn tune(&mut self, rig: &mut Rig, rows: TunedRows) -> Result<Vec<(ProductClass, Measurement)>, TuneError> {
        let shape = rows.shape(rig.model.config());
        let device = rig.model.device().clone();
        let case =
            Case { name: format!("{} rows", rows.rows), shape, sampling: Sampling::GREEDY, relation: Relation::Alone };
        let mut products: Vec<Tuned> = Vec::new();
        for choice in rig.model.product_choices(shape.point).0 {
            let wanted = if choice.class.epilogue == Epilogue::Logits { rows.head } else { rows.layers };
            if wanted && !products.iter().any(|product| product.class == choice.class) {
                let (operation, class) = (choice.operation, choice.class);
                products.push(Tuned { operation, class, microseconds: Vec::new() });
            }
        }
        let outcome = self.time_candidates(rig, &case, &device, &mut products);
        rig.model.choose_products(None)?;
        outcome?;
        let fastest = |product: Tuned| {
            let microseconds = product.microseconds;
            let &(kernel, _) = microseconds.iter().min_by(|(_, one), (_, other)| one.total_cmp(other))?;
            Some((product.class, Measurement { kernel, rows: rows.rows, microseconds }))
        };
        Ok(products.into_iter().filter_map(fastest).collect())
    }

    fn time_candidates(
        &mut self,
        rig: &mut Rig,
        case: &Case,
        device: &MeasuredDevice,
        products: &mut [Tuned],
    ) -> Result<(), TuneError> {
        let rows = case.shape.point.tokens;
        let retained = Arc::new(rig.model.memory());
        let mut expected: Option<Vec<i32>> = None;
        for kernel in ProductKernel::all() {
            let mut table = ProductTable::new(device.clone());
            for product in
                products.iter().filter(|product| rig.model.product_candidates(product.class).contains(&kernel))
            {
                table.insert(product.class, Measurement { kernel, rows, microseconds: Vec::new() })?;
            }
            if table.entries().len() == 0 {
                continue;
            }
            let table = Arc::new(table);
            rig.model.choose_products(Some(Arc::clone(&table)))?;
            let launches = rig.record(case.shape.point).map_err(TimeError::from)?;
            let needs = rig.needs(&case.shape, &launches);
            let answer = self.answer(rig, case, &launches)?;
            if expected.get_or_insert_with(|| answer.clone()) != &answer {
                return Err(TuneError::Differs { kernel, rows });
            }
            for product in products.iter_mut().filter(|product| table.get(&product.class).is_some()) {
                let operation = product.operation;
                let (units, layer_bytes) = units(&launches, &needs, operation);
                if units.is_empty() {
                    return Err(TuneError::NoLaunch { operation, kernel, rows });
                }
                product.microseconds.push((kernel, self.cold(&units, layer_bytes, &retained)?));
            }
        }
        Ok(())
    }

    /// Median microseconds of a unit of launches that are enqueued together, one unit a layer, kept cold as in [`Bench::time`].
    fn cold<M: Any + Send + Sync>(
        &mut self,
        units: &[Vec<Launch>],
        layer_bytes: u64,
        retained: &Arc<M>,
    ) -> Result<f64, RuntimeError> {
        let rotates = units.len() as u64 * layer_bytes >= CACHE_FILLS * self.cache_bytes();
        let Self { clock, bandwidth, repeats, simulated, .. } = self;
        let flush = |stream: &Stream| bandwidth.flush(stream);
        let unit = |stream: &Stream, index: usize| {
            units[index % units.len()].iter().try_for_each(|launch| stream.launch(launch))
        };
        let all = |stream: &Stream, _| (0..units.len()).try_for_each(|index| unit(stream, index));
        // Also the warm-up.
        let pass = Quantiles::of(clock.samples(if *simulated { 1 } else { 3 }, &flush, None, all)?).median;
        let each = (pass / units.len() as f64).max(0.1);
        let samples = |microseconds: f64| {
            let affordable = (CANDIDATE_MICROSECONDS / microseconds.max(1.0)) as u32;
            affordable.max(LEAST_SAMPLES).min(*repeats)
        };
        if !rotates {
            return Ok(Quantiles::of(clock.samples(samples(each), &flush, Some(&flush), unit)?).median);
        }
        if each >= CHAIN_MICROSECONDS {
            return Ok(Quantiles::of(clock.samples(samples(each), &flush, None, unit)?).median);
        }
        let rounds = if *simulated { 1 } else { (CHAIN_MICROSECONDS / (each * units.len() as f64)).ceil() as usize };
        let chain = (units.len() * rounds.max(1)).min(MOST_CHAINED);
        let graph = capture(clock, units.iter().cycle().take(chain).flatten(), Arc::clone(retained))?;
        if !*simulated {
            graph.launch(&clock.stream)?;
        }
        let chained = clock.samples(samples(each * chain as f64), &flush, None, |stream, _| graph.launch(stream))?;
        Ok(Quantiles::of(chained).median / chain as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_largest_of_their_class() {
        let rows = |rows: &[u32], most| {
            let tuned = TunedRows::of(rows.iter().copied(), most);
            tuned.into_iter().map(|one| (one.rows, one.layers, one.head)).collect::<Vec<_>>()
        };
        assert_eq!(rows(&[1, 3, 4, 300, 396, 0], 396), [(396, true, true), (4, true, true), (1, true, true)]);
        let split = [(1024, true, false), (512, true, false), (396, false, true), (8, true, true)];
        assert_eq!(rows(&[8, 512, 1024], 396), split);
        assert_eq!(rows(&[], 396), []);
    }
}
