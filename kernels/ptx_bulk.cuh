// Bulk copies (PTX ISA 9.7.9.25.4 and 9.7.9.25.5), for sm_90 and newer and the simulated device.
//
// Included by ptx.cuh. `target`, `source` and `mbarrier` are 32-bit shared addresses where they are no pointers.
#pragma once
#include "tensor_map.h"

namespace gridpoint {

using ::TensorMap;

#ifdef GRIDPOINT_HOPPER

// ---- bulk copies --------------------------------------------------------------------------------------------------------------

// Copies `bytes` bytes from global memory to the block's shared memory; the mbarrier counts them. Sizes and addresses are multiples of 16
// (9.7.9.25.4.1).
GRIDPOINT_DEVICE void bulk_load(uint32_t target, const void* source, uint32_t bytes, uint32_t mbarrier) {
#ifdef __CUDACC__
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :
               : "r"(target), "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(mbarrier)
               : "memory");
#else
  gridpoint_bulk_load(target, source, bytes, mbarrier, 0);
#endif
}

// As bulk_load with a cache policy, a hint.
GRIDPOINT_DEVICE void bulk_load(uint32_t target, const void* source, uint32_t bytes, uint32_t mbarrier, uint64_t policy) {
#ifdef __CUDACC__
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
               :
               : "r"(target), "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(mbarrier), "l"(policy)
               : "memory");
#else
  (void)policy;
  gridpoint_bulk_load(target, source, bytes, mbarrier, 0);
#endif
}

// Copies between the shared memories of a cluster: `target` and `mbarrier` are addresses from map_shared, in one block.
GRIDPOINT_DEVICE void bulk_copy_cluster(uint32_t target, uint32_t source, uint32_t bytes, uint32_t mbarrier) {
#ifdef __CUDACC__
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :
               : "r"(target), "r"(source), "r"(bytes), "r"(mbarrier)
               : "memory");
#else
  gridpoint_bulk_copy_cluster(target, source, bytes, mbarrier);
#endif
}

// Copies `bytes` bytes from shared to global memory, as part of the thread's next bulk group.
GRIDPOINT_DEVICE void bulk_store(void* target, uint32_t source, uint32_t bytes) {
#ifdef __CUDACC__
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;"
               :
               : "l"(__cvta_generic_to_global(target)), "r"(source), "r"(bytes)
               : "memory");
#else
  gridpoint_bulk_store(target, source, bytes);
#endif
}

// cp.async.bulk.commit_group (9.7.9.25.6.1).
GRIDPOINT_DEVICE void bulk_commit() {
#ifdef __CUDACC__
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
  gridpoint_bulk_commit();
#endif
}

// Waits until at most `Pending` of the thread's newest bulk groups are incomplete (9.7.9.25.6.2).
template <uint32_t Pending>
GRIDPOINT_DEVICE void bulk_wait() {
#ifdef __CUDACC__
  asm volatile("cp.async.bulk.wait_group %0;" : : "n"(Pending) : "memory");
#else
  gridpoint_bulk_wait(Pending, 0);
#endif
}

// As bulk_wait, but only until the sources have been read: shared memory may be written again.
template <uint32_t Pending>
GRIDPOINT_DEVICE void bulk_wait_read() {
#ifdef __CUDACC__
  asm volatile("cp.async.bulk.wait_group.read %0;" : : "n"(Pending) : "memory");
#else
  gridpoint_bulk_wait(Pending, 1);
#endif
}

// ---- tensor copies ------------------------------------------------------------------------------------------------------------

// prefetch.tensormap.
GRIDPOINT_DEVICE void tensor_map_prefetch(const TensorMap* map) {
#ifdef __CUDACC__
  asm volatile("prefetch.tensormap [%0];" : : "l"(map) : "memory");
#else
  gridpoint_tensor_prefetch(map, 0, nullptr);
#endif
}

