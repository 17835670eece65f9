//! cust, unmodified, on the simulated device.

use cust::context::{Context, ContextFlags, CurrentContext};
use cust::device::{Device, DeviceAttribute};
use cust::error::CudaError;
use cust::event::{Event, EventFlags, EventStatus};
use cust::launch;
use cust::memory::{AsyncCopyDestination, CopyDestination, DeviceBuffer, LockedBuffer, UnifiedBuffer};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags, StreamWaitEventFlags};
use gridpoint_driver::{CUcontext, CUresult, cuCtxGetCurrent, cuInit};
use gridpoint_simulator::{Options, image, install};

mod driver_support;
use driver_support::{MODULE, Parameters, step};

// SAFETY: plain numbers.
unsafe impl cust::memory::DeviceCopy for Parameters {}

/// One test, since it starts before `cuInit`.
#[test]
fn cust_works() -> Result<(), Box<dyn std::error::Error>> {
    assert!(gridpoint_simulator::last_fault().is_none());
    install(Options { memory_bytes: 1 << 20, multiprocessors: 3, ..Options::default() }, &[&MODULE])?;
    assert!(install(Options::default(), &[]).is_err());
    let mut current = CUcontext::null();
    // SAFETY: the pointer is that of a live handle.
    assert_eq!(unsafe { cuCtxGetCurrent(&mut current) }, CUresult::ERROR_NOT_INITIALIZED);
    // SAFETY: takes a plain number.
    assert_eq!(unsafe { cuInit(1) }, CUresult::ERROR_INVALID_VALUE);
    assert!(matches!(Device::num_devices(), Err(CudaError::NotInitialized)));

    cust::init(cust::CudaFlags::empty())?;
    assert_eq!(Device::num_devices()?, 1);
    let gpu = Device::get_device(0)?;
    assert_eq!((gpu.name()?, gpu.total_memory()?), ("gridpoint simulated device".to_owned(), 1 << 20));
    assert_eq!(gpu.get_attribute(DeviceAttribute::MultiprocessorCount)?, 3);
    assert!(matches!(DeviceBuffer::<u8>::zeroed(4), Err(CudaError::InvalidContext)));

    let context = Context::new(gpu)?;
    context.set_flags(ContextFlags::SCHED_AUTO)?;
    assert_eq!(context.get_api_version()?.major(), 3);
    CurrentContext::set_current(&context)?;
    let module = Module::from_fatbin(image("driver_test"), &[])?;
    assert!(matches!(Module::from_fatbin([0x50, 0xED, 0x55, 0xBA], &[]), Err(CudaError::NoBinaryForGpu)));
    assert!(matches!(Module::from_fatbin([], &[]), Err(CudaError::InvalidImage)));
    assert!(matches!(module.get_function("none"), Err(CudaError::NotFound)));
    let mix = module.get_function("mix")?;
    assert_eq!(mix.get_attribute(cust::function::FunctionAttribute::MaxThreadsPerBlock)?, 64);

    let (free, total) = cust::memory::mem_get_info()?;
    let stream = Stream::new(StreamFlags::DEFAULT, None)?;
    let mut data = DeviceBuffer::from_slice(&[1_u32, 2, 3])?;
    assert_eq!(cust::memory::mem_get_info()?, (free - 12, total));
    assert!(matches!(DeviceBuffer::<u8>::zeroed(2 << 20), Err(CudaError::OutOfMemory)));

    let (before, after) = (Event::new(EventFlags::DEFAULT)?, Event::new(EventFlags::DEFAULT)?);
    before.record(&stream)?;
    let parameters = Parameters { data: data.as_device_ptr().as_raw(), count: 3, value: 5 };
    // SAFETY: the kernel takes `Parameters`, and the buffer holds three elements.
    unsafe { launch!(mix<<<1, 1, 0, stream>>>(parameters))? };
    after.record(&stream)?;
    assert_eq!(after.query()?, EventStatus::NotReady);
    after.synchronize()?;
    assert_eq!(after.query()?, EventStatus::Ready);
    assert!(after.elapsed_time_f32(&before)? >= 0.0);
    let mut host = [0_u32; 3];
    data.copy_to(&mut host)?;
    assert_eq!(host, [step(1, 5), step(2, 5), step(3, 5)]);

    let mut pinned = LockedBuffer::new(&7_u32, 3)?;
    // SAFETY: the pinned buffer lives until the stream is synchronised, and is overwritten on purpose.
    unsafe { data.async_copy_from(pinned.as_slice(), &stream)? };
    pinned.as_mut_slice()[1] = 8;
    stream.synchronize()?;
    data.copy_to(&mut host)?;
    assert_eq!(host, [7, 8, 7]);

    let other = Stream::new(StreamFlags::DEFAULT, None)?;
    other.wait_event(after, StreamWaitEventFlags::DEFAULT)?;
    let (sender, receiver) = std::sync::mpsc::channel();
    other.add_callback(Box::new(move || sender.send(1).unwrap()))?;
    assert!(receiver.try_recv().is_err());
    other.synchronize()?;
    assert_eq!(receiver.try_recv(), Ok(1));

    let unified = UnifiedBuffer::new(&3_u32, 2)?;
    assert_eq!(unified.as_slice(), [3, 3]);
    CurrentContext::synchronize()?;
    drop((data, pinned, unified));
    assert_eq!(cust::memory::mem_get_info()?, (free, total));
    drop((module, stream, other, before, context));
    assert!(matches!(CurrentContext::synchronize(), Err(CudaError::ContextIsDestroyed)));
    Ok(())
}
