//! Which part of a run a profiler collects.

use gridpoint_driver as driver;

use crate::RuntimeError;

/// A part of a run that is of interest: a profiler that was told to wait for it (`nsys profile --capture-range=cudaProfilerApi`,
/// `ncu --profile-from-start off`) collects while it lasts, of the context that is current (CUDA driver API, "Profiler Control"). Without a
/// profiler it is nothing. Dropping it ends it.
#[derive(Debug)]
#[must_use = "a collection ends where it is dropped"]
pub struct Collection(());

impl Collection {
    /// Begins one. The driver does not count: a second one beside it would end with it.
    ///
    /// # Errors
    /// The driver's error.
    pub fn start() -> Result<Self, RuntimeError> {
        // SAFETY: takes nothing.
        driver::check("cuProfilerStart", unsafe { (driver::table().cuProfilerStart)() })?;
        Ok(Self(()))
    }

    /// Ends it. What was enqueued in it should be over.
    ///
    /// # Errors
    /// The driver's error.
    pub fn stop(self) -> Result<(), RuntimeError> {
        std::mem::forget(self);
        Ok(stop()?)
    }
}

fn stop() -> Result<(), driver::Error> {
    // SAFETY: takes nothing.
    driver::check("cuProfilerStop", unsafe { (driver::table().cuProfilerStop)() })
}

impl Drop for Collection {
    fn drop(&mut self) {
        // A destructor has no caller to tell.
        if let Err(error) = stop() {
            tracing::warn!("{error}");
        }
    }
}