// The operands of coordinates, and their numbers in the text behind `first` operands.
#define GRIDPOINT_COORDINATES_1 "r"(coordinates[0])
#define GRIDPOINT_COORDINATES_2 GRIDPOINT_COORDINATES_1, "r"(coordinates[1])
#define GRIDPOINT_COORDINATES_3 GRIDPOINT_COORDINATES_2, "r"(coordinates[2])
#define GRIDPOINT_COORDINATES_4 GRIDPOINT_COORDINATES_3, "r"(coordinates[3])
#define GRIDPOINT_COORDINATES_5 GRIDPOINT_COORDINATES_4, "r"(coordinates[4])
#define GRIDPOINT_TENSOR_LOAD(rank, numbers)                                                                                     \
  asm volatile("cp.async.bulk.tensor." #rank "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {" numbers "}], [%2];" \
               :                                                                                                                 \
               : "r"(target), "l"(map), "r"(mbarrier), GRIDPOINT_COORDINATES_##rank                                              \
               : "memory")
#define GRIDPOINT_TENSOR_LOAD_HINT(rank, numbers)                                                                                \
  asm volatile("cp.async.bulk.tensor." #rank                                                                                     \
               "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {" numbers "}], [%2], %3;"  \
               :                                                                                                                 \
               : "r"(target), "l"(map), "r"(mbarrier), "l"(policy), GRIDPOINT_COORDINATES_##rank                                 \
               : "memory")
#define GRIDPOINT_TENSOR_MULTICAST(rank, numbers)                                                                                \
  asm volatile("cp.async.bulk.tensor." #rank                                                                                     \
               "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {" numbers "}], [%2], %3;" \
               :                                                                                                                 \
               : "r"(target), "l"(map), "r"(mbarrier), "h"(ranks), GRIDPOINT_COORDINATES_##rank                                  \
               : "memory")
#define GRIDPOINT_TENSOR_STORE(rank, numbers)                                                                                    \
  asm volatile("cp.async.bulk.tensor." #rank "d.global.shared::cta.tile.bulk_group [%0, {" numbers "}], [%1];"                    \
               :                                                                                                                 \
               : "l"(map), "r"(source), GRIDPOINT_COORDINATES_##rank                                                             \
               : "memory")
#define GRIDPOINT_TENSOR_PREFETCH(rank, numbers)                                                                                 \
  asm volatile("cp.async.bulk.prefetch.tensor." #rank "d.L2.global.tile [%0, {" numbers "}];"                                     \
               :                                                                                                                 \
               : "l"(map), GRIDPOINT_COORDINATES_##rank                                                                          \
               : "memory")

// Copies the map's box whose first element has these coordinates, innermost first, to the block's shared memory at a multiple of 128; the
// mbarrier counts the box's bytes, whatever lies outside the tensor (9.7.9.25.5.2).
template <int Rank>
GRIDPOINT_DEVICE void tensor_load(uint32_t target, const TensorMap* map, const int32_t (&coordinates)[Rank], uint32_t mbarrier) {
  static_assert(Rank >= 1 && Rank <= 5, "tensors have 1 to 5 dimensions");
#ifdef __CUDACC__
  if constexpr (Rank == 1) GRIDPOINT_TENSOR_LOAD(1, "%3");
  if constexpr (Rank == 2) GRIDPOINT_TENSOR_LOAD(2, "%3, %4");
  if constexpr (Rank == 3) GRIDPOINT_TENSOR_LOAD(3, "%3, %4, %5");
  if constexpr (Rank == 4) GRIDPOINT_TENSOR_LOAD(4, "%3, %4, %5, %6");
  if constexpr (Rank == 5) GRIDPOINT_TENSOR_LOAD(5, "%3, %4, %5, %6, %7");
#else
  gridpoint_tensor_load(target, map, Rank, coordinates, mbarrier, 0);
#endif
}

