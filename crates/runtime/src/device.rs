//! The device: primary context, loaded kernel modules, properties.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use cust::context::{Context, CurrentContext};
use cust::device::{Device as CudaDevice, DeviceAttribute};
use cust::module::Module;
use gridpoint_driver::{self as driver, CUfunction, CUresult};

use crate::error::from_cust;
use crate::{Kernel, Parameters, RuntimeError};

/// One module's image for the device: a fatbin, or what the simulator takes in its place.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name of the module: the stem of its .cu file.
    pub module: String,
    /// The image, at a multiple of 8; empty where it was not built.
    pub bytes: Cow<'static, [u8]>,
}

/// All images, and what they were built with.
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// One image per module.
    pub modules: Vec<Image>,
    /// Version of the compiler as the driver counts it (1000 * major + 10 * minor); none where the images need no driver.
    pub toolkit: Option<i32>,
    /// What the images were built for, as `sm_80, sm_90a, compute_90`.
    pub architectures: String,
    /// Whether code for `sm_90a` is among it: elsewhere kernels that multiply by warpgroups are empty.
    pub warpgroups: bool,
}

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceProperties {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of the second cache.
    pub l2_bytes: u64,
    /// Bytes of device memory.
    pub total_memory: u64,
    /// Driver version as the driver counts it: 1000 * major + 10 * minor.
    pub driver_version: i32,
}

/// The least compute capability that has what every kernel uses: cp.async, and mma.sync on bf16 (PTX ISA, "Target ISA Notes").
pub const LEAST_COMPUTE_CAPABILITY: (i32, i32) = (8, 0);

/// The one compute capability whose GPUs multiply by warpgroups (PTX ISA, wgmma: `sm_90a`).
pub const WARPGROUPS_COMPUTE_CAPABILITY: (i32, i32) = (9, 0);

impl DeviceProperties {
    /// Checks that the kernels can run on the device at all.
    ///
    /// # Errors
    /// [`RuntimeError::DeviceTooOld`] below [`LEAST_COMPUTE_CAPABILITY`].
    pub fn require_compute_capability(&self) -> Result<(), RuntimeError> {
        let (major, minor) = self.compute_capability;
        if (major, minor) >= LEAST_COMPUTE_CAPABILITY {
            return Ok(());
        }
        let (needed_major, needed_minor) = LEAST_COMPUTE_CAPABILITY;
        Err(RuntimeError::DeviceTooOld { device: self.name.clone(), major, minor, needed_major, needed_minor })
    }
}

/// Device memory at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Bytes free.
    pub free: u64,
    /// Bytes of the device.
    pub total: u64,
}

/// A device in use: its primary context, shared and never reset, and the kernels' modules.
pub struct Device {
    modules: BTreeMap<String, Module>,
    properties: DeviceProperties,
    warpgroups: bool,
    ordinal: i32,
    // Declared last: modules are unloaded before the context is released.
    context: Context,
}

/// `13000` as `13.0`.
fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

impl Device {
    /// How many devices the driver has, and its version.
    ///
    /// # Errors
    /// [`RuntimeError::NoDevice`] that says what was looked for when there is no driver or no device.
    pub fn count() -> Result<(u32, i32), RuntimeError> {
        if let Err(error) = cust::init(cust::CudaFlags::empty()) {
            return Err(absent(error));
        }
        let count = CudaDevice::num_devices().map_err(|error| match error {
            cust::error::CudaError::NoDevice => absent(error),
            other => from_cust("cuDeviceGetCount")(other),
        })?;
        if count == 0 {
            return Err(absent(cust::error::CudaError::NoDevice));
        }
        let mut version = 0;
        // SAFETY: the pointer is that of a live integer.
        driver::check("cuDriverGetVersion", unsafe { (driver::table().cuDriverGetVersion)(&mut version) })?;
        Ok((count, version))
    }

