//! The pages of the kv cache: who holds which. Only numbers; the memory lies elsewhere.

use std::sync::Arc;

use crate::error::{IntegrityError, LimitsError};

/// Tokens a page holds.
pub const PAGE_TOKENS: u32 = 64;

/// Pages that hold `tokens` tokens.
#[must_use]
pub const fn pages_for(tokens: u32) -> u32 {
    tokens.div_ceil(PAGE_TOKENS)
}

/// Pages held by one owner, in the order of the tokens they hold: page `i` holds tokens `[64 i, 64 (i + 1))`.
///
/// There is no copy of it, and giving it back consumes it: a page is freed once by construction. Only the list of ids can be shared.
#[derive(Debug, PartialEq, Eq)]
pub struct Pages(Arc<[u32]>);

impl Pages {
    /// The page ids.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.0
    }

    /// The list of ids, for steps that go without the owner.
    pub(crate) fn list(&self) -> &Arc<[u32]> {
        &self.0
    }

    /// The same page held twice: what the type rules out, for tests of the detector.
    #[cfg(test)]
    pub(crate) fn forged(ids: Vec<u32>) -> Self {
        Self(ids.into())
    }
}

/// Page ids `[0, n)`; the last one is the dummy page, which padding points at and no request ever gets.
///
/// Free pages lie on a stack: a fresh pool hands out 0, 1, 2, ..., and what came back last goes out first, so equal calls
/// give equal pages.
#[derive(Debug)]
pub struct PagePool {
    free: Vec<u32>,
    used: Vec<bool>,
}

impl PagePool {
    /// A pool of `pages` pages, the dummy page among them.
    ///
    /// # Errors
    /// [`LimitsError::TooFewPages`] below 2.
    pub fn new(pages: u32) -> Result<Self, LimitsError> {
        if pages < 2 {
            return Err(LimitsError::TooFewPages { pages });
        }
        let capacity = pages - 1;
        Ok(Self { free: (0..capacity).rev().collect(), used: vec![false; capacity as usize] })
    }

