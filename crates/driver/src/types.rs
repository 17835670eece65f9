//! Types of the driver's binary interface: opaque handles, integer newtypes for its enumerations, and the few structs in use.
//!
//! Enumerations are newtypes, so that a value which a newer driver adds is never undefined behaviour.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_void};

/// An address in device memory.
pub type CUdeviceptr = u64;
/// A device's ordinal handle.
pub type CUdevice = c_int;
/// A function that the driver calls in stream order on the host.
pub type CUhostFn = Option<unsafe extern "C" fn(data: *mut c_void)>;
/// The older form of [`CUhostFn`], which also gets the stream and its state.
pub type CUstreamCallback = Option<unsafe extern "C" fn(stream: CUstream, status: crate::CUresult, data: *mut c_void)>;
/// A function that answers the dynamic shared memory for a block size.
pub type CUoccupancyB2DSize = Option<unsafe extern "C" fn(block_size: c_int) -> usize>;

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub *mut c_void);

        impl $name {
            /// The null handle.
            pub const fn null() -> Self {
                Self(std::ptr::null_mut())
            }

            /// Whether this is the null handle.
            pub fn is_null(self) -> bool {
                self.0.is_null()
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::null()
            }
        }

        // SAFETY: a handle is a token that only the driver dereferences; sending the token itself touches no memory, and every
        // use of it is an unsafe call whose contract states the threading rules.
        unsafe impl Send for $name {}
        // SAFETY: as above; a shared token can only be copied.
        unsafe impl Sync for $name {}
    )*};
}

handles! {
    /// A context.
    CUcontext;
    /// A loaded module.
    CUmodule;
    /// A kernel of a module.
    CUfunction;
    /// A kernel of a library, not tied to a context.
    CUkernel;
    /// A stream.
    CUstream;
    /// An event.
    CUevent;
    /// A graph that can be instantiated.
    CUgraph;
    /// A node of a graph.
    CUgraphNode;
    /// An executable graph.
    CUgraphExec;
    /// A linker invocation.
    CUlinkState;
    /// An array.
    CUarray;
    /// Imported memory of another interface.
    CUexternalMemory;
}

/// The legacy default stream by its explicit handle.
pub const CU_STREAM_LEGACY: CUstream = CUstream(std::ptr::without_provenance_mut(1));
/// The per-thread default stream by its explicit handle.
pub const CU_STREAM_PER_THREAD: CUstream = CUstream(std::ptr::without_provenance_mut(2));

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident { $($constant:ident = $value:literal;)* })*) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            $(
                #[doc = concat!("Value ", stringify!($value), ".")]
                pub const $constant: $name = $name($value);
            )*
        }
    )*};
}

