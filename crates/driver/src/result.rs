//! Result codes of the driver API, as an integer newtype with names and words of our own.
//!
//! A newer driver may answer a code that this list lacks: it stays a number and gets the name `CUDA_ERROR_UNKNOWN_CODE`.

use std::ffi::CStr;
use std::fmt;

/// The result of a driver call. Zero is success; every other value is an error.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use]
pub struct CUresult(pub i32);

macro_rules! codes {
    ($($code:literal $name:ident $words:literal;)*) => {
        impl CUresult {
            $(
                #[doc = concat!("Code ", stringify!($code), ": ", $words, ".")]
                pub const $name: CUresult = CUresult($code);
            )*

            /// Every code of the list, ascending.
            pub const ALL: &'static [CUresult] = &[$(CUresult($code)),*];

            fn entry(self) -> Option<(&'static CStr, &'static CStr)> {
                match self.0 {
                    $($code => {
                        const NAME: &CStr = terminated(concat!("CUDA_", stringify!($name), "\0"));
                        const WORDS: &CStr = terminated(concat!($words, "\0"));
                        Some((NAME, WORDS))
                    })*
                    _ => None,
                }
            }
        }
    };
}

const fn terminated(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("a name or text of the list holds a zero byte"),
    }
}

codes! {
    0 SUCCESS "no error";
    1 ERROR_INVALID_VALUE "an argument is outside its range";
    2 ERROR_OUT_OF_MEMORY "not enough memory is left";
    3 ERROR_NOT_INITIALIZED "the driver was not initialised";
    4 ERROR_DEINITIALIZED "the driver is shutting down";
    5 ERROR_PROFILER_DISABLED "the profiler is off";
    34 ERROR_STUB_LIBRARY "the loaded library is a stub without a driver behind it";
    36 ERROR_CALL_REQUIRES_NEWER_DRIVER "the call needs a newer driver";
    46 ERROR_DEVICE_UNAVAILABLE "the device is busy or unavailable";
    100 ERROR_NO_DEVICE "no CUDA device was found";
    101 ERROR_INVALID_DEVICE "no device has this ordinal";
    200 ERROR_INVALID_IMAGE "the module's image is not valid";
    201 ERROR_INVALID_CONTEXT "no context is current, or it is not valid";
    205 ERROR_MAP_FAILED "mapping failed";
    206 ERROR_UNMAP_FAILED "unmapping failed";
    209 ERROR_NO_BINARY_FOR_GPU "the module holds no code for this device";
    214 ERROR_ECC_UNCORRECTABLE "the device's memory has an uncorrectable error";
    215 ERROR_UNSUPPORTED_LIMIT "the device does not have this limit";
    216 ERROR_CONTEXT_ALREADY_IN_USE "the context is bound to another thread";
    217 ERROR_PEER_ACCESS_UNSUPPORTED "the devices cannot reach each other's memory";
    218 ERROR_INVALID_PTX "the PTX could not be compiled";
    220 ERROR_NVLINK_UNCORRECTABLE "NVLink has an uncorrectable error";
    221 ERROR_JIT_COMPILER_NOT_FOUND "the PTX compiler library was not found";
    222 ERROR_UNSUPPORTED_PTX_VERSION "the PTX is newer than the driver";
    223 ERROR_JIT_COMPILATION_DISABLED "compilation of PTX is switched off";
    226 ERROR_CONTAINED "a memory error was contained; the process must end";
    300 ERROR_INVALID_SOURCE "the kernel's source is not valid";
    301 ERROR_FILE_NOT_FOUND "the file was not found";
    302 ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND "a shared library lacks a symbol";
    303 ERROR_SHARED_OBJECT_INIT_FAILED "the driver library could not be loaded";
    304 ERROR_OPERATING_SYSTEM "a call of the operating system failed";
    400 ERROR_INVALID_HANDLE "a handle is not valid";
    401 ERROR_ILLEGAL_STATE "a resource is not in a state that allows the call";
    402 ERROR_LOSSY_QUERY "the answer would lose information";
    500 ERROR_NOT_FOUND "the named symbol was not found";
    600 ERROR_NOT_READY "the work is not finished";
    700 ERROR_ILLEGAL_ADDRESS "a kernel reached an address outside every allocation";
    701 ERROR_LAUNCH_OUT_OF_RESOURCES "the launch needs more registers or threads than the device has";
    702 ERROR_LAUNCH_TIMEOUT "a kernel ran for too long";
    703 ERROR_LAUNCH_INCOMPATIBLE_TEXTURING "the launch mixes texturing modes";
    704 ERROR_PEER_ACCESS_ALREADY_ENABLED "peer access was enabled before";
    705 ERROR_PEER_ACCESS_NOT_ENABLED "peer access was not enabled";
    708 ERROR_PRIMARY_CONTEXT_ACTIVE "the primary context is already active";
    709 ERROR_CONTEXT_IS_DESTROYED "the context was destroyed";
    710 ERROR_ASSERT "an assertion in a kernel failed";
    711 ERROR_TOO_MANY_PEERS "no further peer can be mapped";
    712 ERROR_HOST_MEMORY_ALREADY_REGISTERED "the host memory was registered before";
    713 ERROR_HOST_MEMORY_NOT_REGISTERED "the host memory was not registered";
    714 ERROR_HARDWARE_STACK_ERROR "a kernel's stack is corrupt or too small";
    715 ERROR_ILLEGAL_INSTRUCTION "a kernel met an illegal instruction";
    716 ERROR_MISALIGNED_ADDRESS "a kernel used an address that is not aligned";
    717 ERROR_INVALID_ADDRESS_SPACE "an instruction used an address of the wrong space";
    718 ERROR_INVALID_PC "a kernel's program counter left its code";
    719 ERROR_LAUNCH_FAILED "a kernel failed while it ran";
    720 ERROR_COOPERATIVE_LAUNCH_TOO_LARGE "the cooperative launch has more blocks than fit the device at once";
    800 ERROR_NOT_PERMITTED "the call is not permitted";
    801 ERROR_NOT_SUPPORTED "the call is not supported";
    802 ERROR_SYSTEM_NOT_READY "a system service that CUDA needs is not ready";
    803 ERROR_SYSTEM_DRIVER_MISMATCH "the driver library and the kernel module differ in version";
    804 ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE "this device does not support the compatibility library";
    805 ERROR_MPS_CONNECTION_FAILED "the multi-process service could not be reached";
    806 ERROR_MPS_RPC_FAILURE "a call to the multi-process service failed";
    807 ERROR_MPS_SERVER_NOT_READY "the multi-process service is not ready";
    808 ERROR_MPS_MAX_CLIENTS_REACHED "the multi-process service takes no more clients";
    809 ERROR_MPS_MAX_CONNECTIONS_REACHED "the multi-process service takes no more connections";
    900 ERROR_STREAM_CAPTURE_UNSUPPORTED "the call is not permitted while the stream is capturing";
    901 ERROR_STREAM_CAPTURE_INVALIDATED "an earlier error invalidated the capture";
    902 ERROR_STREAM_CAPTURE_MERGE "the call would merge two captures";
    903 ERROR_STREAM_CAPTURE_UNMATCHED "the stream did not begin the capture";
    904 ERROR_STREAM_CAPTURE_UNJOINED "the capture holds work that was not joined to its first stream";
    905 ERROR_STREAM_CAPTURE_ISOLATION "a dependency would cross the border of the capture";
    906 ERROR_STREAM_CAPTURE_IMPLICIT "the legacy stream would depend on a capturing stream";
    907 ERROR_CAPTURED_EVENT "the call is not permitted on an event recorded in a capture";
    908 ERROR_STREAM_CAPTURE_WRONG_THREAD "the capture was begun by another thread";
    909 ERROR_TIMEOUT "a wait timed out";
    910 ERROR_GRAPH_EXEC_UPDATE_FAILURE "the executable graph cannot be updated to this graph";
    911 ERROR_EXTERNAL_DEVICE "a device outside CUDA failed";
    912 ERROR_INVALID_CLUSTER_SIZE "the cluster's size is not valid";
    913 ERROR_FUNCTION_NOT_LOADED "the function was not loaded";
    914 ERROR_INVALID_RESOURCE_TYPE "the resource is of another type";
    915 ERROR_INVALID_RESOURCE_CONFIGURATION "the resources are not enough or not valid for the call";
    916 ERROR_KEY_ROTATION "a key rotation failed";
    999 ERROR_UNKNOWN "an unknown error inside the driver";
}