    /// Pages that requests can have.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.used.len() as u32
    }

    /// Pages free now.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Pages held now.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.capacity() - self.free()
    }

    /// The page that padding points at: the last one.
    #[must_use]
    pub fn dummy(&self) -> u32 {
        self.capacity()
    }

    /// All of `count` pages, or `None` and no change where fewer are free.
    pub fn allocate(&mut self, count: u32) -> Option<Pages> {
        let left = self.free.len().checked_sub(count as usize)?;
        let ids: Arc<[u32]> = self.free.drain(left..).rev().collect();
        for &page in &*ids {
            self.used[page as usize] = true;
        }
        Some(Pages(ids))
    }

    /// Takes `pages` back.
    ///
    /// # Panics
    /// If a page is not one that this pool handed out: pages of another pool, a defect of the caller.
    pub fn release(&mut self, pages: Pages) {
        for &page in pages.0.iter().rev() {
            let used = self.used.get_mut(page as usize);
            assert!(used.is_some_and(std::mem::take), "page {page} was not handed out by this pool");
            self.free.push(page);
        }
    }

    /// Whether `page` is held by somebody.
    #[must_use]
    pub fn is_used(&self, page: u32) -> bool {
        self.used.get(page as usize).copied().unwrap_or(false)
    }

    /// Every page for requests is either free, once, or used; the dummy page is neither.
    ///
    /// # Errors
    /// The first promise found broken.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        let dummy = self.dummy();
        let mut listed = vec![false; self.used.len()];
        for &page in &self.free {
            let seen = listed.get_mut(page as usize).ok_or(IntegrityError::NotForRequests { page, dummy })?;
            if std::mem::replace(seen, true) {
                return Err(IntegrityError::FreeTwice { page });
            }
        }
        for (page, (&free, &used)) in (0..dummy).zip(listed.iter().zip(&self.used)) {
            match (free, used) {
                (true, true) => return Err(IntegrityError::FreeAndUsed { page }),
                (false, false) => return Err(IntegrityError::Lost { page }),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn page_counts_round_up() {
        let counts = [0, 1, 63, 64, 65, 128, u32::MAX].map(pages_for);
        assert_eq!(counts, [0, 1, 1, 1, 2, 2, 1 << 26]);
    }

    #[test]
    fn a_pool_needs_a_page_beside_the_dummy() {
        for pages in [0, 1] {
            assert_eq!(PagePool::new(pages).err(), Some(LimitsError::TooFewPages { pages }));
        }
        assert_eq!(PagePool::new(2).map(|pool| (pool.capacity(), pool.dummy())), Ok((1, 1)));
    }

    #[test]
    fn what_came_back_last_goes_out_first() {
        let mut pool = PagePool::new(9).unwrap();
        let first = pool.allocate(3).unwrap();
        let second = pool.allocate(2).unwrap();
        assert_eq!((first.ids(), second.ids()), (&[0, 1, 2][..], &[3, 4][..]));
        pool.release(first);
        assert_eq!(pool.allocate(4).unwrap().ids(), &[0, 1, 2, 5]);
    }

    #[test]
    fn an_allocation_is_whole_or_nothing() {
        let mut pool = PagePool::new(4).unwrap();
        let two = pool.allocate(2).unwrap();
        assert_eq!(pool.allocate(2), None);
        assert_eq!((pool.free(), pool.used()), (1, 2));
        pool.release(two);
        assert!(pool.allocate(3).is_some());
    }

    #[test]
    #[should_panic(expected = "page 0 was not handed out")]
    fn a_forged_page_is_refused() {
        PagePool::new(4).unwrap().release(Pages::forged(vec![0]));
    }

    /// Each defect is planted, and the check names it.
    #[test]
    fn the_check_finds_planted_defects() {
        let corrupted = |corrupt: fn(&mut PagePool)| {
            let mut pool = PagePool::new(6).unwrap();
            let _held = pool.allocate(2).unwrap();
            assert_eq!(pool.check_integrity(), Ok(()));
            corrupt(&mut pool);
            pool.check_integrity().unwrap_err()
        };
        assert_eq!(corrupted(|pool| pool.free.push(3)), IntegrityError::FreeTwice { page: 3 });
        assert_eq!(corrupted(|pool| pool.free.push(0)), IntegrityError::FreeAndUsed { page: 0 });
        assert_eq!(corrupted(|pool| pool.used[1] = false), IntegrityError::Lost { page: 1 });
        assert_eq!(corrupted(|pool| pool.free.truncate(2)), IntegrityError::Lost { page: 2 });
        assert_eq!(corrupted(|pool| pool.free.push(5)), IntegrityError::NotForRequests { page: 5, dummy: 5 });
    }

    proptest! {
        /// Whatever is allocated and released in whatever order: no page has two holders, none is lost, the dummy is never
        /// handed out, and an allocation fails only where fewer pages are free.
        #[test]
        fn pages_are_conserved(pages in 2_u32..40, actions in prop::collection::vec((any::<bool>(), 0_u32..12), 0..120)) {
            let mut pool = PagePool::new(pages).unwrap();
            let mut held: Vec<Pages> = Vec::new();
            for (allocate, number) in actions {
                if allocate {
                    let free = pool.free();
                    match pool.allocate(number) {
                        Some(got) => {
                            prop_assert_eq!(got.ids().len(), number as usize);
                            held.push(got);
                        }
                        None => prop_assert!(number > free),
                    }
                } else if !held.is_empty() {
                    let index = number as usize % held.len();
                    pool.release(held.swap_remove(index));
                }
                prop_assert_eq!(pool.check_integrity(), Ok(()));
                let mut ids: Vec<u32> = held.iter().flat_map(|pages| pages.ids().iter().copied()).collect();
                prop_assert_eq!(ids.len(), pool.used() as usize);
                ids.sort_unstable();
                ids.dedup();
                prop_assert_eq!(ids.len(), pool.used() as usize, "a page has two holders");
                prop_assert!(ids.iter().all(|&page| page < pool.dummy() && pool.is_used(page)));
            }
            held.into_iter().for_each(|pages| pool.release(pages));
            prop_assert_eq!(pool.free(), pages - 1);
        }
    }
}
