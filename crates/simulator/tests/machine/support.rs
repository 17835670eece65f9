//! Kernels in Rust, and launches of them.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use gridpoint_simulator::counters::Recorder;
use gridpoint_simulator::fault::{Fault, Reason};
use gridpoint_simulator::machine::instructions::{gridpoint_global, gridpoint_shared, gridpoint_thread};
use gridpoint_simulator::machine::{self, Guard, LaunchDescription, Residency, Schedule, ThreadIdentity};
use gridpoint_simulator::module::{Entry, HostKernel};
use gridpoint_simulator::{Detectors, POISON, Range, Snapshot};

/// First shared address of a block.
pub(crate) const SHARED: u32 = 0x400;
/// All lanes.
pub(crate) const FULL: u32 = 0xffff_ffff;

/// The parameters of every test kernel.
#[repr(C)]
pub(crate) struct Parameters {
    /// Words to read.
    pub(crate) input: *const u32,
    /// Words to write.
    pub(crate) output: *mut u32,
    /// Whatever the kernel wants.
    pub(crate) numbers: [u32; 4],
}

/// Words at a multiple of 64 bytes.
pub(crate) struct Words {
    storage: Vec<[u32; 16]>,
    offset: usize,
    length: usize,
}

impl Words {
    /// Copies `words`.
    pub(crate) fn new(words: &[u32]) -> Self {
        let storage = vec![[u32::from_le_bytes([POISON; 4]); 16]; words.len().div_ceil(16) + 2];
        let offset = storage.as_ptr().cast::<u8>().align_offset(64) / 4;
        let mut answer = Self { storage, offset, length: words.len() };
        answer.fill(words);
        answer
    }

    /// Copies `words`, as many as there are, over what is there.
    fn fill(&mut self, words: &[u32]) {
        self.storage.as_flattened_mut()[self.offset..self.offset + self.length].copy_from_slice(words);
    }

    /// The words.
    pub(crate) fn words(&self) -> &[u32] {
        &self.storage.as_flattened()[self.offset..self.offset + self.length]
    }

    /// The first word's address.
    pub(crate) fn pointer(&mut self) -> *mut u32 {
        self.storage.as_flattened_mut()[self.offset..].as_mut_ptr()
    }

    /// The words as an address range.
    pub(crate) fn range(&mut self) -> Range {
        Range { start: self.pointer() as usize, bytes: self.length * 4 }
    }
}

/// A launch of a test kernel.
#[derive(Clone)]
pub(crate) struct Case {
    /// The kernel's name.
    pub(crate) name: &'static CStr,
    /// The kernel.
    pub(crate) entry: Entry,
    /// Blocks.
    pub(crate) grid: [u32; 3],
    /// Threads of a block.
    pub(crate) block: [u32; 3],
    /// Blocks of a cluster.
    pub(crate) cluster: [u32; 3],
    /// Shared memory.
    pub(crate) shared_bytes: u32,
    /// What `Parameters::input` points to.
    pub(crate) input: Vec<u32>,
    /// What `Parameters::output` points to before the launch.
    pub(crate) output: Vec<u32>,
    /// The numbers.
    pub(crate) numbers: [u32; 4],
    /// Where blocks run.
    pub(crate) residency: Residency,
    /// Who watches.
    pub(crate) detectors: Detectors,
    /// What is done about blocks that hang or crash.
    pub(crate) guard: Guard,
    /// Where counts go.
    pub(crate) counters: Option<Recorder>,
}