constants! {
    /// How cuGetProcAddress went.
    CUdriverProcAddressQueryResult { SUCCESS = 0; SYMBOL_NOT_FOUND = 1; VERSION_NOT_SUFFICIENT = 2; }
    /// What a capture forbids: calls that could be unsafe, from any thread, from this thread, or none.
    CUstreamCaptureMode { GLOBAL = 0; THREAD_LOCAL = 1; RELAXED = 2; }
    /// Whether a stream captures.
    CUstreamCaptureStatus { NONE = 0; ACTIVE = 1; INVALIDATED = 2; }
    /// The kind of a graph node.
    CUgraphNodeType {
        KERNEL = 0; MEMCPY = 1; MEMSET = 2; HOST = 3; GRAPH = 4; EMPTY = 5; WAIT_EVENT = 6; EVENT_RECORD = 7;
        EXT_SEMAS_SIGNAL = 8; EXT_SEMAS_WAIT = 9; MEM_ALLOC = 10; MEM_FREE = 11; BATCH_MEM_OP = 12; CONDITIONAL = 13;
    }
    /// What a dependency between two graph nodes is: a full one, or one that the kernel behind it waits for by itself.
    CUgraphDependencyType { DEFAULT = 0; PROGRAMMATIC = 1; }
    /// How instantiation went.
    CUgraphInstantiateResult {
        SUCCESS = 0; ERROR = 1; INVALID_STRUCTURE = 2; NODE_OPERATION_NOT_SUPPORTED = 3; MULTIPLE_CTXS_NOT_SUPPORTED = 4;
        CONDITIONAL_HANDLE_UNUSED = 5;
    }
    /// Why an executable graph could not be updated.
    CUgraphExecUpdateResult {
        SUCCESS = 0; ERROR = 1; TOPOLOGY_CHANGED = 2; NODE_TYPE_CHANGED = 3; FUNCTION_CHANGED = 4; PARAMETERS_CHANGED = 5;
        NOT_SUPPORTED = 6; UNSUPPORTED_FUNCTION_CHANGE = 7; ATTRIBUTES_CHANGED = 8;
    }
    /// A figure of the memory that a device's graphs hold.
    CUgraphMem_attribute { USED_MEM_CURRENT = 0; USED_MEM_HIGH = 1; RESERVED_MEM_CURRENT = 2; RESERVED_MEM_HIGH = 3; }
    /// An attribute of a kernel.
    CUfunction_attribute {
        MAX_THREADS_PER_BLOCK = 0; SHARED_SIZE_BYTES = 1; CONST_SIZE_BYTES = 2; LOCAL_SIZE_BYTES = 3; NUM_REGS = 4;
        PTX_VERSION = 5; BINARY_VERSION = 6; CACHE_MODE_CA = 7; MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;
        PREFERRED_SHARED_MEMORY_CARVEOUT = 9; CLUSTER_SIZE_MUST_BE_SET = 10; REQUIRED_CLUSTER_WIDTH = 11;
        REQUIRED_CLUSTER_HEIGHT = 12; REQUIRED_CLUSTER_DEPTH = 13; NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14;
        CLUSTER_SCHEDULING_POLICY_PREFERENCE = 15;
    }
    /// An attribute of a device.
    CUdevice_attribute {
        MAX_THREADS_PER_BLOCK = 1; MAX_BLOCK_DIM_X = 2; MAX_BLOCK_DIM_Y = 3; MAX_BLOCK_DIM_Z = 4; MAX_GRID_DIM_X = 5;
        MAX_GRID_DIM_Y = 6; MAX_GRID_DIM_Z = 7; MAX_SHARED_MEMORY_PER_BLOCK = 8; TOTAL_CONSTANT_MEMORY = 9; WARP_SIZE = 10;
        MAX_PITCH = 11; MAX_REGISTERS_PER_BLOCK = 12; CLOCK_RATE = 13; MULTIPROCESSOR_COUNT = 16; INTEGRATED = 18;
        CAN_MAP_HOST_MEMORY = 19; COMPUTE_MODE = 20; CONCURRENT_KERNELS = 31; ECC_ENABLED = 32; PCI_BUS_ID = 33;
        PCI_DEVICE_ID = 34; MEMORY_CLOCK_RATE = 36; GLOBAL_MEMORY_BUS_WIDTH = 37; L2_CACHE_SIZE = 38;
        MAX_THREADS_PER_MULTIPROCESSOR = 39; ASYNC_ENGINE_COUNT = 40; UNIFIED_ADDRESSING = 41;
        COMPUTE_CAPABILITY_MAJOR = 75; COMPUTE_CAPABILITY_MINOR = 76; STREAM_PRIORITIES_SUPPORTED = 78;
        MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = 81; MAX_REGISTERS_PER_MULTIPROCESSOR = 82; MANAGED_MEMORY = 83;
        COOPERATIVE_LAUNCH = 95; MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97; VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 102;
        MAX_BLOCKS_PER_MULTIPROCESSOR = 106; RESERVED_SHARED_MEMORY_PER_BLOCK = 111; MEMORY_POOLS_SUPPORTED = 115;
        CLUSTER_LAUNCH = 120; TENSOR_MAP_ACCESS_SUPPORTED = 127;
    }
    /// The name of a launch attribute.
    CUlaunchAttributeID {
        IGNORE = 0; ACCESS_POLICY_WINDOW = 1; COOPERATIVE = 2; SYNCHRONIZATION_POLICY = 3; CLUSTER_DIMENSION = 4;
        CLUSTER_SCHEDULING_POLICY_PREFERENCE = 5; PROGRAMMATIC_STREAM_SERIALIZATION = 6; PROGRAMMATIC_EVENT = 7; PRIORITY = 8;
        MEM_SYNC_DOMAIN_MAP = 9; MEM_SYNC_DOMAIN = 10; PREFERRED_CLUSTER_DIMENSION = 11; LAUNCH_COMPLETION_EVENT = 12;
        DEVICE_UPDATABLE_KERNEL_NODE = 13; PREFERRED_SHARED_MEMORY_CARVEOUT = 14;
    }
    /// A limit of a context.
    CUlimit {
        STACK_SIZE = 0; PRINTF_FIFO_SIZE = 1; MALLOC_HEAP_SIZE = 2; DEV_RUNTIME_SYNC_DEPTH = 3;
        DEV_RUNTIME_PENDING_LAUNCH_COUNT = 4; MAX_L2_FETCH_GRANULARITY = 5; PERSISTING_L2_CACHE_SIZE = 6;
    }
    /// How a context's kernels split the first cache.
    CUfunc_cache { PREFER_NONE = 0; PREFER_SHARED = 1; PREFER_L1 = 2; PREFER_EQUAL = 3; }
    /// The width of shared memory's banks.
    CUsharedconfig { DEFAULT_BANK_SIZE = 0; FOUR_BYTE_BANK_SIZE = 1; EIGHT_BYTE_BANK_SIZE = 2; }
    /// An attribute of a pointer.
    CUpointer_attribute { CONTEXT = 1; MEMORY_TYPE = 2; DEVICE_POINTER = 3; HOST_POINTER = 4; }
    /// The kind of memory behind a pointer.
    CUmemorytype { HOST = 1; DEVICE = 2; ARRAY = 3; UNIFIED = 4; }
    /// A hint about managed memory.
    CUmem_advise { SET_READ_MOSTLY = 1; UNSET_READ_MOSTLY = 2; SET_PREFERRED_LOCATION = 3; UNSET_PREFERRED_LOCATION = 4; }
    /// The kind of a linker's input.
    CUjitInputType { CUBIN = 0; PTX = 1; FATBINARY = 2; OBJECT = 3; LIBRARY = 4; }
    /// The type of a tensor's elements.
    CUtensorMapDataType {
        UINT8 = 0; UINT16 = 1; UINT32 = 2; INT32 = 3; UINT64 = 4; INT64 = 5; FLOAT16 = 6; FLOAT32 = 7; FLOAT64 = 8; BFLOAT16 = 9;
        FLOAT32_FTZ = 10; TFLOAT32 = 11; TFLOAT32_FTZ = 12; PACKED_16U4_ALIGN8B = 13; PACKED_16U4_ALIGN16B = 14;
        PACKED_16U6_ALIGN16B = 15;
    }
    /// Whether channels of a tensor lie interleaved.
    CUtensorMapInterleave { NONE = 0; INTERLEAVE_16B = 1; INTERLEAVE_32B = 2; }
    /// How a tensor map's box is swizzled in shared memory.
    CUtensorMapSwizzle {
        NONE = 0; SWIZZLE_32B = 1; SWIZZLE_64B = 2; SWIZZLE_128B = 3; SWIZZLE_128B_ATOM_32B = 4;
        SWIZZLE_128B_ATOM_32B_FLIP_8B = 5; SWIZZLE_128B_ATOM_64B = 6;
    }
    /// How much the second cache fetches for a tensor map's copies.
    CUtensorMapL2promotion { NONE = 0; L2_64B = 1; L2_128B = 2; L2_256B = 3; }
    /// What elements outside a tensor are loaded as.
    CUtensorMapFloatOOBfill { NONE = 0; NAN_REQUEST_ZERO_FMA = 1; }
    /// An option of the PTX compiler.
    CUjit_option {
        MAX_REGISTERS = 0; INFO_LOG_BUFFER = 3; INFO_LOG_BUFFER_SIZE_BYTES = 4; ERROR_LOG_BUFFER = 5;
        ERROR_LOG_BUFFER_SIZE_BYTES = 6;
    }
}

