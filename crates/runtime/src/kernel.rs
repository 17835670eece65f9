//! A kernel and its one parameter struct.

use std::marker::PhantomData;

use gridpoint_driver::{self as driver, CUresult};
use gridpoint_driver::{CUfunction, CUfunction_attribute};

use crate::fields::Fields;
use crate::instructions::{GroupGemmParameters, InstructionParameters};
use crate::parameters::{
    AttentionParameters, AttentionTensorParameters, BandwidthParameters, EmbeddingParameters, FillParameters,
    GemmParameters, NormParameters, RowScaleParameters, SampleParameters, ScheduleParameters, TensorGemmParameters,
};
use crate::{Field, Launch, RuntimeError};

/// A struct that the kernels of some modules take as their only argument.
///
/// # Safety
/// Every kernel of the modules takes exactly one argument, by value, whose type in the kernels' header is the C struct that `Self` is
/// the binding of; and `Self` has no padding bytes, so that its bytes can be compared.
pub unsafe trait Parameters: Copy + 'static {
    /// The modules: stems of .cu files.
    const MODULES: &'static [&'static str];
    /// The fields by name, for whoever looks at a launch; none shows its bytes.
    const FIELDS: &'static [Field] = &[];
}

macro_rules! parameters {
    ($($type:ty => $($module:literal)+),* $(,)?) => {$(
        // SAFETY: kernels/$module.cu lists all its kernels with this struct, and parameters.h fills every gap with a named field.
        unsafe impl Parameters for $type {
            const MODULES: &'static [&'static str] = &[$($module),+];
            const FIELDS: &'static [Field] = <$type as Fields>::FIELDS;
        }
    )*};
}

parameters! {
    EmbeddingParameters => "embedding",
    NormParameters => "norm",
    GemmParameters => "gemm" "skinny",
    TensorGemmParameters => "gemm_hopper",
    RowScaleParameters => "row_scale",
    ScheduleParameters => "schedule",
    AttentionParameters => "attention",
    AttentionTensorParameters => "attention_hopper",
    SampleParameters => "sample",
    FillParameters => "fill",
    BandwidthParameters => "bandwidth",
}

// SAFETY: tests/instructions/instructions.cu lists all its kernels with this struct, which has no gaps.
unsafe impl Parameters for InstructionParameters {
    const MODULES: &'static [&'static str] = &["instructions"];
}

// SAFETY: tests/instructions/group_gemm.cu lists its kernel with this struct, which has no gaps.
unsafe impl Parameters for GroupGemmParameters {
    const MODULES: &'static [&'static str] = &["group_gemm"];
}

/// `CU_SHAREDMEM_CARVEOUT_MAX_SHARED`: as much shared memory as a multiprocessor has, the rest of it cache.
const MOST_SHARED_PERCENT: i32 = 100;

/// A function of a loaded module that takes one `P`.
#[derive(Debug)]
pub struct Kernel<P> {
    function: CUfunction,
    name: &'static str,
    shared_bytes: u32,
    maximum_threads: u32,
    parameters: PhantomData<fn(P)>,
}

impl<P> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Kernel<P> {}

impl<P: Parameters> Kernel<P> {
    /// Loads the function, checks the size of its parameter struct where the driver tells it, and allows `shared_bytes`.
    pub(crate) fn prepare(function: CUfunction, name: &'static str, shared_bytes: u32) -> Result<Self, RuntimeError> {
        let table = driver::table();
        // SAFETY: `function` comes from a module that the device keeps loaded.
        let loaded = unsafe { (table.cuFuncLoad)(function) };
        // Drivers before 12.4 load with the module or at the first launch, and have no such call.
        if loaded != CUresult::ERROR_NOT_FOUND {
            driver::check("cuFuncLoad", loaded)?;
        }
        let (mut offset, mut size) = (0_usize, 0_usize);
        // SAFETY: as above; both pointers are those of live integers.
        let known = unsafe { (table.cuFuncGetParamInfo)(function, 0, &mut offset, &mut size) };
        // Drivers before 12.4 cannot tell.
        if known != CUresult::ERROR_NOT_FOUND {
            driver::check("cuFuncGetParamInfo", known)?;
        }
        if known.is_success() && size != size_of::<P>() {
            return Err(RuntimeError::ParameterSize {
                kernel: name.to_owned(),
                on_device: size,
                in_program: size_of::<P>(),
            });
        }
        if shared_bytes > 48 * 1024 {
            let attribute = CUfunction_attribute::MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: as above.
            let code = unsafe { (table.cuFuncSetAttribute)(function, attribute, shared_bytes as i32) };
            driver::check("cuFuncSetAttribute", code)?;
        }
        // A multiprocessor has one division into shared memory and cache at a time: a kernel that asks for little shared memory would
        // otherwise keep the blocks of a neighbour that asks for much away until it has drained.
        let attribute = CUfunction_attribute::PREFERRED_SHARED_MEMORY_CARVEOUT;
        // SAFETY: as above.
        let code = unsafe { (table.cuFuncSetAttribute)(function, attribute, MOST_SHARED_PERCENT) };
        driver::check("cuFuncSetAttribute", code)?;
        let mut threads = 0;
        // SAFETY: as above; the pointer is that of a live integer.
        let code =
            unsafe { (table.cuFuncGetAttribute)(&mut threads, CUfunction_attribute::MAX_THREADS_PER_BLOCK, function) };
        driver::check("cuFuncGetAttribute", code)?;
        Ok(Self {
            function,
            name,
            shared_bytes,
            maximum_threads: u32::try_from(threads).unwrap_or(0),
            parameters: PhantomData,
        })
    }

    /// The kernel's name in its module.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Threads of a block: the number that the kernel was compiled for.
    pub fn threads(&self) -> u32 {
        self.maximum_threads
    }

    /// Blocks that fit one multiprocessor at once.
    ///
    /// # Errors
    /// The driver's error.
    pub fn blocks_per_multiprocessor(&self) -> Result<u32, RuntimeError> {
        let mut blocks = 0;
        // SAFETY: the function's module is loaded for as long as its device lives, and the pointer is that of a live integer.
        let code = unsafe {
            (driver::table().cuOccupancyMaxActiveBlocksPerMultiprocessor)(
                &mut blocks,
                self.function,
                self.maximum_threads as i32,
                self.shared_bytes as usize,
            )
        };
        driver::check("cuOccupancyMaxActiveBlocksPerMultiprocessor", code)?;
        Ok(u32::try_from(blocks).unwrap_or(1).max(1))
    }

    /// A launch of `blocks` blocks of [`Self::threads`] threads.
    pub fn launch(&self, blocks: u32, parameters: &P) -> Launch {
        Launch::new(self.function, self.name, blocks, self.maximum_threads, self.shared_bytes, parameters)
    }
}
