//! Launches (CUDA driver API, "Execution Control": cuLaunchKernel, cuLaunchKernelEx, cuLaunchHostFunc).
//!
//! `kernel_params` holds the address of each of the kernel's parameters; their bytes are copied when the call is made.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use gridpoint_driver::{
    CUfunction, CUhostFn, CUlaunchAttribute, CUlaunchAttributeID as Attribute, CUlaunchConfig, CUresult, CUstream,
    Table,
};

use super::device::{BLOCK, BLOCK_THREADS, GRID};
use super::state::{State, id};
use super::work::{Kernel, Work};
use super::{Answer, get, in_context};
use crate::module::HostKernel;

pub(super) fn fill(table: &mut Table) {
    table.cuLaunchKernel = launch_kernel;
    table.cuLaunchKernelEx = launch_kernel_ex;
    table.cuLaunchHostFunc = launch_host_func;
}

/// Blocks of the largest cluster that every kernel may have (CUDA C++ Programming Guide, "Thread Block Clusters").
const CLUSTER_BLOCKS: u32 = 8;

/// Function, geometry and parameters, as the caller gives them.
#[derive(Clone, Copy)]
pub(super) struct Arguments {
    pub(super) function: CUfunction,
    pub(super) grid: [c_uint; 3],
    pub(super) block: [c_uint; 3],
    /// Blocks of a cluster; ones without clusters.
    pub(super) cluster: [c_uint; 3],
    /// Whether programmatic stream serialisation is asked for.
    pub(super) programmatic: bool,
    pub(super) priority: c_int,
    pub(super) shared_bytes: c_uint,
    pub(super) kernel_params: *mut *mut c_void,
    pub(super) extra: *mut *mut c_void,
}

