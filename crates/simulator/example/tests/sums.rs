//! The kernels of `kernels/sums.cu` are right under every detector and schedule, and what is wrong with their variants is found.
//!
//! `GRIDPOINT_SIM_SEED=N` runs under seed N alone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cust::launch;
use cust::memory::{CopyDestination, DeviceBuffer};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use gridpoint_simulator::fault::{Access, Fault, Nearby, Reason, Space};
use gridpoint_simulator::machine::{Guard, LaunchDescription, Residency, Schedule, run};
use gridpoint_simulator::module::{HostModule, Parameter};
use gridpoint_simulator::{Detectors, Options, Range, Snapshot, image, install, last_fault, reseed, reset};

// What `GRIDPOINT_EXPORT` defined, in each build.
unsafe extern "C" {
    #[link_name = "gridpoint_module_sums"]
    safe static SUMS: HostModule;
    #[link_name = "gridpoint_module_sums_missing_barrier"]
    safe static MISSING_BARRIER: HostModule;
    #[link_name = "gridpoint_module_sums_out_of_bounds"]
    safe static OUT_OF_BOUNDS: HostModule;
    #[link_name = "gridpoint_module_sums_beyond_shared"]
    safe static BEYOND_SHARED: HostModule;
    #[link_name = "gridpoint_module_sums_uninitialised_read"]
    safe static UNINITIALISED_READ: HostModule;
    #[link_name = "gridpoint_module_sums_missing_lane"]
    safe static MISSING_LANE: HostModule;
}

type Answer<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A process has one device: tests take turns.
struct Device {
    stream: Stream,
    _context: cust::context::Context,
    _turn: MutexGuard<'static, ()>,
}

impl Device {
    fn take() -> Answer<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let modules = [&SUMS, &MISSING_BARRIER, &OUT_OF_BOUNDS, &BEYOND_SHARED, &UNINITIALISED_READ, &MISSING_LANE];
        // Every test after the first finds the device installed.
        let _ = install(Options { detectors: Detectors::all(), ..Options::default() }, &modules);
        reset();
        let context = cust::quick_init()?;
        Ok(Self { stream: Stream::new(StreamFlags::NON_BLOCKING, None)?, _context: context, _turn: turn })
    }

    /// Waits for what was launched: the report, if a detector ended it.
    fn report(&self) -> Option<Box<Fault>> {
        let failed = self.stream.synchronize().is_err();
        reset();
        if failed { last_fault().map(Box::new) } else { None }
    }

    fn sum(&self, module: &str, values: &[f32], blocks: u32) -> Answer<Result<(f32, u64), Box<Fault>>> {
        let (module, stream) = (Module::from_fatbin(image(module), &[])?, &self.stream);
        let sum = module.get_function("sum")?;
        let input = DeviceBuffer::from_slice(values)?;
        let (total, positive) = (DeviceBuffer::from_slice(&[0.0_f32])?, DeviceBuffer::from_slice(&[0_u64])?);
        // SAFETY: the kernel takes these four parameters and reads as many values as there are.
        unsafe {
            launch!(sum<<<blocks, 64, 0, stream>>>(
                input.as_device_ptr(),
                values.len() as i32,
                total.as_device_ptr(),
                positive.as_device_ptr()
            ))?;
        }
        if let Some(fault) = self.report() {
            return Ok(Err(fault));
        }
        let (mut sums, mut counts) = ([0.0], [0]);
        total.copy_to(&mut sums)?;
        positive.copy_to(&mut counts)?;
        Ok(Ok((sums[0], counts[0])))
    }

    fn transpose(&self, module: &str, input: &[f32], width: u32, height: u32) -> Answer<Result<Vec<f32>, Box<Fault>>> {
        let (module, stream) = (Module::from_fatbin(image(module), &[])?, &self.stream);
        let transpose = module.get_function("transpose")?;
        let from = DeviceBuffer::from_slice(input)?;
        // SAFETY: the kernel writes every element before it is read.
        let to = unsafe { DeviceBuffer::<f32>::uninitialized(input.len())? };
        let grid = (width.div_ceil(32), height.div_ceil(32));
        // SAFETY: the kernel takes these four parameters, and both matrices have width * height elements.
        unsafe {
            launch!(transpose<<<grid, (32, 8), 0, stream>>>(
                to.as_device_ptr(),
                from.as_device_ptr(),
                width as i32,
                height as i32
            ))?;
        }
        if let Some(fault) = self.report() {
            return Ok(Err(fault));
        }
        let mut output = vec![0.0; input.len()];
        to.copy_to(&mut output)?;
        Ok(Ok(output))
    }
}

/// No seed, which is round-robin, and a few; or the one that is asked for.
fn seeds() -> Vec<Option<u64>> {
    match std::env::var("GRIDPOINT_SIM_SEED") {
        Ok(seed) => vec![Some(seed.parse().expect("`GRIDPOINT_SIM_SEED` is a number of 64 bits"))],
        Err(_) => vec![None, Some(1), Some(2), Some(3), Some(4)],
    }
}

