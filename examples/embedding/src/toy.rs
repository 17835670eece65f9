//! Two kernels of somebody else's, and the device that they run on.

use std::sync::Arc;

use gridpoint_driver::{Found, probe};
use gridpoint_graph::PointRecording;
use gridpoint_plan::GridPoint;
use gridpoint_runtime::{Device, Image, Images, Kernel, Launches, Parameters, RuntimeError};
use gridpoint_simulator::module::HostModule;

unsafe extern "C" {
    #[link_name = "gridpoint_module_toy"]
    safe static HOST_MODULE: HostModule;
}

/// What the driver loads where there is a GPU, at a multiple of 16 bytes; empty where the build found no nvcc.
#[repr(C, align(16))]
struct Aligned<Bytes: ?Sized>(Bytes);
static FATBIN: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/toy.fatbin")));

/// `ToyParameters` of kernels/toy.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToyParameters {
    pub(crate) count: *const u32,
    pub(crate) values: *const f32,
    pub(crate) squares: *mut f32,
    pub(crate) output: *mut f32,
}

// SAFETY: both kernels of kernels/toy.cu take this one struct, which has no padding.
unsafe impl Parameters for ToyParameters {
    const MODULES: &'static [&'static str] = &["toy"];
}

/// The first GPU, or the simulated device where there is none.
pub(crate) fn open() -> Result<Arc<Device>, Box<dyn std::error::Error>> {
    let image = |bytes| Image { module: "toy".to_owned(), bytes };
    if matches!(probe(), Found::Devices { .. }) {
        let modules = vec![image(FATBIN.0.into())];
        return Ok(Device::open(0, &Images { modules, architectures: "compute_80".to_owned(), ..Images::default() })?);
    }
    gridpoint_simulator::install(gridpoint_simulator::Options::default(), &[&HOST_MODULE])?;
    let modules = vec![image(gridpoint_simulator::image("toy").into())];
    Ok(Device::open(0, &Images { modules, ..Images::default() })?)
}

/// The two kernels, loaded before the first capture.
#[derive(Clone, Copy)]
pub(crate) struct Toy {
    square: Kernel<ToyParameters>,
    add_one: Kernel<ToyParameters>,
}

impl Toy {
    pub(crate) fn load(device: &Device) -> Result<Self, RuntimeError> {
        Ok(Self { square: device.kernel("square", 0)?, add_one: device.kernel("add_one", 0)? })
    }

    /// Records a point's step: grids for its T values, everything else from device memory.
    pub(crate) fn record(
        &self,
        recording: &mut PointRecording<'_>,
        point: GridPoint,
        parameters: &ToyParameters,
    ) -> Result<(), RuntimeError> {
        let blocks = point.tokens.div_ceil(self.square.threads());
        let mut launches = Launches::new();
        launches.push(&self.square, blocks, parameters);
        launches.push(&self.add_one, blocks, parameters);
        recording.launch(launches)
    }
}