/// The parameter block that `kernel_params` describes, in words.
fn copy_parameters(kernel_params: *mut *mut c_void, kernel: &HostKernel) -> Answer<Box<[u64]>> {
    let block_bytes = kernel.parameter_bytes() as usize;
    let mut words = vec![0_u64; block_bytes.div_ceil(8)].into_boxed_slice();
    for (index, parameter) in kernel.parameters().enumerate() {
        if kernel_params.is_null() {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let address = get!(kernel_params.wrapping_add(index))?;
        let (offset, bytes) = (parameter.offset as usize, parameter.bytes as usize);
        if address.is_null() || block_bytes < offset.saturating_add(bytes) {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let to = words.as_mut_ptr().cast::<u8>().wrapping_add(offset);
        // SAFETY: the contract of the launch: each parameter's address is that of as many bytes as the kernel declares; the words are ours
        // and hold them at this offset.
        unsafe { std::ptr::copy_nonoverlapping(address.cast::<u8>(), to, bytes) };
    }
    Ok(words)
}

impl Arguments {
    /// With the attributes of a node's kernel: other parameters leave them as they are.
    pub(super) fn with_attributes_of(self, kernel: &Kernel) -> Self {
        Self { cluster: kernel.cluster, programmatic: kernel.programmatic, priority: kernel.priority, ..self }
    }
}

/// Refuses clusters that do not divide the grid, or that not every function may have.
pub(super) fn check_cluster(grid: [u32; 3], cluster: [u32; 3]) -> Answer {
    // cuLaunchKernelEx, CLUSTER_DIMENSION: the grid is a multiple of the cluster. More than 8 blocks need the function's permission,
    // which is not asked for here.
    if !grid.iter().zip(cluster).all(|(grid, cluster)| grid.is_multiple_of(cluster)) {
        return Err(CUresult::ERROR_INVALID_VALUE);
    }
    let blocks = cluster.iter().try_fold(1u32, |product, &extent| product.checked_mul(extent));
    if blocks.is_none_or(|size| size > CLUSTER_BLOCKS) { Err(CUresult::ERROR_INVALID_CLUSTER_SIZE) } else { Ok(()) }
}

impl State {
    /// Checks a launch and copies its parameters.
    pub(super) fn kernel(&self, arguments: Arguments) -> Answer<Arc<Kernel>> {
        let Arguments { function: handle, grid, block, cluster, shared_bytes, kernel_params, extra, .. } = arguments;
        let function = self.function(handle)?;
        if !extra.is_null() {
            return Err(CUresult::ERROR_NOT_SUPPORTED);
        }
        let fits =
            |size: [u32; 3], most: [u32; 3]| size.iter().zip(most).all(|(&size, most)| (1..=most).contains(&size));
        let threads: u64 = block.iter().map(|&size| u64::from(size)).product();
        if !fits(grid, GRID)
            || !fits(block, BLOCK)
            || threads > u64::from(BLOCK_THREADS.min(function.kernel.maximum_threads()))
            || shared_bytes > function.dynamic_shared
        {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        check_cluster(grid, cluster)?;
        let parameters = copy_parameters(kernel_params, function.kernel)?;
        let mut kernel = Kernel::new((id(handle.0), function.kernel), (grid, block, cluster), shared_bytes, parameters);
        (kernel.programmatic, kernel.priority) = (arguments.programmatic, arguments.priority);
        Ok(Arc::new(kernel))
    }
}

/// Whether a launch attribute is one that the device has.
fn check_attribute(attribute: &CUlaunchAttribute) -> Answer {
    // SAFETY: the caller set the part of the union that the attribute's name says.
    let number = || unsafe { attribute.value.value };
    // SAFETY: as above.
    let cluster = || unsafe { attribute.value.cluster };
    match attribute.id {
        Attribute::COOPERATIVE if number() != 0 => Err(CUresult::ERROR_NOT_SUPPORTED),
        Attribute::CLUSTER_DIMENSION if cluster().contains(&0) => Err(CUresult::ERROR_INVALID_VALUE),
        Attribute::CLUSTER_DIMENSION => Ok(()),
        Attribute::PREFERRED_CLUSTER_DIMENSION => match cluster() {
            [1, 1, 1] => Ok(()),
            [0, _, _] | [_, 0, _] | [_, _, 0] => Err(CUresult::ERROR_INVALID_VALUE),
            _ => Err(CUresult::ERROR_NOT_SUPPORTED),
        },
        Attribute::IGNORE
        | Attribute::ACCESS_POLICY_WINDOW
        | Attribute::COOPERATIVE
        | Attribute::SYNCHRONIZATION_POLICY
        | Attribute::CLUSTER_SCHEDULING_POLICY_PREFERENCE
        | Attribute::PROGRAMMATIC_STREAM_SERIALIZATION
        | Attribute::PRIORITY
        | Attribute::MEM_SYNC_DOMAIN_MAP
        | Attribute::MEM_SYNC_DOMAIN
        | Attribute::PREFERRED_SHARED_MEMORY_CARVEOUT => Ok(()),
        Attribute::PROGRAMMATIC_EVENT
        | Attribute::LAUNCH_COMPLETION_EVENT
        | Attribute::DEVICE_UPDATABLE_KERNEL_NODE => Err(CUresult::ERROR_NOT_SUPPORTED),
        _ => Err(CUresult::ERROR_INVALID_VALUE),
    }
}

unsafe extern "C" fn launch_kernel(
    function: CUfunction,
    grid_dim_x: c_uint,
    grid_dim_y: c_uint,
    grid_dim_z: c_uint,
    block_dim_x: c_uint,
    block_dim_y: c_uint,
    block_dim_z: c_uint,
    shared_bytes: c_uint,
    stream: CUstream,
    kernel_params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    in_context(|state| {
        let priority = state.priority(id(stream.0));
        let kernel = state.kernel(Arguments {
            function,
            grid: [grid_dim_x, grid_dim_y, grid_dim_z],
            block: [block_dim_x, block_dim_y, block_dim_z],
            cluster: [1; 3],
            programmatic: false,
            priority,
            shared_bytes,
            kernel_params,
            extra,
        })?;
        state.submit(id(stream.0), Work::Kernel(kernel))
    })
}

unsafe extern "C" fn launch_kernel_ex(
    config: *const CUlaunchConfig,
    function: CUfunction,
    kernel_params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    in_context(|state| {
        let config = get!(config)?;
        let (mut cluster, mut programmatic, mut priority) = ([1; 3], false, state.priority(id(config.stream.0)));
        for index in 0..config.num_attrs as usize {
            if config.attrs.is_null() {
                return Err(CUresult::ERROR_INVALID_VALUE);
            }
            let attribute = get!(config.attrs.wrapping_add(index))?;
            check_attribute(&attribute)?;
            // SAFETY: the caller set the part of the union that the attribute's name says.
            let number = || unsafe { attribute.value.value };
            match attribute.id {
                // SAFETY: as above.
                Attribute::CLUSTER_DIMENSION => cluster = unsafe { attribute.value.cluster },
                Attribute::PROGRAMMATIC_STREAM_SERIALIZATION => programmatic = number() != 0,
                Attribute::PRIORITY => priority = number(),
                _ => {}
            }
        }
        let kernel = state.kernel(Arguments {
            function,
            grid: [config.grid_dim_x, config.grid_dim_y, config.grid_dim_z],
            block: [config.block_dim_x, config.block_dim_y, config.block_dim_z],
            cluster,
            programmatic,
            priority,
            shared_bytes: config.shared_mem_bytes,
            kernel_params,
            extra,
        })?;
        state.submit(id(config.stream.0), Work::Kernel(kernel))
    })
}

/// The function runs on the thread that waits for it, under the device lock.
unsafe extern "C" fn launch_host_func(stream: CUstream, function: CUhostFn, data: *mut c_void) -> CUresult {
    in_context(|state| {
        let function = function.ok_or(CUresult::ERROR_INVALID_VALUE)?;
        state.submit(id(stream.0), Work::Host { function, data: data.expose_provenance() })
    })
}