    /// What device `ordinal` says of itself; retains nothing.
    ///
    /// # Errors
    /// [`RuntimeError::NoDevice`] when there is none of that number, or the driver's error.
    pub fn describe(ordinal: u32) -> Result<DeviceProperties, RuntimeError> {
        let (count, driver_version) = Self::count()?;
        if ordinal >= count {
            return Err(RuntimeError::NoDevice {
                looked_for: format!("device {ordinal} was asked for and there are {count}, counted from 0"),
            });
        }
        let device = CudaDevice::get_device(ordinal).map_err(from_cust("cuDeviceGet"))?;
        let attribute = |which| device.get_attribute(which).map_err(from_cust("cuDeviceGetAttribute"));
        Ok(DeviceProperties {
            name: device.name().map_err(from_cust("cuDeviceGetName"))?,
            compute_capability: (
                attribute(DeviceAttribute::ComputeCapabilityMajor)?,
                attribute(DeviceAttribute::ComputeCapabilityMinor)?,
            ),
            multiprocessors: u32::try_from(attribute(DeviceAttribute::MultiprocessorCount)?).unwrap_or(1).max(1),
            l2_bytes: u64::try_from(attribute(DeviceAttribute::L2CacheSize)?).unwrap_or(0),
            total_memory: device.total_memory().map_err(from_cust("cuDeviceTotalMem_v2"))? as u64,
            driver_version,
        })
    }

    /// Takes device `ordinal`: retains its primary context, makes it current on this thread and loads every module.
    ///
    /// # Errors
    /// [`RuntimeError::NoDevice`], [`RuntimeError::DeviceTooOld`], [`RuntimeError::DriverTooOld`], [`RuntimeError::KernelsNotBuilt`],
    /// [`RuntimeError::NoImageForDevice`], or the driver's error.
    pub fn open(ordinal: u32, images: &Images) -> Result<Arc<Self>, RuntimeError> {
        let properties = Self::describe(ordinal)?;
        properties.require_compute_capability()?;
        if let Some(toolkit) = images.toolkit {
            // Images of a toolkit run on every driver of the same major version (CUDA minor version compatibility).
            let needed = toolkit / 1000 * 1000;
            if properties.driver_version < needed {
                return Err(RuntimeError::DriverTooOld {
                    found: version_text(properties.driver_version),
                    built_with: version_text(toolkit),
                    needed: version_text(needed),
                });
            }
        }
        if images.modules.iter().any(|image| image.bytes.is_empty()) {
            return Err(RuntimeError::KernelsNotBuilt { device: properties.name });
        }
        let device = CudaDevice::get_device(ordinal).map_err(from_cust("cuDeviceGet"))?;
        let context = Context::new(device).map_err(from_cust("cuDevicePrimaryCtxRetain"))?;
        // cust also makes it current, and does not say whether that worked.
        CurrentContext::set_current(&context).map_err(from_cust("cuCtxSetCurrent"))?;
        let mut modules = BTreeMap::new();
        for image in &images.modules {
            let module = Module::from_fatbin(&image.bytes, &[])
                .map_err(|error| refused(&image.module, images, &properties, error))?;
            modules.insert(image.module.clone(), module);
        }
        let warpgroups = images.warpgroups && properties.compute_capability == WARPGROUPS_COMPUTE_CAPABILITY;
        Ok(Arc::new(Self { modules, properties, warpgroups, ordinal: device.as_raw(), context }))
    }

    /// Makes the context current on the calling thread: needed once on every thread that uses the device.
    ///
    /// # Errors
    /// The driver's error.
    pub fn make_current(&self) -> Result<(), RuntimeError> {
        CurrentContext::set_current(&self.context).map_err(from_cust("cuCtxSetCurrent"))
    }

    /// The driver's number of the device.
    pub(crate) fn ordinal(&self) -> i32 {
        self.ordinal
    }

    /// Whether memory can lie at reserved addresses (`CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED`), so that it can be given
    /// back and taken again: [`crate::Arena::releasable`]. A driver that does not know the question has none.
    ///
    /// # Errors
    /// The driver's error.
    pub fn has_virtual_memory(&self) -> Result<bool, RuntimeError> {
        let mut answer = 0;
        let attribute = driver::CUdevice_attribute::VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED;
        // SAFETY: the pointer is that of a live integer.
        let code = unsafe { (driver::table().cuDeviceGetAttribute)(&mut answer, attribute, self.ordinal) };
        if code == CUresult::ERROR_INVALID_VALUE {
            return Ok(false);
        }
        driver::check("cuDeviceGetAttribute", code)?;
        Ok(answer != 0)
    }