pub(crate) use constants;

/// Flags of [`crate::cuStreamCreateWithPriority`]: no implicit order with the legacy stream.
pub const CU_STREAM_NON_BLOCKING: c_uint = 1;
/// Flags of [`crate::cuEventCreate`]: the event takes no times.
pub const CU_EVENT_DISABLE_TIMING: c_uint = 2;
/// Flags of [`crate::cuStreamWaitEvent`]: in a capture, the wait becomes a node of its own.
pub const CU_EVENT_WAIT_EXTERNAL: c_uint = 1;
/// Flags of [`crate::cuEventRecordWithFlags`]: in a capture, the record becomes a node of its own.
pub const CU_EVENT_RECORD_EXTERNAL: c_uint = 1;
/// Flags of [`crate::cuMemHostAlloc`]: pinned for all contexts.
pub const CU_MEMHOSTALLOC_PORTABLE: c_uint = 1;
/// Flags of [`crate::cuMemHostAlloc`]: mapped into the device's address space.
pub const CU_MEMHOSTALLOC_DEVICEMAP: c_uint = 2;
/// Flags of [`crate::cuMemHostAlloc`]: write-combined.
pub const CU_MEMHOSTALLOC_WRITECOMBINED: c_uint = 4;
/// Flags of instantiation: free the graph's allocations before a new launch.
pub const CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH: u64 = 1;
/// Flags of instantiation: upload after it; only through [`crate::cuGraphInstantiateWithParams`].
pub const CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD: u64 = 2;
/// Flags of instantiation: launchable from the device.
pub const CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH: u64 = 4;
/// Flags of instantiation: nodes keep the priority with which they were captured.
pub const CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY: u64 = 8;
/// An edge's outgoing port: the kernel has finished.
pub const CU_GRAPH_KERNEL_NODE_PORT_DEFAULT: c_uchar = 0;
/// An edge's outgoing port: every block of the kernel has let its dependents go, or has ended. Only with
/// [`CUgraphDependencyType::PROGRAMMATIC`].
pub const CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC: c_uchar = 1;
/// An edge's outgoing port: every block of the kernel has begun, as far as the device can tell.
pub const CU_GRAPH_KERNEL_NODE_PORT_LAUNCH_ORDER: c_uchar = 2;
/// Flags of [`crate::cuGraphDebugDotPrint`]: everything.
pub const CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE: c_uint = 1;