impl Case {
    /// One block of `threads` threads with 16 KiB of shared memory and one output word a thread.
    pub(crate) fn new(entry: Entry, threads: u32) -> Self {
        Self {
            name: c"test_kernel",
            entry,
            grid: [1, 1, 1],
            block: [threads, 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 16 << 10,
            input: vec![0],
            output: vec![0xdead_beef; threads as usize],
            numbers: [0; 4],
            residency: Residency::default(),
            detectors: Detectors::NONE,
            guard: Guard::default(),
            counters: None,
        }
    }

    /// With this input.
    pub(crate) fn input(self, input: Vec<u32>) -> Self {
        Self { input, ..self }
    }

    /// With so many words of output.
    pub(crate) fn output_words(self, words: usize) -> Self {
        Self { output: vec![0xdead_beef; words], ..self }
    }

    /// With these numbers.
    pub(crate) fn numbers(self, numbers: [u32; 4]) -> Self {
        Self { numbers, ..self }
    }

    /// Under all detectors.
    pub(crate) fn watched(self) -> Self {
        Self { detectors: Detectors::all(), ..self }
    }

    /// Runs it: the output, or the fault.
    pub(crate) fn run(&self, schedule: Schedule) -> Result<Vec<u32>, Fault> {
        self.run_in(schedule, &mut Words::new(&self.input), &mut Words::new(&self.output))
    }

    /// As [`Case::run`], in memory that holds what it should.
    fn run_in(&self, schedule: Schedule, input: &mut Words, output: &mut Words) -> Result<Vec<u32>, Fault> {
        run_chain_in(std::slice::from_ref(self), schedule, input, output)
    }

    /// Runs it under every schedule: the output, the same under all.
    pub(crate) fn run_everywhere(&self) -> Vec<u32> {
        let [first, rest @ ..] = schedules();
        let output = self.run(first).unwrap_or_else(|fault| panic!("{fault}"));
        for schedule in rest {
            let other = self.run(schedule).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(other, output, "{schedule:?}");
        }
        output
    }

    /// Runs it under every schedule to the fault that round-robin gives; `same` compares the others' reasons.
    pub(crate) fn fault(&self) -> Fault {
        // The same memory every time: reports name addresses.
        let (mut input, mut output) = (Words::new(&self.input), Words::new(&self.output));
        let mut run = |schedule| {
            input.fill(&self.input);
            output.fill(&self.output);
            self.run_in(schedule, &mut input, &mut output)
        };
        let fault = run(Schedule::RoundRobin).expect_err("the kernel faults");
        assert_eq!(run(Schedule::RoundRobin).as_ref(), Err(&fault), "round-robin repeats itself");
        for schedule in &schedules()[1..] {
            let other = run(*schedule).expect_err("the kernel faults under every schedule");
            let Schedule::Seeded(seed) = schedule else { continue };
            assert_eq!(other.seed, Some(*seed));
            assert_eq!(run(*schedule), Err(other.clone()), "a seed repeats itself");
            assert_eq!(std::mem::discriminant(&other.reason), std::mem::discriminant(&fault.reason), "{other}");
        }
        assert_eq!((fault.kernel.as_str(), fault.seed), (self.name.to_str().expect("ASCII"), None));
        fault
    }

    /// As [`Case::fault`]: block and thread in x, and the reason.
    pub(crate) fn fault_at(&self) -> (u32, u32, Reason) {
        let fault = self.fault();
        (fault.block[0], fault.thread[0], fault.reason)
    }
}

/// Runs launches each of which depends on the one before it programmatically. All have the first one's input, output and detectors. The
/// output, or the fault.
pub(crate) fn run_chain(cases: &[Case], schedule: Schedule) -> Result<Vec<u32>, Fault> {
    run_chain_in(cases, schedule, &mut Words::new(&cases[0].input), &mut Words::new(&cases[0].output))
}

fn run_chain_in(cases: &[Case], schedule: Schedule, input: &mut Words, output: &mut Words) -> Result<Vec<u32>, Fault> {
    let live = vec![input.range(), output.range()];
    let detectors = cases[0].detectors;
    let memory = Arc::new(match detectors {
        Detectors::NONE => Snapshot::new(live),
        // The output counts as never written.
        _ => Snapshot::tracked(live, &[input.range()]),
    });
    let kernels: Vec<(HostKernel, Parameters)> = cases
        .iter()
        .map(|case| {
            // SAFETY: test kernels take `Parameters` and keep nothing that has to be dropped over an instruction.
            let kernel = unsafe { HostKernel::new(case.name, case.entry, size_of::<Parameters>() as u32, 1024) };
            (kernel, Parameters { input: input.pointer(), output: output.pointer(), numbers: case.numbers })
        })
        .collect();
    let launches: Vec<LaunchDescription<'_>> = cases
        .iter()
        .zip(&kernels)
        .map(|(case, (kernel, parameters))| LaunchDescription {
            kernel,
            grid: case.grid,
            block: case.block,
            cluster: case.cluster,
            shared_bytes: case.shared_bytes,
            // SAFETY: a struct without padding, read as bytes while it lives.
            parameters: unsafe {
                std::slice::from_raw_parts((&raw const *parameters).cast::<u8>(), size_of::<Parameters>())
            },
            memory: memory.clone(),
            schedule,
            residency: case.residency,
            detectors,
            guard: case.guard,
            counters: cases[0].counters.clone(),
        })
        .collect();
    machine::run_chain(&launches).map_err(|fault| *fault)?;
    Ok(output.words().to_vec())
}

/// Round-robin and some seeds.
pub(crate) fn schedules() -> [Schedule; 6] {
    [
        Schedule::RoundRobin,
        Schedule::Seeded(0),
        Schedule::Seeded(1),
        Schedule::Seeded(2),
        Schedule::Seeded(3),
        Schedule::Seeded(!0),
    ]
}

/// The parameters, inside a kernel.
pub(crate) fn parameters<'a>(pointer: *const c_void) -> &'a Parameters {
    // SAFETY: `Case::run` launches kernels with `Parameters` that outlive the launch.
    unsafe { &*pointer.cast() }
}

/// The running thread, inside a kernel.
pub(crate) fn identity<'a>() -> &'a ThreadIdentity {
    // SAFETY: called by kernels.
    unsafe { &*gridpoint_thread() }
}

/// Index of the running thread in a block of one dimension.
pub(crate) fn thread() -> u32 {
    identity().thread[0]
}

/// Writes a checked word of the output.
pub(crate) fn store(parameters: &Parameters, index: u32, value: u32) {
    let pointer = parameters.output.wrapping_add(index as usize);
    // SAFETY: called by kernels; the address is checked first.
    unsafe {
        gridpoint_global(pointer.cast(), 4, 4, 1);
        pointer.write(value);
    }
}

/// Reads a checked word of the input.
pub(crate) fn load(parameters: &Parameters, index: u32) -> u32 {
    let pointer = parameters.input.wrapping_add(index as usize);
    // SAFETY: called by kernels; the address is checked first.
    unsafe {
        gridpoint_global(pointer.cast(), 4, 4, 0);
        pointer.read()
    }
}

/// A checked word of shared memory, by its index.
pub(crate) fn shared_word(index: u32) -> *mut u32 {
    // SAFETY: called by kernels.
    unsafe { gridpoint_shared(SHARED + index * 4, 4, 4).cast() }
}

/// Writes a checked word of shared memory.
pub(crate) fn shared_store(index: u32, value: u32) {
    // SAFETY: the address was checked.
    unsafe { shared_word(index).write(value) }
}

/// Reads a checked word of shared memory.
pub(crate) fn shared_load(index: u32) -> u32 {
    // SAFETY: the address was checked.
    unsafe { shared_word(index).read() }
}

/// Numbers that look random and are always the same.
pub(crate) struct Numbers(pub u64);

impl Numbers {
    /// The next 32 bits.
    pub(crate) fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// `count` words.
    pub(crate) fn words(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.word()).collect()
    }
}
