// Further instructions of sm_80: named barriers, votes, reductions, small ldmatrix, mma on float16, loads with cache hints.
//
// Included by ptx.cuh.
#pragma once

namespace gridpoint {

// bar.sync id, threads: waits until as many threads, in whole warps, have come to barrier `id` (9.7.13.1).
GRIDPOINT_DEVICE void named_barrier_sync(uint32_t id, uint32_t threads) {
#ifdef __CUDACC__
  asm volatile("bar.sync %0, %1;" : : "r"(id), "r"(threads) : "memory");
#else
  gridpoint_barrier(id, threads);
#endif
}

// bar.arrive id, threads: comes to the barrier without waiting.
GRIDPOINT_DEVICE void named_barrier_arrive(uint32_t id, uint32_t threads) {
#ifdef __CUDACC__
  asm volatile("bar.arrive %0, %1;" : : "r"(id), "r"(threads) : "memory");
#else
  gridpoint_barrier_arrive(id, threads);
#endif
}

// shfl.sync.down.b32: the value of lane + delta, or the own value above.
GRIDPOINT_DEVICE uint32_t shuffle_down(uint32_t value, uint32_t delta) {
#ifdef __CUDACC__
  return __shfl_down_sync(kFullMask, value, delta);
#else
  return gridpoint_shuffle(2, kFullMask, value, delta);
#endif
}

// vote.sync.any and vote.sync.all over the whole warp (9.7.13.9).
GRIDPOINT_DEVICE bool any_lane(bool predicate) {
#ifdef __CUDACC__
  return __any_sync(kFullMask, predicate) != 0;
#else
  return gridpoint_vote(0, kFullMask, predicate) != 0;
#endif
}

GRIDPOINT_DEVICE bool all_lanes(bool predicate) {
#ifdef __CUDACC__
  return __all_sync(kFullMask, predicate) != 0;
#else
  return gridpoint_vote(1, kFullMask, predicate) != 0;
#endif
}

// redux.sync over the whole warp (9.7.13.12): the same result in every lane.
#ifdef __CUDACC__
#define GRIDPOINT_REDUCE(name, instruction, number, Type)                                                                        \
  GRIDPOINT_DEVICE Type name(Type value) {                                                                                       \
    Type result;                                                                                                                 \
    asm volatile("redux.sync." instruction " %0, %1, %2;" : "=r"(result) : "r"(value), "r"(kFullMask));                          \
    return result;                                                                                                               \
  }
#else
#define GRIDPOINT_REDUCE(name, instruction, number, Type)                                                                        \
  GRIDPOINT_DEVICE Type name(Type value) { return static_cast<Type>(gridpoint_reduce(number, kFullMask, static_cast<uint32_t>(value))); }
#endif
GRIDPOINT_REDUCE(reduce_add, "add.u32", 0, uint32_t)
GRIDPOINT_REDUCE(reduce_minimum, "min.u32", 1, uint32_t)
GRIDPOINT_REDUCE(reduce_maximum, "max.u32", 2, uint32_t)
GRIDPOINT_REDUCE(reduce_minimum, "min.s32", 3, int32_t)
GRIDPOINT_REDUCE(reduce_maximum, "max.s32", 4, int32_t)
GRIDPOINT_REDUCE(reduce_and, "and.b32", 5, uint32_t)
GRIDPOINT_REDUCE(reduce_or, "or.b32", 6, uint32_t)
GRIDPOINT_REDUCE(reduce_xor, "xor.b32", 7, uint32_t)
#undef GRIDPOINT_REDUCE

// One or two 8x8 matrices, with addresses from lanes 0 to 7 or 0 to 15 (9.7.14.5.15).
GRIDPOINT_DEVICE void load_matrix_x1(uint32_t& fragment, uint32_t address) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(fragment) : "r"(address) : "memory");
#else
  gridpoint_ldmatrix(&fragment, 1, 0, address);
#endif
}

GRIDPOINT_DEVICE void load_matrix_x1_transposed(uint32_t& fragment, uint32_t address) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(fragment) : "r"(address) : "memory");
#else
  gridpoint_ldmatrix(&fragment, 1, 1, address);
