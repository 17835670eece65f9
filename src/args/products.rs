//! Which kernels products take: measured on this device, or built in.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use gridpoint::tables;
use gridpoint_model::{MeasuredDevice, ProductTable};
use gridpoint_runtime::DeviceProperties;

use crate::args::model::KernelsChoice;
use crate::commands::Failure;

/// The table of measured choices.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProductsArgs {
    /// The kernels of matrix products: a file that `tune` wrote, or builtin, the choices by arithmetic [default: the file of this device in
    /// the cache folder, if there is one]. No choice changes a result.
    #[arg(long, value_name = "FILE|builtin")]
    products: Option<ProductsWord>,
}

/// Whence choices are taken.
#[derive(Debug, Clone, PartialEq)]
enum ProductsWord {
    BuiltIn,
    File(PathBuf),
}

impl FromStr for ProductsWord {
    type Err = Infallible;

    fn from_str(word: &str) -> Result<Self, Infallible> {
        Ok(match word {
            "builtin" => Self::BuiltIn,
            path => Self::File(path.into()),
        })
    }
}

/// The choices that were found, and where.
#[derive(Debug)]
pub(crate) struct Products {
    pub(crate) table: Option<Arc<ProductTable>>,
    /// Whence they are, in words.
    pub(crate) source: String,
    /// There is a file for this device that is not used.
    refused: bool,
}

impl Products {
    fn built_in(why: impl std::fmt::Display) -> Self {
        Self { table: None, source: format!("built in: {why}"), refused: false }
    }

    /// Says on the log whence they are, where there is a table; the engine says of each choice that it is built in.
    pub(crate) fn log(&self) {
        let source = &self.source;
        if self.refused {
            tracing::warn!("products' kernels are {source}");
        } else if self.table.is_some() {
            tracing::info!("products' kernels are {source}");
        }
    }
}

impl ProductsArgs {
    /// As [`Self::read`], where the kernels are chosen too: the portable ones take no table but one that is named.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn read_with(&self, device: &DeviceProperties, kernels: KernelsChoice) -> Result<Products, Failure> {
        if kernels == KernelsChoice::Portable && self.products.is_none() {
            return Ok(Products::built_in("--kernels is `portable`"));
        }
        self.read(device)
    }

    /// Reads the file that is named, or the device's in the cache folder where that fits.
    ///
    /// # Errors
    /// A file that is named and cannot be used.
    pub(crate) fn read(&self, device: &DeviceProperties) -> Result<Products, Failure> {
        let device = MeasuredDevice::from(device);
        let measured = |table, path: PathBuf| Products {
            table: Some(Arc::new(table)),
            source: format!("measured: `{}`", path.display()),
            refused: false,
        };
        match &self.products {
            Some(ProductsWord::BuiltIn) => Ok(Products::built_in("--products is `builtin`")),
            Some(ProductsWord::File(path)) => match tables::read(path, &device) {
                Ok(table) => Ok(measured(table, path.clone())),
                Err(error) => Err(Failure::Failed(format!("--products: {error}").into())),
            },
            None => {
                let Some(path) = tables::cache_file(&device) else {
                    return Ok(Products::built_in("there is no cache folder, as HOME is not set"));
                };
                Ok(match tables::read(&path, &device) {
                    Ok(table) => measured(table, path),
                    Err(error) if error.is_absent() => Products::built_in("`gridpoint tune` has measured nothing here"),
                    Err(error) => Products { refused: true, ..Products::built_in(error) },
                })
            }
        }
    }
}
