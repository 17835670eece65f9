//! Asynchronous copies (PTX ISA 9.7.9.25.3, `cp.async`), which land as late as the rules allow: at the wait that covers their group.

use std::collections::VecDeque;

/// One copy: checked when it was issued, done when it is waited for.
#[derive(Clone, Copy)]
pub(crate) struct PendingCopy {
    /// Where in the block's shared memory.
    pub(crate) target: *mut u8,
    /// Where in global memory.
    pub(crate) source: *const u8,
    /// Bytes written.
    pub(crate) bytes: u8,
    /// Bytes read; the rest is zero.
    pub(crate) source_bytes: u8,
}

impl PendingCopy {
    /// # Safety
    /// `target` is valid for `bytes` bytes and `source` for `source_bytes` of them; both are at most 16.
    unsafe fn land(self) {
        let mut data = [0u8; 16];
        // SAFETY: by this function's contract; `data` holds 16 bytes.
        unsafe {
            if self.bytes == 16 && self.source_bytes == 16 {
                data = self.source.cast::<[u8; 16]>().read_unaligned();
                self.target.cast::<[u8; 16]>().write_unaligned(data);
                return;
            }
            self.source.copy_to_nonoverlapping(data.as_mut_ptr(), self.source_bytes.into());
            self.target.copy_from_nonoverlapping(data.as_ptr(), self.bytes.into());
        }
    }
}

/// A thread's copies, oldest first.
#[derive(Default)]
pub(crate) struct Copies {
    pending: VecDeque<PendingCopy>,
    /// Copies in each committed group, oldest first.
    groups: VecDeque<u32>,
    /// Copies after the last commit.
    open: u32,
}

impl Copies {
    /// Issues a copy.
    ///
    /// # Safety
    /// Until the copies are landed or forgotten, `target` stays valid for writes of `bytes` bytes and `source` for reads of
    /// `source_bytes`; both counts are at most 16.
    #[inline]
    pub(crate) unsafe fn issue(&mut self, copy: PendingCopy) {
        self.pending.push_back(copy);
        self.open += 1;
    }

    /// Makes the copies since the last commit a group, which may be empty (9.7.9.25.3.2).
    #[inline]
    pub(crate) fn commit(&mut self) {
        self.groups.push_back(self.open);
        self.open = 0;
    }

    /// Lands all groups but the newest `pending` (9.7.9.25.3.3), and says of each copy where it wrote and how many bytes.
    #[inline]
    pub(crate) fn wait(&mut self, pending: u32, mut landed: impl FnMut(*const u8, u32)) {
        while self.groups.len() > pending as usize {
            let count = self.groups.pop_front().unwrap_or(0);
            for copy in self.pending.drain(..count as usize) {
                // SAFETY: by the contract of `issue`.
                unsafe { copy.land() };
                landed(copy.target, copy.bytes.into());
            }
        }
    }

    /// Drops what is under way.
    pub(crate) fn forget(&mut self) {
        self.pending.clear();
        self.groups.clear();
        self.open = 0;
    }
}
