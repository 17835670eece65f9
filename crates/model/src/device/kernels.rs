//! Every kernel that a step launches, loaded before the first capture.

use std::sync::Arc;

use gridpoint_runtime::parameters::{
    EmbeddingParameters, GRIDPOINT_NORM_SHARED_BYTES, GRIDPOINT_SAMPLE_SHARED_BYTES, GRIDPOINT_SCHEDULE_SHARED_BYTES,
    NormParameters, SampleParameters, ScheduleParameters,
};
use gridpoint_runtime::{Device, Parameters, RuntimeError, TensorElement};

use super::attention::Attention;
use super::geometry::Resident;
use super::order::LaunchOrder;
use super::products::{
    ChoiceOrigin, Epilogue, MeasuredDevice, ProductClass, ProductKernel, ProductKernels, ProductShape, ProductTable,
    RowClass, Segments, TableError,
};
use crate::weight_plan::ElementType;

/// The kernels for one model's head dimension, with how many blocks of each the device holds at once.
#[derive(Clone, Debug)]
pub struct Kernels {
    pub(crate) order: LaunchOrder,
    pub(crate) multiprocessors: u32,
    pub(crate) schedule: Resident<ScheduleParameters>,
    pub(crate) embedding: Resident<EmbeddingParameters>,
    pub(crate) norm: Resident<NormParameters>,
    pub(crate) attention: Attention,
    pub(crate) sample: Resident<SampleParameters>,
    pub(crate) products: ProductKernels,
    pub(super) element: ElementType,
    device: Arc<MeasuredDevice>,
    table: Option<Arc<ProductTable>>,
}

impl ElementType {
    /// The kernel for this type, of those for bfloat16 and float16.
    pub(crate) fn pick(self, [bfloat16, float16]: [&'static str; 2]) -> &'static str {
        match self {
            Self::BFloat16 => bfloat16,
            Self::Float16 => float16,
        }
    }
}

impl From<ElementType> for TensorElement {
    fn from(element: ElementType) -> Self {
        match element {
            ElementType::BFloat16 => Self::Bf16,
            ElementType::Float16 => Self::F16,
        }
    }
}

impl Kernels {
    /// Loads the best kernels of the device for elements of this type and heads of `head_dim` elements, one of those that a model may have.
    ///
    /// # Errors
    /// A kernel that the device's modules lack, or the driver's error.
    pub fn load(device: &Device, element: ElementType, head_dim: usize) -> Result<Self, RuntimeError> {
        Self::load_with(device, element, head_dim, device.has_warpgroups())
    }

    /// As [`Self::load`], only kernels that run on every device from compute capability 8.0 on: results are the same, bit for bit.
    ///
    /// # Errors
    /// A kernel that the device's modules lack, or the driver's error.
    pub fn portable(device: &Device, element: ElementType, head_dim: usize) -> Result<Self, RuntimeError> {
        Self::load_with(device, element, head_dim, false)
    }

    fn load_with(
        device: &Device,
        element: ElementType,
        head_dim: usize,
        warpgroups: bool,
    ) -> Result<Self, RuntimeError> {
        fn load<P: Parameters>(
            device: &Device,
            name: &'static str,
            shared_bytes: u32,
        ) -> Result<Resident<P>, RuntimeError> {
            Resident::new(device.kernel::<P>(name, shared_bytes)?, device.properties())
        }
        Ok(Self {
            order: LaunchOrder::best(device),
            multiprocessors: device.properties().multiprocessors,
            schedule: load(device, "schedule_attention", GRIDPOINT_SCHEDULE_SHARED_BYTES)?,
            embedding: load(device, "embedding_gather", 0)?,
            norm: load(device, element.pick(["rms_norm", "rms_norm_f16"]), GRIDPOINT_NORM_SHARED_BYTES)?,
            attention: Attention::load(device, element, head_dim, warpgroups)?,
            sample: load(device, "sample_logits", GRIDPOINT_SAMPLE_SHARED_BYTES)?,
            products: ProductKernels::load(device, element, warpgroups)?,
            element,
            device: Arc::new(device.properties().into()),
            table: None,
        })
    }

    /// The same kernels, launched in another order than the fastest that the device has; [`LaunchOrder::on`] says which it has.
    #[must_use]
    pub fn in_order(self, order: LaunchOrder) -> Self {
        Self { order, ..self }
    }

    /// How the sums of a product with weights `[n, k]` are cut, whatever its rows.
    pub(crate) fn segments(&self, n: u32, k: u32) -> Segments {
        Segments::choose(n, k, self.multiprocessors)
    }

    /// The same kernels, of which products take what a table has measured; those that it does not know, the built-in choice.
    ///
    /// # Errors
    /// A table of another device, or one with kernels that this build has no images of.
    pub fn with_table(self, table: Arc<ProductTable>) -> Result<Self, TableError> {
        table.fits(&self.device)?;
        table.check_loaded(self.products.has_warpgroups())?;
        Ok(Self { table: Some(table), ..self })
    }

    /// The same kernels with the built-in choices.
    #[must_use]
    pub fn without_table(self) -> Self {
        Self { table: None, ..self }
    }

    /// Whether a kernel is among those that were loaded.
    pub(crate) fn has(&self, kernel: ProductKernel) -> bool {
        !kernel.needs_warpgroups() || self.products.has_warpgroups()
    }

    /// The device as tables name it.
    #[must_use]
    pub fn device(&self) -> &MeasuredDevice {
        &self.device
    }

    /// The kernel that a product of this shape takes.
    pub(crate) fn product_kernel(&self, shape: ProductShape, epilogue: Epilogue) -> ProductKernel {
        self.product_choice(shape, epilogue).1
    }

    /// The class of a product, the kernel that it takes, and whence that is known.
    pub(crate) fn product_choice(
        &self,
        shape: ProductShape,
        epilogue: Epilogue,
    ) -> (ProductClass, ProductKernel, ChoiceOrigin) {
        let ProductShape { rows, n, k, .. } = shape;
        let class = ProductClass { element: self.element, epilogue, n, k, rows: RowClass::of(rows) };
        match self.table.as_ref().and_then(|table| table.get(&class)) {
            Some(measurement) => (class, measurement.kernel, ChoiceOrigin::Measured),
            None => {
                let warpgroups = self.products.has_warpgroups();
                (class, ProductKernel::choose(shape, epilogue, self.multiprocessors, warpgroups), ChoiceOrigin::BuiltIn)
            }
        }
    }
}