    /// What the device says of itself.
    pub fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    /// Whether kernels that multiply by warpgroups (wgmma, of compute capability 9.0 alone) can run: the device has them, and the images hold
    /// the code.
    pub fn has_warpgroups(&self) -> bool {
        self.warpgroups
    }

    /// Waits for all work of the context.
    ///
    /// # Errors
    /// The driver's error, also of work that failed.
    pub fn synchronize(&self) -> Result<(), RuntimeError> {
        CurrentContext::synchronize().map_err(from_cust("cuCtxSynchronize"))
    }

    /// Free and total device memory now.
    ///
    /// # Errors
    /// The driver's error.
    pub fn memory(&self) -> Result<MemoryInfo, RuntimeError> {
        let (free, total) = cust::memory::mem_get_info().map_err(from_cust("cuMemGetInfo_v2"))?;
        Ok(MemoryInfo { free: free as u64, total: total as u64 })
    }

    /// The kernel `name` of the modules that take parameters `P`. It is loaded now and may use `shared_bytes` of dynamic shared memory,
    /// so that nothing is left to do inside a capture.
    ///
    /// # Errors
    /// [`RuntimeError::NoKernel`], [`RuntimeError::ParameterSize`], or the driver's error.
    pub fn kernel<P: Parameters>(&self, name: &'static str, shared_bytes: u32) -> Result<Kernel<P>, RuntimeError> {
        let missing = || RuntimeError::NoKernel { module: P::MODULES.join("` or `"), kernel: name.to_owned() };
        let modules = P::MODULES.iter().filter_map(|&module| self.modules.get(module));
        let mut function = Err(cust::error::CudaError::NotFound);
        for module in modules {
            function = module.get_function(name);
            if !matches!(function, Err(cust::error::CudaError::NotFound)) {
                break;
            }
        }
        let function = function.map_err(|error| match error {
            cust::error::CudaError::NotFound => missing(),
            other => from_cust("cuModuleGetFunction")(other),
        })?;
        Kernel::prepare(CUfunction(function.to_raw().cast()), name, shared_bytes)
    }
}

/// Which of the ways to have no device this is.
fn absent(error: cust::error::CudaError) -> RuntimeError {
    use cust::error::CudaError;
    match error {
        CudaError::SharedObjectInitFailed => RuntimeError::NoDevice {
            looked_for: format!("looked for the driver library `{}` and did not find it", driver::DRIVER_LIBRARY),
        },
        CudaError::NoDevice => RuntimeError::NoDevice {
            looked_for: format!("the driver library `{}` was found, but it reports no device", driver::DRIVER_LIBRARY),
        },
        other => from_cust("cuInit")(other),
    }
}

/// Why the driver refused an image.
fn refused(
    module: &str,
    images: &Images,
    properties: &DeviceProperties,
    error: cust::error::CudaError,
) -> RuntimeError {
    let code = CUresult(error as i32);
    let (major, minor) = properties.compute_capability;
    match error {
        cust::error::CudaError::NoBinaryForGpu => RuntimeError::NoImageForDevice {
            module: module.to_owned(),
            architectures: images.architectures.clone(),
            device: properties.name.clone(),
            major,
            minor,
        },
        // 222: the driver's compiler does not know the PTX version of the image.
        _ if code.0 == 222 => RuntimeError::DriverTooOld {
            found: version_text(properties.driver_version),
            built_with: images.toolkit.map_or_else(|| "unknown".to_owned(), version_text),
            needed: images.toolkit.map_or_else(|| "unknown".to_owned(), version_text),
        },
        other => from_cust("cuModuleLoadDataEx")(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_below_sm_80_is_refused_with_what_is_needed() {
        let refused = |major, minor| {
            let properties = DeviceProperties {
                name: "A card".to_owned(),
                compute_capability: (major, minor),
                multiprocessors: 1,
                total_memory: 1,
                l2_bytes: 1,
                driver_version: 13_000,
            };
            properties.require_compute_capability().map_err(|error| error.to_string())
        };
        for (major, minor) in [(8, 0), (8, 9), (9, 0), (12, 0)] {
            assert_eq!(refused(major, minor), Ok(()));
        }
        for (major, minor) in [(7, 5), (7, 0), (0, 9)] {
            let sentence = format!("`A card` has compute capability {major}.{minor}; the kernels need 8.0 or newer");
            assert_eq!(refused(major, minor), Err(sentence));
        }
    }
}
