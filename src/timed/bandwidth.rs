//! Plain traffic: the device's ceilings, the bytes of another kernel without its arithmetic, and what empties the second cache.

use std::sync::Arc;

use gridpoint_runtime::parameters::{BandwidthParameters, FillParameters};
use gridpoint_runtime::{Arena, ArenaLayout, Device, Kernel, Launch, Region, RuntimeError, Stream};

/// Bytes of a vector.
const VECTOR: u64 = 16;
/// Bytes of each buffer, and of the second cache as it is reckoned with, on a GPU and on the simulated device, which has no cache.
const BUFFER_BYTES: u64 = 2 << 30;
const SIMULATED_BUFFER_BYTES: u64 = 1 << 18;
const SIMULATED_CACHE_BYTES: u64 = 16 << 10;
/// Different places of the source that launches of one size walk through.
const MOST_PLACES: u64 = 16;

/// Two buffers and the kernel that moves bytes between them.
pub(crate) struct Bandwidth {
    kernel: Kernel<BandwidthParameters>,
    arena: Arc<Arena>,
    source: Region<[u32; 4]>,
    target: Region<[u32; 4]>,
    sums: Region<u32>,
    multiprocessors: u32,
    resident: u32,
    /// Bytes of the second cache.
    pub(crate) cache_bytes: u64,
}

impl Bandwidth {
    pub(crate) fn new(device: &Arc<Device>, simulated: bool) -> Result<Self, RuntimeError> {
        let properties = device.properties();
        let kernel = device.kernel::<BandwidthParameters>("bandwidth_move", 0)?;
        let resident = kernel.blocks_per_multiprocessor()?;
        let (bytes, cache_bytes) = match simulated {
            true => (SIMULATED_BUFFER_BYTES, SIMULATED_CACHE_BYTES),
            false => (BUFFER_BYTES, properties.l2_bytes),
        };
        let warps =
            u64::from(resident) * u64::from(properties.multiprocessors) * u64::from(kernel.threads()).div_ceil(32);
        let mut layout = ArenaLayout::new();
        let source: Region<[u32; 4]> = layout.reserve("bandwidth", bytes / VECTOR)?;
        let target = layout.reserve("bandwidth", bytes / VECTOR)?;
        let sums = layout.reserve("bandwidth", warps)?;
        let arena = Arc::new(Arena::new(device, "the buffers that bandwidth is measured with", &layout)?);
        let fill = device.kernel::<FillParameters>("fill_random", 0)?;
        let stream = Stream::new(device)?;
        // Numbers, since a device's power follows the bits that it moves.
        let parameters = FillParameters {
            target: arena.pointer(source).cast(),
            count: bytes / 2,
            seed: 0,
            half_width: 1.0,
            offset: 0.0,
            tensor: u32::MAX,
            reserved: 0,
        };
        stream.launch(&fill.launch(properties.multiprocessors * fill.blocks_per_multiprocessor()?, &parameters))?;
        stream.synchronize()?;
        let multiprocessors = properties.multiprocessors;
        Ok(Self { kernel, arena, source, target, sums, multiprocessors, resident, cache_bytes })
    }

    /// What launches address.
    pub(crate) fn memory(&self) -> Arc<Arena> {
        Arc::clone(&self.arena)
    }

    /// Bytes of the largest read.
    pub(crate) fn bytes(&self) -> u64 {
        self.source.bytes()
    }

    /// Blocks a multiprocessor that are worth trying.
    pub(crate) fn grids(&self) -> Vec<u32> {
        let mut grids: Vec<u32> = [1, 2, 4, self.resident].into_iter().filter(|&grid| grid <= self.resident).collect();
        grids.dedup();
        grids
    }

    /// A launch that reads and writes so many bytes, rounded up to vectors and bounded by the buffers, at place `place` of the source, with
    /// `grid` blocks a multiprocessor, or, for less work, one vector a thread.
    pub(crate) fn launch(&self, read: u64, written: u64, place: u64, grid: u32) -> Launch {
        let vectors = |bytes: u64| bytes.div_ceil(VECTOR).min(self.source.count());
        let (read_vectors, write_vectors) = (vectors(read), vectors(written));
        let first = place * read_vectors % (self.source.count() - read_vectors + 1).max(1);
        let full = u64::from(grid.min(self.resident)) * u64::from(self.multiprocessors);
        let needed = read_vectors.max(write_vectors).div_ceil(u64::from(self.kernel.threads()).max(1));
        let blocks = u32::try_from(needed.clamp(1, full.max(1))).unwrap_or(u32::MAX);
        let source = self.arena.pointer(self.source).cast::<u32>();
        self.kernel.launch(
            blocks,
            &BandwidthParameters {
                source: source.wrapping_add(usize::try_from(first * (VECTOR / 4)).unwrap_or(0)),
                target: self.arena.pointer(self.target).cast(),
                sums: self.arena.pointer(self.sums),
                read_vectors,
                write_vectors,
            },
        )
    }

    /// Launches of [`Self::launch`] at different places, with the factor by which their bytes fall short of those asked for.
    pub(crate) fn like(&self, read: u64, written: u64) -> (Vec<Launch>, f64) {
        let places = (self.bytes() / read.max(1)).clamp(1, MOST_PLACES);
        let launches = (0..places).map(|place| self.launch(read, written, place, self.resident)).collect();
        let moved = read.min(self.bytes()) + written.min(self.bytes());
        (launches, (read + written) as f64 / moved.max(1) as f64)
    }

    /// Reads four times the second cache. Nothing is written: what is timed next would pay for the lines' way back to memory.
    pub(crate) fn flush(&self, stream: &Stream) -> Result<(), RuntimeError> {
        stream.launch(&self.launch(4 * self.cache_bytes, 0, 0, self.resident))
    }
}