/// Small whole numbers, so that every order of a sum gives the same bits.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index * 7 % 19) as f32 - 8.0).collect()
}

#[test]
fn kernels_are_right_under_every_schedule() -> Answer {
    let device = Device::take()?;
    let values = values(1000);
    let expected = (values.iter().sum(), values.iter().filter(|&&value| value > 0.0).count() as u64);
    let (width, height) = (70, 45);
    let matrix: Vec<f32> = (0..width * height).map(|index| index as f32).collect();
    let transposed: Vec<f32> = (0..width).flat_map(|x| (0..height).map(move |y| (y * width + x) as f32)).collect();
    for seed in seeds() {
        reseed(seed);
        for blocks in [1, 5] {
            assert_eq!(device.sum("sums", &values, blocks)?, Ok(expected), "{seed:?}");
        }
        assert_eq!(device.transpose("sums", &matrix, width, height)?.as_ref(), Ok(&transposed), "{seed:?}");
    }
    Ok(())
}

#[test]
fn a_template_with_dynamic_shared_memory_and_odd_parameters() -> Answer {
    let device = Device::take()?;
    let (module, stream) = (Module::from_fatbin(image("sums"), &[])?, &device.stream);
    let histogram = module.get_function("histogram<16>")?;
    let bytes: Vec<u8> = (0..200).collect();
    let (input, bins) = (DeviceBuffer::from_slice(&bytes)?, DeviceBuffer::from_slice(&[0_u32; 16])?);
    // SAFETY: the kernel takes these parameters, the last of them a float4, and reads every second byte.
    unsafe {
        launch!(histogram<<<1, 96, 64, stream>>>(
            input.as_device_ptr(),
            2_i8,
            100_i32,
            bins.as_device_ptr(),
            [0.0_f32, 0.0, 0.0, 0.5]
        ))?;
    }
    assert_eq!(device.report(), None);
    let mut counts = [0; 16];
    bins.copy_to(&mut counts)?;
    // 0, 1, ..., 99 in 16 bins.
    let expected: Vec<u32> = (0..16).map(|bin| if bin < 4 { 7 } else { 6 }).collect();
    assert_eq!(counts[..], expected);
    Ok(())
}

#[test]
fn an_out_of_bounds_store_is_found() -> Answer {
    let device = Device::take()?;
    let matrix: Vec<f32> = (0..40 * 40).map(|index| index as f32).collect();
    for seed in seeds() {
        reseed(seed);
        let fault = device.transpose("sums_out_of_bounds", &matrix, 40, 40)?.expect_err("it writes too far");
        assert_eq!(fault.kernel, "transpose");
        let Reason::OutOfBounds { space: Space::Global, access: Access::Write, bytes: 4, nearby, .. } = fault.reason
        else {
            panic!("{fault}")
        };
        let Nearby::Live { offset, bytes: 6400 } = nearby else { panic!("{fault}") };
        assert!(offset >= 6400, "{fault}");
        // One of the four elements that this thread of this block writes, with rows of 41 floats.
        let ([block_x, block_y, _], [thread_x, thread_y, _]) = (fault.block, fault.thread);
        let (x, y) = (block_y * 32 + thread_x, block_x * 32 + thread_y);
        assert!((0..4).any(|row| offset == i64::from(((y + row * 8) * 41 + x) * 4)), "{fault}");
    }
    Ok(())
}

/// Behind the 32 sums lies another variable, with a gap between them.
#[test]
fn a_store_beyond_a_shared_variable_is_found() -> Answer {
    let device = Device::take()?;
    for seed in seeds() {
        reseed(seed);
        let fault = device.sum("sums_beyond_shared", &values(100), 1)?.expect_err("warp 1 writes element 32");
        assert_eq!((fault.kernel.as_str(), fault.block, fault.thread), ("sum", [0, 0, 0], [32, 0, 0]), "{fault}");
        let Reason::OutOfBounds { space: Space::Shared, access: Access::Write, bytes: 4, nearby, .. } = fault.reason
        else {
            panic!("{fault}")
        };
        assert_eq!(nearby, Nearby::Live { offset: 128, bytes: 128 }, "{fault}");
    }
    Ok(())
}

/// Without detectors it is found when the block has ended.
#[test]
fn a_damaged_gap_is_found() -> Answer {
    let fault = run_sum(&BEYOND_SHARED, Schedule::RoundRobin, Detectors::NONE)?.expect_err("warp 1 writes element 32");
    assert!(matches!(fault.reason, Reason::RedZone { bytes: 128, .. }), "{fault}");
    assert_eq!(run_sum(&SUMS, Schedule::RoundRobin, Detectors::NONE)?, Ok(()));
    Ok(())
}