// As tensor_load with a cache policy, a hint.
template <int Rank>
GRIDPOINT_DEVICE void tensor_load(uint32_t target, const TensorMap* map, const int32_t (&coordinates)[Rank], uint32_t mbarrier,
                                  uint64_t policy) {
  static_assert(Rank >= 1 && Rank <= 5, "tensors have 1 to 5 dimensions");
#ifdef __CUDACC__
  if constexpr (Rank == 1) GRIDPOINT_TENSOR_LOAD_HINT(1, "%4");
  if constexpr (Rank == 2) GRIDPOINT_TENSOR_LOAD_HINT(2, "%4, %5");
  if constexpr (Rank == 3) GRIDPOINT_TENSOR_LOAD_HINT(3, "%4, %5, %6");
  if constexpr (Rank == 4) GRIDPOINT_TENSOR_LOAD_HINT(4, "%4, %5, %6, %7");
  if constexpr (Rank == 5) GRIDPOINT_TENSOR_LOAD_HINT(5, "%4, %5, %6, %7, %8");
#else
  (void)policy;
  gridpoint_tensor_load(target, map, Rank, coordinates, mbarrier, 0);
#endif
}

// As tensor_load, into the same place of every block of the cluster whose rank's bit is set; each block's mbarrier at that place counts.
template <int Rank>
GRIDPOINT_DEVICE void tensor_load_multicast(uint32_t target, const TensorMap* map, const int32_t (&coordinates)[Rank], uint32_t mbarrier,
                                            uint16_t ranks) {
  static_assert(Rank >= 1 && Rank <= 5, "tensors have 1 to 5 dimensions");
#ifdef __CUDACC__
  if constexpr (Rank == 1) GRIDPOINT_TENSOR_MULTICAST(1, "%4");
  if constexpr (Rank == 2) GRIDPOINT_TENSOR_MULTICAST(2, "%4, %5");
  if constexpr (Rank == 3) GRIDPOINT_TENSOR_MULTICAST(3, "%4, %5, %6");
  if constexpr (Rank == 4) GRIDPOINT_TENSOR_MULTICAST(4, "%4, %5, %6, %7");
  if constexpr (Rank == 5) GRIDPOINT_TENSOR_MULTICAST(5, "%4, %5, %6, %7, %8");
#else
  gridpoint_tensor_load(target, map, Rank, coordinates, mbarrier, ranks);
#endif
}

// Copies a box from shared memory at a multiple of 128 into the tensor, as part of the thread's next bulk group; nothing is written
// outside the tensor.
template <int Rank>
GRIDPOINT_DEVICE void tensor_store(const TensorMap* map, const int32_t (&coordinates)[Rank], uint32_t source) {
  static_assert(Rank >= 1 && Rank <= 5, "tensors have 1 to 5 dimensions");
#ifdef __CUDACC__
  if constexpr (Rank == 1) GRIDPOINT_TENSOR_STORE(1, "%2");
  if constexpr (Rank == 2) GRIDPOINT_TENSOR_STORE(2, "%2, %3");
  if constexpr (Rank == 3) GRIDPOINT_TENSOR_STORE(3, "%2, %3, %4");
  if constexpr (Rank == 4) GRIDPOINT_TENSOR_STORE(4, "%2, %3, %4, %5");
  if constexpr (Rank == 5) GRIDPOINT_TENSOR_STORE(5, "%2, %3, %4, %5, %6");
#else
  gridpoint_tensor_store(map, Rank, coordinates, source);
#endif
}

// Brings a box into the second cache, a hint (9.7.9.25.5.4).
template <int Rank>
GRIDPOINT_DEVICE void tensor_prefetch(const TensorMap* map, const int32_t (&coordinates)[Rank]) {
  static_assert(Rank >= 1 && Rank <= 5, "tensors have 1 to 5 dimensions");
#ifdef __CUDACC__
  if constexpr (Rank == 1) GRIDPOINT_TENSOR_PREFETCH(1, "%1");
  if constexpr (Rank == 2) GRIDPOINT_TENSOR_PREFETCH(2, "%1, %2");
  if constexpr (Rank == 3) GRIDPOINT_TENSOR_PREFETCH(3, "%1, %2, %3");
  if constexpr (Rank == 4) GRIDPOINT_TENSOR_PREFETCH(4, "%1, %2, %3, %4");
  if constexpr (Rank == 5) GRIDPOINT_TENSOR_PREFETCH(5, "%1, %2, %3, %4, %5");
#else
  gridpoint_tensor_prefetch(map, Rank, coordinates);
#endif
}

#endif

}  // namespace gridpoint
