//! What this machine offers, asked of the driver library without making it the one in use.

use std::ffi::c_int;

use crate::{CUresult, Error, LoadError, Table, check};

/// What was found behind the driver library.
#[derive(Debug)]
pub enum Found {
    /// There is no driver library.
    NoLibrary(LoadError),
    /// The library is there and reports no device.
    NoDevice,
    /// Devices.
    Devices {
        /// How many.
        count: u32,
        /// The driver's version as it counts it: 1000 * major + 10 * minor.
        version: i32,
    },
    /// The library is there and fails for another reason than an absent device.
    Failed(Error),
}

/// Loads the driver library and counts its devices. The table in use is neither read nor set.
#[must_use]
pub fn probe() -> Found {
    let table = match Table::load(None) {
        Ok(table) => table,
        Err(error) => return Found::NoLibrary(error),
    };
    match devices(&table) {
        Ok((0, _)) => Found::NoDevice,
        Ok((count, version)) => Found::Devices { count, version },
        Err(Error { code: CUresult::ERROR_NO_DEVICE, .. }) => Found::NoDevice,
        Err(error) => Found::Failed(error),
    }
}

fn devices(table: &Table) -> Result<(u32, i32), Error> {
    let (mut count, mut version): (c_int, c_int) = (0, 0);
    // SAFETY: takes a plain number.
    check("cuInit", unsafe { (table.cuInit)(0) })?;
    // SAFETY: the pointer is that of a live integer.
    check("cuDeviceGetCount", unsafe { (table.cuDeviceGetCount)(&mut count) })?;
    // SAFETY: as above.
    check("cuDriverGetVersion", unsafe { (table.cuDriverGetVersion)(&mut version) })?;
    Ok((u32::try_from(count).unwrap_or(0), version))
}
