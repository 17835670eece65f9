//! The two ways to shared memory (PTX ISA 8.3, "Proxies"): ordinary instructions use the generic proxy; bulk copies and wgmma use the
//! asynchronous one. A generic write is visible to the asynchronous proxy after `fence.proxy.async` (9.7.13.4): by the thread that
//! wrote, or by a thread that met the writer at a barrier after the write.
//!
//! Generic writes are kept a word of four bytes at a time: who wrote it last, and when on the block's own clock.

/// The last generic write of a word.
#[derive(Clone, Copy, Default)]
struct Mark {
    clock: u64,
    thread: u32,
    /// The block run that the mark belongs to; marks of earlier runs count for nothing.
    run: u32,
}

/// Bytes of a word.
const WORD: u32 = 4;

/// What the block knows of generic writes and of fences.
#[derive(Default)]
pub(crate) struct Proxy {
    marks: Vec<Mark>,
    run: u32,
    clock: u64,
    last_write: u64,
    /// Writes before this are visible, whoever made them.
    visible: u64,
    /// By thread: its own writes before this are visible.
    fences: Vec<u64>,
    /// By thread: as `fences`, for mbarrier initialisations alone.
    initialisation_fences: Vec<u64>,
    /// By warp: when it last met others.
    met: Vec<u64>,
}

impl Proxy {
    /// Starts a block of `threads` threads with `bytes` bytes of shared memory.
    pub(crate) fn begin(&mut self, threads: u32, bytes: u32) {
        self.run = self.run.wrapping_add(1);
        if self.run == 0 {
            self.marks.clear();
            self.run = 1;
        }
        let words = bytes.div_ceil(WORD) as usize;
        if self.marks.len() < words {
            self.marks.resize(words, Mark::default());
        }
        self.clock = 1;
        self.last_write = 0;
        self.visible = 0;
        for fences in [&mut self.fences, &mut self.initialisation_fences] {
            fences.clear();
            fences.resize(threads as usize, 0);
        }
        self.met.clear();
        self.met.resize(threads.div_ceil(super::thread::WARP_THREADS) as usize, 0);
    }

    /// Now, on the block's clock.
    pub(crate) fn now(&self) -> u64 {
        self.clock
    }

    /// `thread` writes `bytes` bytes at `offset` of the window through the generic proxy.
    pub(crate) fn write(&mut self, thread: u32, offset: u32, bytes: u32) {
        self.last_write = self.clock;
        let mark = Mark { clock: self.clock, thread, run: self.run };
        let (first, last) = ((offset / WORD) as usize, offset.saturating_add(bytes).div_ceil(WORD) as usize);
        let last = last.min(self.marks.len());
        if let Some(marks) = self.marks.get_mut(first..last) {
            marks.fill(mark);
        }
    }

    /// The warp met others: what they wrote before is ordered before what it does next.
    #[inline(always)]
    pub(crate) fn meet(&mut self, warp: u32) {
        self.clock += 1;
        if let Some(met) = self.met.get_mut(warp as usize) {
            *met = self.clock;
        }
    }

    /// `fence.proxy.async` by `thread`.
    pub(crate) fn fence(&mut self, thread: u32) {
        self.clock += 1;
        self.fences[thread as usize] = self.clock;
        self.visible = self.visible.max(self.met[(thread / super::thread::WARP_THREADS) as usize]);
    }

    /// `fence.mbarrier_init` by `thread`.
    pub(crate) fn fence_initialisation(&mut self, thread: u32) {
        self.clock += 1;
        self.initialisation_fences[thread as usize] = self.clock;
    }

    /// Whether an mbarrier initialised by `thread` at `clock` is visible to asynchronous operations.
    pub(crate) fn initialisation_visible(&self, thread: u32, clock: u64) -> bool {
        clock < self.visible
            || clock < self.fences[thread as usize]
            || clock < self.initialisation_fences[thread as usize]
    }

    /// Whether every generic write is visible: nothing has to be looked at word by word.
    #[inline(always)]
    pub(crate) fn clean(&self) -> bool {
        self.last_write < self.visible || self.last_write == 0
    }

    /// The first generic write among `bytes` bytes at `offset` that no fence made visible: its offset and its thread.
    pub(crate) fn unfenced(&self, offset: u32, bytes: u32) -> Option<(u32, u32)> {
        if self.clean() {
            return None;
        }
        let first = (offset / WORD) as usize;
        let last = (offset.saturating_add(bytes).div_ceil(WORD) as usize).min(self.marks.len());
        let marks = self.marks.get(first..last)?;
        let hidden = |mark: &Mark| {
            mark.run == self.run && mark.clock >= self.visible && mark.clock >= self.fences[mark.thread as usize]
        };
        let place = marks.iter().position(hidden)?;
        Some(((first + place) as u32 * WORD, marks[place].thread))
    }

    /// An asynchronous operation writes `bytes` bytes at `offset`: what was written there before is gone.
    pub(crate) fn overwrite(&mut self, offset: u32, bytes: u32) {
        if self.last_write == 0 {
            return;
        }
        let last = (offset.saturating_add(bytes).div_ceil(WORD) as usize).min(self.marks.len());
        if let Some(marks) = self.marks.get_mut((offset / WORD) as usize..last) {
            marks.fill(Mark::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy() -> Proxy {
        let mut proxy = Proxy::default();
        proxy.begin(64, 1024);
        proxy
    }

    #[test]
    fn the_writer_or_whoever_met_it_fences() {
        let mut own = proxy();
        own.write(3, 16, 16);
        assert_eq!(own.unfenced(0, 64), Some((16, 3)));
        assert_eq!(own.unfenced(32, 64), None);
        own.fence(4);
        assert_eq!(own.unfenced(0, 64), Some((16, 3)), "thread 4 never met thread 3");
        own.fence(3);
        assert_eq!(own.unfenced(0, 64), None);

        let mut other = proxy();
        other.write(3, 16, 16);
        other.meet(1);
        other.fence(40);
        assert_eq!(other.unfenced(0, 64), None);
        other.write(3, 16, 2);
        other.fence(40);
        assert_eq!(other.unfenced(0, 64), Some((16, 3)), "written after they met");
    }

    #[test]
    fn marks_end_with_their_block() {
        let mut proxy = proxy();
        proxy.write(1, 0, 1024);
        proxy.begin(64, 1024);
        assert_eq!(proxy.unfenced(0, 1024), None);
        proxy.write(1, 8, 4);
        proxy.overwrite(8, 4);
        assert_eq!(proxy.unfenced(0, 1024), None);
    }
}