#[test]
fn a_read_of_what_nothing_wrote_is_found() -> Answer {
    let device = Device::take()?;
    for seed in seeds() {
        reseed(seed);
        let fault = device.sum("sums_uninitialised_read", &values(100), 1)?.expect_err("it reads 32 of 2 sums");
        assert_eq!((fault.kernel.as_str(), fault.block), ("sum", [0, 0, 0]));
        assert!(fault.thread[0] % 32 >= 2, "{fault}");
        assert!(matches!(fault.reason, Reason::Uninitialised { space: Space::Shared, bytes: 4, .. }), "{fault}");
    }
    Ok(())
}

#[test]
fn a_lane_that_has_left_is_found() -> Answer {
    let device = Device::take()?;
    for seed in seeds() {
        reseed(seed);
        // The second block's first warp has 4 values.
        let fault = device.sum("sums_missing_lane", &values(68), 2)?.expect_err("lanes 4 to 31 have left");
        assert_eq!((fault.kernel.as_str(), fault.block), ("sum", [1, 0, 0]), "{fault}");
        assert!(fault.thread[0] < 4, "{fault}");
        let Reason::MissingLanes { operation, lanes } = &fault.reason else { panic!("{fault}") };
        assert_eq!(operation, "shfl.sync.down");
        assert!(*lanes != 0 && lanes & 0xf == 0, "{fault}");
    }
    Ok(())
}

/// The parameters of `sum`, packed as CUDA packs them, which is as C does.
#[repr(C)]
struct Sum {
    values: *const f32,
    count: i32,
    total: *mut f32,
    positive: *mut u64,
}

/// Without a driver: one launch on the machine, in memory of this process.
fn run_sum(module: &HostModule, schedule: Schedule, detectors: Detectors) -> Answer<Result<(), Box<Fault>>> {
    let (values, mut total, mut positive) = (values(100), [0.0_f32], [0_u64]);
    let parameters =
        Sum { values: values.as_ptr(), count: 100, total: total.as_mut_ptr(), positive: positive.as_mut_ptr() };
    let live = vec![
        Range { start: values.as_ptr().addr(), bytes: 400 },
        Range { start: total.as_ptr().addr(), bytes: 4 },
        Range { start: positive.as_ptr().addr(), bytes: 8 },
    ];
    let kernel = module.kernel("sum").ok_or("there is no kernel `sum`")?;
    let launch = LaunchDescription {
        kernel,
        grid: [1; 3],
        block: [64, 1, 1],
        cluster: [1; 3],
        shared_bytes: 0,
        // SAFETY: the struct lives, and its bytes are read as the kernel's parameters alone; padding is never looked at.
        parameters: unsafe { std::slice::from_raw_parts((&raw const parameters).cast(), size_of::<Sum>()) },
        memory: Arc::new(Snapshot::new(live)),
        schedule,
        residency: Residency::default(),
        detectors,
        guard: Guard::default(),
        counters: None,
    };
    Ok(run(&launch))
}

/// Reads of what nothing wrote are not reported here, so that the missing barrier is seen as the race that it is.
#[test]
fn a_missing_barrier_is_found() -> Answer {
    for seed in seeds() {
        let schedule = seed.map_or(Schedule::RoundRobin, Schedule::Seeded);
        let detectors = Detectors::all().without_uninitialised();
        let fault = run_sum(&MISSING_BARRIER, schedule, detectors)?.expect_err("nothing orders the sums of warps");
        assert_eq!((fault.kernel.as_str(), fault.block, fault.seed), ("sum", [0, 0, 0], seed));
        let Reason::Race { space: Space::Shared, access, bytes: 4, other, .. } = fault.reason else {
            panic!("{fault}")
        };
        // The first lane of a warp writes what all the others read.
        match access {
            Access::Read => assert_eq!((other.thread[0] % 32, other.access), (0, Access::Write), "{fault}"),
            _ => assert_eq!((fault.thread[0] % 32, other.access), (0, Access::Read), "{fault}"),
        }
        assert_ne!(fault.thread, other.thread, "{fault}");
    }
    Ok(())
}

#[test]
fn parameters_lie_where_cuda_puts_them() {
    let at = |kernel: &str| -> Vec<(u32, u32)> {
        let kernel = SUMS.kernel(kernel).unwrap_or_else(|| panic!("there is no `{kernel}`"));
        kernel.parameters().map(|Parameter { offset, bytes }| (offset, bytes)).collect()
    };
    assert_eq!(at("sum"), [(0, 8), (8, 4), (16, 8), (24, 8)]);
    assert_eq!(at("transpose"), [(0, 8), (8, 8), (16, 4), (20, 4)]);
    assert_eq!(at("histogram<16>"), [(0, 8), (8, 1), (12, 4), (16, 8), (32, 16)]);
}

/// A tile of 32 x 33 floats and two rows of 32 partial sums.
#[test]
fn static_shared_memory_is_the_modules() {
    let kernel = SUMS.kernel("sum").expect("there is a kernel");
    assert_eq!(kernel.static_shared_bytes(), (32 * 33 + 32 + 32) * 4);
}
