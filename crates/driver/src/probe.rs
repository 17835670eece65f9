//! What this machine offers, asked of the driver library without making it the one in use.

use std::ffi::c_int;

use crate::{CUdevice_attribute as Attribute, CUresult, Error, LoadError, Table, check};

/// What was found behind the driver library.
#[derive(Debug)]
pub enum Found {
    /// There is no driver library.
    NoLibrary(LoadError),
    /// The library is there and reports no device.
    NoDevice,
    /// Devices.
    Devices {
        /// Compute capability of each, major and minor, by its ordinal.
        capabilities: Vec<(i32, i32)>,
        /// The driver's version as it counts it: 1000 * major + 10 * minor.
        version: i32,
    },
    /// The library is there and fails for another reason than an absent device.
    Failed(Error),
}

/// Loads the driver library and asks for its devices. The table in use is neither read nor set.
#[must_use]
pub fn probe() -> Found {
    let table = match Table::load(None) {
        Ok(table) => table,
        Err(error) => return Found::NoLibrary(error),
    };
    match devices(&table) {
        Ok((capabilities, _)) if capabilities.is_empty() => Found::NoDevice,
        Ok((capabilities, version)) => Found::Devices { capabilities, version },
        Err(Error { code: CUresult::ERROR_NO_DEVICE, .. }) => Found::NoDevice,
        Err(error) => Found::Failed(error),
    }
}

fn devices(table: &Table) -> Result<(Vec<(i32, i32)>, i32), Error> {
    let (mut count, mut version): (c_int, c_int) = (0, 0);
    // SAFETY: takes a plain number.
    check("cuInit", unsafe { (table.cuInit)(0) })?;
    // SAFETY: the pointer is that of a live integer.
    check("cuDeviceGetCount", unsafe { (table.cuDeviceGetCount)(&mut count) })?;
    // SAFETY: as above.
    check("cuDriverGetVersion", unsafe { (table.cuDriverGetVersion)(&mut version) })?;
    let capabilities = (0..count).map(|ordinal| capability(table, ordinal)).collect::<Result<_, _>>()?;
    Ok((capabilities, version))
}

fn capability(table: &Table, ordinal: c_int) -> Result<(i32, i32), Error> {
    let mut device = 0;
    // SAFETY: the pointer is that of a live handle.
    check("cuDeviceGet", unsafe { (table.cuDeviceGet)(&mut device, ordinal) })?;
    let attribute = |which| {
        let mut value: c_int = 0;
        // SAFETY: the pointer is that of a live integer.
        check("cuDeviceGetAttribute", unsafe { (table.cuDeviceGetAttribute)(&mut value, which, device) })?;
        Ok(value)
    };
    Ok((attribute(Attribute::COMPUTE_CAPABILITY_MAJOR)?, attribute(Attribute::COMPUTE_CAPABILITY_MINOR)?))
}
