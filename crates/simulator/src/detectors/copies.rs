//! Asynchronous copies under way: what each thread has issued and not waited for, oldest first.

use std::collections::VecDeque;

use crate::machine::observer::CopyPlace;

const MAXIMUM_BYTES: usize = 16;

/// A copy under way, and what its source held when it was issued.
pub(super) struct CopyUnderWay {
    pub(super) place: CopyPlace,
    data: [u8; MAXIMUM_BYTES],
}

fn source(place: CopyPlace) -> [u8; MAXIMUM_BYTES] {
    let mut data = [0; MAXIMUM_BYTES];
    let bytes = (place.source_bytes as usize).min(MAXIMUM_BYTES);
    // SAFETY: the machine has checked that the source lies in live memory, which stays until the launch ends. All blocks that are
    // watched run on this OS thread, so nobody writes there now.
    unsafe { std::ptr::with_exposed_provenance::<u8>(place.source).copy_to_nonoverlapping(data.as_mut_ptr(), bytes) };
    data
}

impl CopyUnderWay {
    pub(super) fn source_is_unchanged(&self) -> bool {
        self.data == source(self.place)
    }
}

#[derive(Default)]
struct List {
    pending: VecDeque<CopyUnderWay>,
    groups: VecDeque<usize>,
    open: usize,
}

/// The copies of all threads of a block.
#[derive(Default)]
pub(super) struct CopyLists {
    threads: Vec<List>,
}

impl CopyLists {
    pub(super) fn begin_block(&mut self, threads: u32) {
        self.threads.clear();
        self.threads.resize_with(threads as usize, List::default);
    }

    pub(super) fn issued(&mut self, thread: u32, place: CopyPlace) {
        let list = &mut self.threads[thread as usize];
        list.pending.push_back(CopyUnderWay { place, data: source(place) });
        list.open += 1;
    }

    pub(super) fn committed(&mut self, thread: u32) {
        let list = &mut self.threads[thread as usize];
        list.groups.push_back(std::mem::take(&mut list.open));
    }

    /// The copies of the oldest group, if more than `pending` are left.
    pub(super) fn landed(&mut self, thread: u32, pending: u32) -> Option<Vec<CopyUnderWay>> {
        let list = &mut self.threads[thread as usize];
        if list.groups.len() <= pending as usize {
            return None;
        }
        let count = list.groups.pop_front()?;
        Some(list.pending.drain(..count).collect())
    }
}
