//! Which kernels the products of a point take, and whence that is known.

use std::fmt;
use std::sync::Arc;

use gridpoint_plan::GridPoint;

use super::{Epilogue, MeasuredDevice, ProductClass, ProductKernel, ProductShape, ProductTable, TableError};
use crate::device::model::Model;

/// Whence a choice is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChoiceOrigin {
    /// From a table that was measured on the device.
    Measured,
    /// By arithmetic.
    BuiltIn,
}

impl fmt::Display for ChoiceOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Measured => "measured",
            Self::BuiltIn => "built in",
        })
    }
}

/// The kernel that a product of a point takes. All layers take the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProductChoice {
    /// What the product is for, as in [`crate::LaunchNeed::operation`].
    pub operation: &'static str,
    /// Its class.
    pub class: ProductClass,
    /// The kernel.
    pub kernel: ProductKernel,
    /// Whence it is known.
    pub origin: ChoiceOrigin,
}

impl fmt::Display for ProductChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, kernel, origin, .. } = self;
        write!(formatter, "{operation} {kernel} ({origin})")
    }
}

/// What the products of a point take, in the order of a layer, the head last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PointProducts(pub [ProductChoice; 5]);

impl PointProducts {
    /// Whether the products of another point take the same kernels from the same source.
    #[must_use]
    pub fn alike(&self, other: &Self) -> bool {
        let taken = |products: &Self| products.0.map(|choice| (choice.kernel, choice.origin));
        taken(self) == taken(other)
    }
}

impl fmt::Display for PointProducts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, choice) in self.0.iter().enumerate() {
            write!(formatter, "{}{choice}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Model {
    /// What the products of `point` take.
    #[must_use]
    pub fn product_choices(&self, point: GridPoint) -> PointProducts {
        let config = &self.config;
        let [hidden, gate_up, intermediate, vocabulary, query, qkv] = [
            config.hidden_size,
            2 * config.intermediate_size,
            config.intermediate_size,
            config.vocab_size,
            config.query_size(),
            config.qkv_size(),
        ]
        .map(|size| size as u32);
        let head_rows = self.head_rows(point);
        let products = [
            ("qkv product", Epilogue::Rotary, point.tokens, qkv, hidden),
            ("output product", Epilogue::Residual, point.tokens, hidden, query),
            ("gate-up product", Epilogue::SwiGlu, point.tokens, gate_up, hidden),
            ("down product", Epilogue::Residual, point.tokens, hidden, intermediate),
            ("head", Epilogue::Logits, head_rows, vocabulary, hidden),
        ];
        PointProducts(products.map(|(operation, epilogue, rows, n, k)| {
            let shape = ProductShape { rows, n, k, segments: self.kernels.segments(n, k).count };
            let (class, kernel, origin) = self.kernels.product_choice(shape, epilogue);
            ProductChoice { operation, class, kernel, origin }
        }))
    }

    /// Every kernel that products of a class may take here.
    #[must_use]
    pub fn product_candidates(&self, class: ProductClass) -> Vec<ProductKernel> {
        let permitted =
            |kernel: &ProductKernel| self.kernels.has(*kernel) && kernel.permits(class, self.kernels.device()).is_ok();
        ProductKernel::all().filter(permitted).collect()
    }

    /// The device as tables of measured choices name it.
    #[must_use]
    pub fn device(&self) -> &MeasuredDevice {
        self.kernels.device()
    }

    /// Lets products take what a table has measured, or the built-in choices again. Launches that were recorded before keep theirs.
    ///
    /// # Errors
    /// A table of another device.
    pub fn choose_products(&mut self, table: Option<Arc<ProductTable>>) -> Result<(), TableError> {
        let kernels = self.kernels.clone();
        self.kernels = match table {
            Some(table) => kernels.with_table(table)?,
            None => kernels.without_table(),
        };
        Ok(())
    }
}
