//! The table of measured choices: shape class to kernel, for one device and one version of gridpoint.

use std::collections::BTreeMap;

use gridpoint_runtime::DeviceProperties;

use super::permits::NotPermitted;
use super::{ProductClass, ProductKernel};

/// The version whose kernels a table measured.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The device that a table was measured on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredDevice {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Driver version as the driver counts it: 1000 * major + 10 * minor.
    pub driver_version: i32,
}

impl From<&DeviceProperties> for MeasuredDevice {
    fn from(properties: &DeviceProperties) -> Self {
        let DeviceProperties { name, compute_capability, multiprocessors, driver_version, .. } = properties;
        Self {
            name: name.clone(),
            compute_capability: *compute_capability,
            multiprocessors: *multiprocessors,
            driver_version: *driver_version,
        }
    }
}

/// What was measured of a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// The kernel that the class takes.
    pub kernel: ProductKernel,
    /// Rows that were there when it was timed: at most the class's.
    pub rows: u32,
    /// Median microseconds of every candidate, that of its rows' scales among them.
    pub microseconds: Vec<(ProductKernel, f64)>,
}

/// Why a table is not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Not JSON, or not of the form of a table.
    #[error("the table of products is malformed: {reason}")]
    Malformed {
        /// The parser's words.
        reason: String,
    },
    /// A file of another form.
    #[error("the table of products is of format `{found}`: this program reads format {expected}, so tune again")]
    Format {
        /// The file's.
        found: u64,
        /// This program's.
        expected: u64,
    },
    /// A table of another version's kernels.
    #[error("the table of products was measured with gridpoint `{found}` and this is {VERSION}: tune again")]
    Version {
        /// The file's.
        found: String,
    },
    /// A table of another device.
    #[error(
        "the table of products was measured on another device: its {what} is `{found}` and that of this one `{expected}`, so tune here"
    )]
    Device {
        /// What differs.
        what: &'static str,
        /// The file's.
        found: String,
        /// This device's.
        expected: String,
    },
    /// A field out of range.
    #[error("the table of products: `{field}` of {entry} is `{value}`, it must be {expected}")]
    Field {
        /// Which entry, from 1, or the device.
        entry: String,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// Two entries for one class.
    #[error("the table of products has two entries for {class}: each class must stand once")]
    Twice {
        /// The class.
        class: ProductClass,
    },
    /// A kernel that products of the class cannot take.
    #[error("the table of products has an entry that cannot be: {0}")]
    NotPermitted(#[from] NotPermitted),
}

/// Measured choices of this version of gridpoint on one device.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductTable {
    pub(super) device: MeasuredDevice,
    pub(super) entries: BTreeMap<ProductClass, Measurement>,
}

impl ProductTable {
    /// A table without entries, of this version, for a device.
    #[must_use]
    pub fn new(device: MeasuredDevice) -> Self {
        Self { device, entries: BTreeMap::new() }
    }

    /// The device that it was measured on.
    #[must_use]
    pub fn device(&self) -> &MeasuredDevice {
        &self.device
    }

    /// Sets what products of a class take.
    ///
    /// # Errors
    /// [`TableError::NotPermitted`] for a kernel that they cannot take on the table's device.
    pub fn insert(&mut self, class: ProductClass, measurement: Measurement) -> Result<(), TableError> {
        measurement.kernel.permits(class, &self.device)?;
        self.entries.insert(class, measurement);
        Ok(())
    }

    /// Adds the entries of a table of the same device; those of `newer` stand where both have one.
    ///
    /// # Errors
    /// A table of another device.
    pub fn merge(&mut self, newer: Self) -> Result<(), TableError> {
        newer.fits(&self.device)?;
        self.entries.extend(newer.entries);
        self.device = newer.device;
        Ok(())
    }

    /// What was measured of a class.
    #[must_use]
    pub fn get(&self, class: &ProductClass) -> Option<&Measurement> {
        self.entries.get(class)
    }

    /// All entries, by class.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&ProductClass, &Measurement)> {
        self.entries.iter()
    }

    /// Whether its figures are those of the device; of this version they are in any case. The driver may be another: kernels are compiled
    /// before.
    ///
    /// # Errors
    /// What differs.
    pub fn fits(&self, device: &MeasuredDevice) -> Result<(), TableError> {
        let capability = |(major, minor)| format!("{major}.{minor}");
        let (ours, theirs) = (&self.device, device);
        for (what, found, expected) in [
            ("name", ours.name.clone(), theirs.name.clone()),
            ("compute capability", capability(ours.compute_capability), capability(theirs.compute_capability)),
            ("number of multiprocessors", ours.multiprocessors.to_string(), theirs.multiprocessors.to_string()),
        ] {
            if found != expected {
                return Err(TableError::Device { what, found, expected });
            }
        }
        Ok(())
    }

    /// Whether all its kernels are among those that were loaded.
    ///
    /// # Errors
    /// The first entry with one that is not.
    pub(crate) fn check_loaded(&self, warpgroups: bool) -> Result<(), TableError> {
        for (&class, &Measurement { kernel, .. }) in &self.entries {
            if kernel.needs_warpgroups() && !warpgroups {
                return Err(NotPermitted::Warpgroups { kernel, class }.into());
            }
        }
        Ok(())
    }

    /// The name of the file for a device: `products-nvidia-h100-80gb-hbm3-0.1.0.json`.
    #[must_use]
    pub fn file_name(device: &MeasuredDevice) -> String {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { ' ' };
        let name: String = device.name.chars().take(80).map(plain).collect();
        let name = name.split_whitespace().collect::<Vec<_>>().join("-");
        format!("products-{name}-{VERSION}.json")
    }
}
