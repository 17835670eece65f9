//! Named ranges for whoever profiles: NVTX push and pop ranges in the domain `gridpoint`, read by Nsight Systems and Nsight Compute.
//!
//! A profiler listens by a library of its own (NVTX 3: the environment variable `NVTX_INJECTION64_PATH` names it). [`listen`] loads it;
//! this crate reads no environment, so the program hands the path over, once, before the first range. Nothing of NVIDIA's has to be
//! installed, and where nobody listens a range costs one load and one branch: no name is formatted and nothing is allocated.
//!
//! ```
//! use gridpoint_runtime::ranges::{Range, RangeName};
//!
//! static PACK: RangeName = RangeName::new(c"pack");
//!
//! let step = Range::formatted(format_args!("step {}", 7));
//! let pack = PACK.enter();
//! drop(pack);
//! drop(step);
//! ```

mod injection;
mod text;

use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::OnceLock;

pub use injection::{ListenError, listen};

use crate::Stream;
use injection::{Listener, Message, StringHandle};
use text::Text;

/// Whether a profiler listens. Names that cost something to make are made only then.
#[must_use]
pub fn enabled() -> bool {
    injection::listener().is_some()
}

/// Names a stream, so that a profiler shows the name beside its work.
pub fn name_stream(stream: &Stream, name: &CStr) {
    if let Some(listener) = injection::loaded() {
        listener.name_stream(stream.raw(), name);
    }
}

/// The name of ranges that come again and again: registered with the profiler once, passed as a handle from then on.
#[derive(Debug)]
pub struct RangeName {
    text: &'static CStr,
    registered: OnceLock<StringHandle>,
}

impl RangeName {
    /// A name.
    pub const fn new(text: &'static CStr) -> Self {
        Self { text, registered: OnceLock::new() }
    }

    /// Opens a range of this name.
    pub fn enter(&'static self) -> Range {
        Range::open(|listener| match self.registered.get().copied().or_else(|| self.register(listener)) {
            Some(handle) => listener.push(Message::Registered(handle)),
            None => listener.push(Message::Text(self.text)),
        })
    }

    #[cold]
    fn register(&self, listener: &Listener) -> Option<StringHandle> {
        let handle = listener.register(self.text)?;
        // Another thread may have been first: both handles are the name's.
        Some(*self.registered.get_or_init(|| handle))
    }
}

/// An open range of this thread; dropping it closes it, also on the way out of an error. Ranges of a thread nest: the one opened last is to be
/// dropped first, which scopes do by themselves.
#[derive(Debug)]
#[must_use = "a range ends where its guard is dropped"]
pub struct Range {
    /// Who was told of its beginning.
    listener: Option<&'static Listener>,
    /// The profiler keeps a stack of ranges for each thread.
    of_this_thread: PhantomData<*const ()>,
}

impl Range {
    /// Opens a range whose name differs from time to time. It is formatted only if somebody listens, on the stack; more than 255 bytes are cut
    /// off.
    pub fn formatted(name: std::fmt::Arguments<'_>) -> Self {
        Self::open(|listener| listener.push(Message::Text(Text::new(name).as_c_str())))
    }

    fn open(push: impl FnOnce(&'static Listener)) -> Self {
        let listener = injection::listener();
        if let Some(listener) = listener {
            push(listener);
        }
        Self { listener, of_this_thread: PhantomData }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some(listener) = self.listener {
            listener.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// It must not be asked.
    struct Never;

    impl std::fmt::Display for Never {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("a name is formatted and nobody listens");
        }
    }

    /// No test of this program listens.
    #[test]
    fn nobody_listens_and_nothing_is_formatted_or_registered() {
        static NAME: RangeName = RangeName::new(c"never");
        assert!(!enabled());
        drop((Range::formatted(format_args!("{Never}")), NAME.enter()));
        assert!(NAME.registered.get().is_none());
    }

    #[test]
    fn what_is_no_library_of_a_profiler_is_named() {
        let error = listen(Path::new("/nowhere/libprofiler.so")).expect_err("it does not exist");
        assert!(
            matches!(&error, ListenError::Load { .. }) && error.to_string().contains("`/nowhere/libprofiler.so`"),
            "{error}"
        );
        if cfg!(all(target_os = "linux", target_env = "gnu")) {
            let error = listen(Path::new("libc.so.6")).expect_err("it is another library");
            assert!(matches!(error, ListenError::NoEntry { .. }), "{error}");
        }
        assert!(!enabled());
    }
}