/// The 16 bytes that identify a device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CUuuid {
    /// The bytes.
    pub bytes: [c_char; 16],
}

/// The value of a launch attribute: 64 bytes, of which each attribute uses its own part.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub union CUlaunchAttributeValue {
    /// All bytes.
    pub pad: [u8; 64],
    /// For attributes that are one flag or number: `COOPERATIVE`, `PROGRAMMATIC_STREAM_SERIALIZATION`, `PRIORITY`.
    pub value: c_int,
    /// For `CLUSTER_DIMENSION`: the cluster's extent in x, y, z.
    pub cluster: [c_uint; 3],
}

/// A tensor map: 128 opaque bytes that a kernel hands to bulk-tensor copies.
#[repr(C, align(128))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CUtensorMap {
    /// The bytes.
    pub opaque: [u64; 16],
}

/// One attribute of a launch.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUlaunchAttribute {
    /// Which attribute.
    pub id: CUlaunchAttributeID,
    /// Unused.
    pub pad: [u8; 4],
    /// Its value.
    pub value: CUlaunchAttributeValue,
}

impl CUlaunchAttribute {
    /// An attribute whose value is one flag or number.
    pub fn number(id: CUlaunchAttributeID, number: c_int) -> Self {
        let mut value = CUlaunchAttributeValue { pad: [0; 64] };
        value.value = number;
        Self { id, pad: [0; 4], value }
    }
}

