//! The client's side of NVTX 3: how a profiler's library gets to the functions that it wants to hear of.
//!
//! NVTX has no library of its own. Its C headers load the profiler's library and call its `InitializeInjectionNvtx2` with a function that
//! answers tables; in the tables are the addresses of variables, into which the profiler writes its functions (NVTX 3, nvtxInit.h,
//! nvtxTypes.h; the layouts are the binary interface between any program and any profiler, and do not change). Here are those
//! tables for every module that the headers have, of whose functions five are called.

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use gridpoint_driver::CUstream;

/// The domain that all ranges are in.
const DOMAIN: &CStr = c"gridpoint";
/// `NVTX_VERSION` of the headers whose tables these are.
const VERSION: u16 = 3;

/// `NvtxExportTableID`.
const CALLBACKS: u32 = 1;
const VERSION_INFO: u32 = 3;

/// Entries of each module's table, by `NvtxCallbackModule`: none, core, CUDA driver, OpenCL, CUDA runtime, core 2, synchronisation.
/// Entry 0 of a table is none either.
const ENTRIES: [usize; 7] = [0, 16, 9, 15, 7, 16, 7];
const CUDA: usize = 2;
const CORE2: usize = 5;

/// `NvtxCallbackIdCuda`, `NvtxCallbackIdCore2`: those that are called.
const NAME_STREAM: usize = 5;
const RANGE_PUSH: usize = 4;
const RANGE_POP: usize = 5;
const REGISTER_STRING: usize = 10;
const CREATE_DOMAIN: usize = 12;

/// `nvtxMessageType_t`.
const ASCII: i32 = 1;
const REGISTERED: i32 = 3;

type GetExportTable = unsafe extern "C" fn(u32) -> *const c_void;
type InitializeInjection = unsafe extern "C" fn(GetExportTable) -> c_int;
type CreateDomain = unsafe extern "C" fn(*const c_char) -> *mut c_void;
type RegisterString = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;
type PushRange = unsafe extern "C" fn(*mut c_void, *const EventAttributes) -> c_int;
type PopRange = unsafe extern "C" fn(*mut c_void) -> c_int;
type NameStream = unsafe extern "C" fn(CUstream, *const c_char);

/// Why nobody listens though somebody was to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The library could not be loaded.
    #[error("the profiler's library `{}` (NVTX injection) could not be loaded: {reason}", path.display())]
    Load {
        /// What was to be loaded.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// The library is another one.
    #[error("`{}` is no profiler's library: it has no function `InitializeInjectionNvtx2`", path.display())]
    NoEntry {
        /// The library.
        path: PathBuf,
    },
    /// The library did not want to.
    #[error("the profiler's library `{}` refused to begin", path.display())]
    Refused {
        /// The library.
        path: PathBuf,
    },
}

/// Where the profiler writes the functions of one module, and the table that leads there.
#[derive(Debug)]
struct Module {
    functions: Box<[AtomicPtr<c_void>]>,
    addresses: Box<[*mut *mut c_void]>,
}

// SAFETY: the addresses are those of `functions`, which are atomic; they are not written through here.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    fn new(entries: usize) -> Self {
        let functions: Box<[AtomicPtr<c_void>]> = (0..entries).map(|_| AtomicPtr::new(null_mut())).collect();
        let addresses = functions
            .iter()
            .enumerate()
            // Entry 0 stands for no function; a null address behind the last entry ends the table.
            .map(|(entry, function)| if entry == 0 { null_mut() } else { function.as_ptr() })
            .chain([null_mut()])
            .collect();
        Self { functions, addresses }
    }

    /// What the profiler has written there, if anything.
    #[inline]
    fn function(&self, entry: usize) -> Option<*mut c_void> {
        let function = self.functions[entry].load(Ordering::Acquire);
        (!function.is_null()).then_some(function)
    }
}