impl CUresult {
    /// Whether the call succeeded.
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }

    /// The code's name in `cuda.h`, or `CUDA_ERROR_UNKNOWN_CODE` where the list lacks it.
    pub fn name(self) -> &'static str {
        self.entry().and_then(|(name, _)| name.to_str().ok()).unwrap_or("CUDA_ERROR_UNKNOWN_CODE")
    }

    /// What the code means, in words of our own.
    pub fn words(self) -> &'static str {
        self.entry().and_then(|(_, words)| words.to_str().ok()).unwrap_or("a code that this build does not know")
    }

    /// [`name`](Self::name) as a C string; none where the list lacks the code.
    pub fn c_name(self) -> Option<&'static CStr> {
        self.entry().map(|(name, _)| name)
    }

    /// [`words`](Self::words) as a C string; none where the list lacks the code.
    pub fn c_words(self) -> Option<&'static CStr> {
        self.entry().map(|(_, words)| words)
    }
}

impl fmt::Debug for CUresult {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Display for CUresult {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({}): {}", self.name(), self.0, self.words())
    }
}

/// A driver call that failed: its name in the driver API and the code it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("`{call}` failed: {code}")]
pub struct Error {
    /// The function's name, as in `cuGraphLaunch`.
    pub call: &'static str,
    /// What it answered; never success.
    pub code: CUresult,
}

/// Turns the result of `call` into an error where it is not success.
///
/// # Errors
/// [`Error`] with the call's name when `code` is not zero.
pub fn check(call: &'static str, code: CUresult) -> Result<(), Error> {
    if code.is_success() { Ok(()) } else { Err(Error { call, code }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_call_code_and_meaning() {
        let error = check("cuGraphLaunch", CUresult(901)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`cuGraphLaunch` failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED (901): an earlier error invalidated the capture"
        );
        assert_eq!(check("cuInit", CUresult(0)), Ok(()));
    }

    #[test]
    fn a_code_outside_the_list_stays_a_number() {
        let error = check("cuInit", CUresult(4711)).unwrap_err();
        assert!(error.to_string().contains("(4711)"), "{error}");
        assert_eq!(CUresult(4711).c_name(), None);
    }

    #[test]
    fn codes_ascend_without_repeats() {
        for pair in CUresult::ALL.windows(2) {
            assert!(pair[0] < pair[1], "{:?} before {:?}", pair[0], pair[1]);
        }
    }
}