impl std::fmt::Debug for CUlaunchAttribute {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CUlaunchAttribute").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Geometry, stream and attributes of a launch, for [`crate::cuLaunchKernelEx`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUlaunchConfig {
    /// Blocks in x.
    pub grid_dim_x: c_uint,
    /// Blocks in y.
    pub grid_dim_y: c_uint,
    /// Blocks in z.
    pub grid_dim_z: c_uint,
    /// Threads of a block in x.
    pub block_dim_x: c_uint,
    /// Threads of a block in y.
    pub block_dim_y: c_uint,
    /// Threads of a block in z.
    pub block_dim_z: c_uint,
    /// Dynamic shared memory in bytes.
    pub shared_mem_bytes: c_uint,
    /// The stream.
    pub stream: CUstream,
    /// `num_attrs` attributes.
    pub attrs: *mut CUlaunchAttribute,
    /// How many attributes.
    pub num_attrs: c_uint,
}

/// Function, geometry and parameters of a kernel node, as in driver versions before 12.0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUDA_KERNEL_NODE_PARAMS_v1 {
    /// The kernel.
    pub func: CUfunction,
    /// Blocks in x.
    pub grid_dim_x: c_uint,
    /// Blocks in y.
    pub grid_dim_y: c_uint,
    /// Blocks in z.
    pub grid_dim_z: c_uint,
    /// Threads of a block in x.
    pub block_dim_x: c_uint,
    /// Threads of a block in y.
    pub block_dim_y: c_uint,
    /// Threads of a block in z.
    pub block_dim_z: c_uint,
    /// Dynamic shared memory in bytes.
    pub shared_mem_bytes: c_uint,
    /// Addresses of the parameters.
    pub kernel_params: *mut *mut c_void,
    /// The other way to hand over parameters.
    pub extra: *mut *mut c_void,
}

/// Function, geometry and parameters of a kernel node.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUDA_KERNEL_NODE_PARAMS_v2 {
    /// The kernel; null where `kern` is set.
    pub func: CUfunction,
    /// Blocks in x.
    pub grid_dim_x: c_uint,
    /// Blocks in y.
    pub grid_dim_y: c_uint,
    /// Blocks in z.
    pub grid_dim_z: c_uint,
    /// Threads of a block in x.
    pub block_dim_x: c_uint,
    /// Threads of a block in y.
    pub block_dim_y: c_uint,
    /// Threads of a block in z.
    pub block_dim_z: c_uint,
    /// Dynamic shared memory in bytes.
    pub shared_mem_bytes: c_uint,
    /// Addresses of the parameters.
    pub kernel_params: *mut *mut c_void,
    /// The other way to hand over parameters.
    pub extra: *mut *mut c_void,
    /// The kernel as a library's kernel.
    pub kern: CUkernel,
    /// The context of the kernel.
    pub ctx: CUcontext,
}

impl Default for CUDA_KERNEL_NODE_PARAMS_v2 {
    fn default() -> Self {
        Self {
            func: CUfunction::null(),
            grid_dim_x: 0,
            grid_dim_y: 0,
            grid_dim_z: 0,
            block_dim_x: 0,
            block_dim_y: 0,
            block_dim_z: 0,
            shared_mem_bytes: 0,
            kernel_params: std::ptr::null_mut(),
            extra: std::ptr::null_mut(),
            kern: CUkernel::null(),
            ctx: CUcontext::null(),
        }
    }
}