/// The modules' tables; they last as long as the process, as a profiler may write to them whenever it likes.
fn modules() -> &'static [Module; ENTRIES.len()] {
    static MODULES: OnceLock<[Module; ENTRIES.len()]> = OnceLock::new();
    MODULES.get_or_init(|| ENTRIES.map(Module::new))
}

/// `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    bytes: usize,
    get_module_function_table: unsafe extern "C" fn(c_int, *mut *const *mut *mut c_void, *mut c_uint) -> c_int,
}

/// `NvtxExportTableVersionInfo`.
#[repr(C)]
struct VersionInfo {
    bytes: usize,
    version: u32,
    reserved: u32,
    set_injection_version: unsafe extern "C" fn(u32),
}

/// `nvtxEventAttributes_t`: 48 bytes.
#[repr(C)]
struct EventAttributes {
    version: u16,
    bytes: u16,
    category: u32,
    color_type: i32,
    color: u32,
    payload_type: i32,
    reserved: i32,
    payload: u64,
    message_type: i32,
    message: *const c_void,
}

const _: () = assert!(size_of::<EventAttributes>() == 48 || size_of::<usize>() != 8);

unsafe extern "C" fn get_export_table(table: u32) -> *const c_void {
    static CALLBACK_TABLE: Callbacks =
        Callbacks { bytes: size_of::<Callbacks>(), get_module_function_table: module_function_table };
    static VERSION_TABLE: VersionInfo = VersionInfo {
        bytes: size_of::<VersionInfo>(),
        version: VERSION as u32,
        reserved: 0,
        set_injection_version: ignore_injection_version,
    };
    match table {
        CALLBACKS => std::ptr::from_ref(&CALLBACK_TABLE).cast(),
        VERSION_INFO => std::ptr::from_ref(&VERSION_TABLE).cast(),
        _ => std::ptr::null(),
    }
}

/// # Safety
/// Each pointer is null or can be written.
unsafe extern "C" fn module_function_table(
    module: c_int,
    table: *mut *const *mut *mut c_void,
    entries: *mut c_uint,
) -> c_int {
    let Some(module) = usize::try_from(module).ok().filter(|&module| module != 0).and_then(|at| modules().get(at))
    else {
        return 0;
    };
    if !entries.is_null() {
        // SAFETY: not null, and the caller promises that it can be written.
        unsafe { *entries = module.functions.len() as c_uint };
    }
    if !table.is_null() {
        // SAFETY: as above.
        unsafe { *table = module.addresses.as_ptr() };
    }
    1
}

unsafe extern "C" fn ignore_injection_version(_: u32) {}

/// What the profiler calls the domain.
#[derive(Clone, Copy, Debug)]
struct Domain(*mut c_void);

// SAFETY: a handle that the profiler gives out for all threads; nothing here reads through it.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

/// A name that the profiler knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct StringHandle(*mut c_void);

// SAFETY: a handle that the profiler gives out for all threads; nothing here reads through it.
unsafe impl Send for StringHandle {}
// SAFETY: as above.
unsafe impl Sync for StringHandle {}

/// What a range is called.
#[derive(Clone, Copy)]
pub(super) enum Message<'a> {
    Text(&'a CStr),
    Registered(StringHandle),
}

/// A profiler. It may write its functions when it is loaded, later, and take them back again, so that each is looked up when it is called.
#[derive(Debug)]
pub(super) struct Listener {
    core: &'static Module,
    cuda: &'static Module,
    domain: OnceLock<Domain>,
}

impl Listener {
    /// Whether it wants to hear of ranges now.
    #[inline]
    fn hears(&self) -> bool {
        self.core.function(RANGE_PUSH).is_some()
    }

    /// The domain, which the first range makes. Null is the one that every program has.
    fn domain(&self) -> *mut c_void {
        let make = || {
            let Some(create) = self.core.function(CREATE_DOMAIN) else { return Domain(null_mut()) };
            // SAFETY: what the profiler writes into an entry is the function of that entry, whose type is this one (nvtxTypes.h); the name
            // ends in a zero byte.
            Domain(unsafe { std::mem::transmute::<*mut c_void, CreateDomain>(create)(DOMAIN.as_ptr()) })
        };
        self.domain.get_or_init(make).0
    }

