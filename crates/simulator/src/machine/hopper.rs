//! The instructions of compute capability 9.0 and their relatives: the second half of `include/gridpoint_simulator.h`. Their contract is that of
//! [`super::instructions`].

pub use super::cluster::{
    gridpoint_cluster_barrier, gridpoint_cluster_place, gridpoint_elect, gridpoint_map_shared, gridpoint_shared_cluster,
};
pub use super::copy_issue::{
    gridpoint_bulk_commit, gridpoint_bulk_copy_cluster, gridpoint_bulk_load, gridpoint_bulk_store, gridpoint_bulk_wait,
    gridpoint_tensor_load, gridpoint_tensor_prefetch, gridpoint_tensor_store,
};
pub use super::mbarrier::{
    gridpoint_fence_mbarrier_init, gridpoint_fence_proxy_async, gridpoint_mbarrier_arrive, gridpoint_mbarrier_init,
    gridpoint_mbarrier_invalidate, gridpoint_mbarrier_wait,
};
pub use super::reduce::{
    gridpoint_barrier_arrive, gridpoint_mma_f16, gridpoint_reduce, gridpoint_shared_written, gridpoint_stmatrix,
    gridpoint_vote,
};
pub use super::warpgroup::{
    gridpoint_set_registers, gridpoint_wgmma, gridpoint_wgmma_commit, gridpoint_wgmma_fence, gridpoint_wgmma_wait,
};

/// Makes the linker take the instructions along with the machine, as [`super::instructions::keep`].
pub(super) fn keep() {
    /// An address that nobody calls through.
    #[repr(transparent)]
    struct Kept(*const ());
    // SAFETY: nothing is done with the pointer.
    unsafe impl Sync for Kept {}
    #[used]
    static INSTRUCTIONS: [Kept; 30] = [
        Kept(gridpoint_cluster_barrier as *const ()),
        Kept(gridpoint_cluster_place as *const ()),
        Kept(gridpoint_elect as *const ()),
        Kept(gridpoint_map_shared as *const ()),
        Kept(gridpoint_shared_cluster as *const ()),
        Kept(gridpoint_bulk_commit as *const ()),
        Kept(gridpoint_bulk_copy_cluster as *const ()),
        Kept(gridpoint_bulk_load as *const ()),
        Kept(gridpoint_bulk_store as *const ()),
        Kept(gridpoint_bulk_wait as *const ()),
        Kept(gridpoint_tensor_load as *const ()),
        Kept(gridpoint_tensor_prefetch as *const ()),
        Kept(gridpoint_tensor_store as *const ()),
        Kept(gridpoint_fence_mbarrier_init as *const ()),
        Kept(gridpoint_fence_proxy_async as *const ()),
        Kept(gridpoint_mbarrier_arrive as *const ()),
        Kept(gridpoint_mbarrier_init as *const ()),
        Kept(gridpoint_mbarrier_invalidate as *const ()),
        Kept(gridpoint_mbarrier_wait as *const ()),
        Kept(gridpoint_barrier_arrive as *const ()),
        Kept(gridpoint_mma_f16 as *const ()),
        Kept(gridpoint_reduce as *const ()),
        Kept(gridpoint_shared_written as *const ()),
        Kept(gridpoint_stmatrix as *const ()),
        Kept(gridpoint_vote as *const ()),
        Kept(gridpoint_set_registers as *const ()),
        Kept(gridpoint_wgmma as *const ()),
        Kept(gridpoint_wgmma_commit as *const ()),
        Kept(gridpoint_wgmma_fence as *const ()),
        Kept(gridpoint_wgmma_wait as *const ()),
    ];
    std::hint::black_box(&INSTRUCTIONS);
}