/// What an edge between two graph nodes stands for. Zeros are a full dependency.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CUgraphEdgeData {
    /// When the upstream node releases the edge: [`CU_GRAPH_KERNEL_NODE_PORT_DEFAULT`] or one of the others, which only kernels have.
    pub from_port: c_uchar,
    /// Which part of the downstream node waits; 0, all of it, is the only port that there is.
    pub to_port: c_uchar,
    /// A [`CUgraphDependencyType`]; the field is named `type` in C.
    pub kind: c_uchar,
    /// Zeros.
    pub reserved: [c_uchar; 5],
}

impl CUgraphEdgeData {
    /// What the capture of a launch with `PROGRAMMATIC_STREAM_SERIALIZATION` makes of an edge.
    pub const PROGRAMMATIC: Self = Self {
        from_port: CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC,
        to_port: 0,
        kind: CUgraphDependencyType::PROGRAMMATIC.0 as c_uchar,
        reserved: [0; 5],
    };
}

/// Arguments and answers of [`crate::cuGraphInstantiateWithParams`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CUDA_GRAPH_INSTANTIATE_PARAMS {
    /// Instantiation flags.
    pub flags: u64,
    /// The stream of the upload, where the flags ask for one.
    pub upload_stream: CUstream,
    /// Answer: the node that could not be instantiated.
    pub error_node: CUgraphNode,
    /// Answer: how it went.
    pub result: CUgraphInstantiateResult,
}

/// Answers of [`crate::cuGraphExecUpdate_v2`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CUgraphExecUpdateResultInfo {
    /// Why the update failed.
    pub result: CUgraphExecUpdateResult,
    /// The node that stopped it.
    pub error_node: CUgraphNode,
    /// The source of the dependency that stopped it.
    pub error_from_node: CUgraphNode,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{align_of, offset_of, size_of};

    /// Sizes and offsets as a C compiler lays them out from the CUDA 13.0 headers on x86-64 and aarch64 Linux.
    #[test]
    fn layouts_are_those_of_the_c_headers() {
        assert_eq!((size_of::<CUlaunchAttributeValue>(), align_of::<CUlaunchAttributeValue>()), (64, 8));
        assert_eq!((size_of::<CUlaunchAttribute>(), offset_of!(CUlaunchAttribute, value)), (72, 8));
        assert_eq!(size_of::<CUlaunchConfig>(), 56);
        assert_eq!((size_of::<CUtensorMap>(), align_of::<CUtensorMap>()), (128, 128));
        assert_eq!(
            [
                offset_of!(CUlaunchConfig, shared_mem_bytes),
                offset_of!(CUlaunchConfig, stream),
                offset_of!(CUlaunchConfig, attrs),
                offset_of!(CUlaunchConfig, num_attrs)
            ],
            [24, 32, 40, 48]
        );
        assert_eq!(size_of::<CUDA_KERNEL_NODE_PARAMS_v1>(), 56);
        assert_eq!(size_of::<CUDA_KERNEL_NODE_PARAMS_v2>(), 72);
        assert_eq!(
            [
                offset_of!(CUDA_KERNEL_NODE_PARAMS_v2, shared_mem_bytes),
                offset_of!(CUDA_KERNEL_NODE_PARAMS_v2, kernel_params),
                offset_of!(CUDA_KERNEL_NODE_PARAMS_v2, kern),
                offset_of!(CUDA_KERNEL_NODE_PARAMS_v2, ctx)
            ],
            [32, 40, 56, 64]
        );
        assert_eq!((size_of::<CUgraphEdgeData>(), align_of::<CUgraphEdgeData>()), (8, 1));
        assert_eq!([offset_of!(CUgraphEdgeData, to_port), offset_of!(CUgraphEdgeData, kind)], [1, 2]);
        assert_eq!(size_of::<CUDA_GRAPH_INSTANTIATE_PARAMS>(), 32);
        assert_eq!(offset_of!(CUDA_GRAPH_INSTANTIATE_PARAMS, result), 24);
        assert_eq!(size_of::<CUgraphExecUpdateResultInfo>(), 24);
        assert_eq!(offset_of!(CUgraphExecUpdateResultInfo, error_node), 8);
    }
}