    pub(super) fn push(&self, message: Message<'_>) {
        let Some(push) = self.core.function(RANGE_PUSH) else { return };
        let (message_type, message) = match message {
            Message::Text(text) => (ASCII, text.as_ptr().cast()),
            Message::Registered(StringHandle(handle)) => (REGISTERED, handle.cast_const()),
        };
        let attributes = EventAttributes {
            version: VERSION,
            bytes: size_of::<EventAttributes>() as u16,
            category: 0,
            color_type: 0,
            color: 0,
            payload_type: 0,
            reserved: 0,
            payload: 0,
            message_type,
            message,
        };
        // SAFETY: the type is that of the entry; the domain is the profiler's, and attributes and text live until the call returns.
        unsafe { std::mem::transmute::<*mut c_void, PushRange>(push)(self.domain(), &attributes) };
    }

    pub(super) fn pop(&self) {
        if let Some(pop) = self.core.function(RANGE_POP) {
            // SAFETY: the type is that of the entry, and the domain is the profiler's.
            unsafe { std::mem::transmute::<*mut c_void, PopRange>(pop)(self.domain()) };
        }
    }

    pub(super) fn register(&self, text: &CStr) -> Option<StringHandle> {
        let register = self.core.function(REGISTER_STRING)?;
        // SAFETY: the type is that of the entry; the domain is the profiler's, and the text ends in a zero byte.
        let handle =
            unsafe { std::mem::transmute::<*mut c_void, RegisterString>(register)(self.domain(), text.as_ptr()) };
        (!handle.is_null()).then_some(StringHandle(handle))
    }

    pub(super) fn name_stream(&self, stream: CUstream, name: &CStr) {
        if let Some(name_stream) = self.cuda.function(NAME_STREAM) {
            // SAFETY: the type is that of the entry; the handle is live, and the name ends in a zero byte.
            unsafe { std::mem::transmute::<*mut c_void, NameStream>(name_stream)(stream, name.as_ptr()) };
        }
    }
}

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// Who was loaded, whether it wants to hear of ranges or not.
pub(super) fn loaded() -> Option<&'static Listener> {
    LISTENER.get()
}

/// Who listens.
#[inline]
pub(super) fn listener() -> Option<&'static Listener> {
    LISTENER.get().filter(|listener| listener.hears())
}

/// Loads the profiler's library at `path`, the value of the environment variable `NVTX_INJECTION64_PATH`, and lets it hear of every range from
/// now on. It stays loaded until the process ends. Where one listens already, nothing happens. A library that wants no ranges is no error.
///
/// # Errors
/// A path that is no such library. Ranges are nothing then, as if nobody had asked.
pub fn listen(path: &Path) -> Result<(), ListenError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if LISTENER.get().is_some() {
        return Ok(());
    }
    // SAFETY: loading runs the library's initialisers; it is the one that the caller names.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| {
        // The loader's own words lie behind the error.
        let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        ListenError::Load { path: path.to_owned(), reason }
    })?;
    let begun = {
        // SAFETY: the type is that of this function in NVTX 3 (nvtxTypes.h).
        let initialize = unsafe { library.get::<InitializeInjection>(b"InitializeInjectionNvtx2\0") }
            .map_err(|_| ListenError::NoEntry { path: path.to_owned() })?;
        // SAFETY: the argument is the function that the profiler expects, and what it answers lasts as long as the process.
        unsafe { initialize(get_export_table) != 0 }
    };
    if !begun {
        return Err(ListenError::Refused { path: path.to_owned() });
    }
    // Its functions are called until the process ends.
    std::mem::forget(library);
    let [cuda, core] = [CUDA, CORE2].map(|module| &modules()[module]);
    // The lock is held: nobody else sets it.
    let _ = LISTENER.set(Listener { core, cuda, domain: OnceLock::new() });
    Ok(())
}