#endif
}

GRIDPOINT_DEVICE void load_matrix_x2(uint32_t (&fragment)[2], uint32_t address) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(fragment[0]), "=r"(fragment[1]) : "r"(address) : "memory");
#else
  gridpoint_ldmatrix(fragment, 2, 0, address);
#endif
}

GRIDPOINT_DEVICE void load_matrix_x2_transposed(uint32_t (&fragment)[2], uint32_t address) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(fragment[0]), "=r"(fragment[1])
               : "r"(address)
               : "memory");
#else
  gridpoint_ldmatrix(fragment, 2, 1, address);
#endif
}

// As mma_bf16, on float16 operands (9.7.14.5.8).
template <int M, int N>
GRIDPOINT_DEVICE void mma_f16(float (&d)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2]) {
#ifdef __CUDACC__
  GRIDPOINT_UNROLL
  for (int m = 0; m < M; ++m) {
    GRIDPOINT_UNROLL
    for (int n = 0; n < N; ++n) {
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                   : "+f"(d[m][n][0]), "+f"(d[m][n][1]), "+f"(d[m][n][2]), "+f"(d[m][n][3])
                   : "r"(a[m][0]), "r"(a[m][1]), "r"(a[m][2]), "r"(a[m][3]), "r"(b[n][0]), "r"(b[n][1]));
    }
  }
#else
  gridpoint_mma_f16(&d[0][0][0], &a[0][0], &b[0][0], M, N);
#endif
}

// Cache policies, hints (9.7.9.19, createpolicy): read once, or kept.
GRIDPOINT_DEVICE uint64_t policy_evict_first() {
#ifdef __CUDACC__
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
#else
  return 1;
#endif
}

GRIDPOINT_DEVICE uint64_t policy_evict_last() {
#ifdef __CUDACC__
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
#else
  return 2;
#endif
}

// 16 bytes that nothing writes during the launch, not kept in the first cache (9.7.9.9, ld.global.nc). `source` is a multiple of 16.
GRIDPOINT_DEVICE Vector16 load_weight(const void* source, uint64_t policy) {
#ifdef __CUDACC__
  Vector16 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.b32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(value.word[0]), "=r"(value.word[1]), "=r"(value.word[2]), "=r"(value.word[3])
               : "l"(__cvta_generic_to_global(source)), "l"(policy));
  return value;
#else
  (void)policy;
  gridpoint_global(source, 16, 16, 2);
  Vector16 value;
  GRIDPOINT_MOVE(&value, source, sizeof value);
  return value;
#endif
}

// 16 bytes of shared memory by address, a multiple of 16 (ld.shared.v4.b32 and st.shared.v4.b32).
GRIDPOINT_DEVICE Vector16 load_shared16(uint32_t source GRIDPOINT_SITE) {
  Vector16 value;
#ifdef __CUDACC__
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.word[0]), "=r"(value.word[1]), "=r"(value.word[2]), "=r"(value.word[3])
               : "r"(source)
               : "memory");
#else
  GRIDPOINT_TELL_SITE();
  GRIDPOINT_MOVE(&value, gridpoint_shared_cluster(source, 16, 16, 0), sizeof value);
#endif
  return value;
}

GRIDPOINT_DEVICE void store_shared16(uint32_t target, const Vector16& value GRIDPOINT_SITE) {
#ifdef __CUDACC__
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};"
               :
               : "r"(target), "r"(value.word[0]), "r"(value.word[1]), "r"(value.word[2]), "r"(value.word[3])
               : "memory");
#else
  GRIDPOINT_TELL_SITE();
  GRIDPOINT_MOVE(gridpoint_shared_cluster(target, 16, 16, 1), &value, sizeof value);
#endif
}

// Lets the next launch begin, where it was made with a programmatic dependency; orders nothing (9.7.13.13).
GRIDPOINT_DEVICE void grid_launch_dependents() {
#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
#else
  gridpoint_grid_launch_dependents();
#endif
}

}  // namespace gridpoint
