// One instruction per function: inline PTX under nvcc, the simulated device's interface under a host compiler.
//
// Inline assembly stands here and in the headers included below, ptx_*.cuh, alone. A kernel written on top of it compiles unchanged for a GPU (sm_80 and newer) and for
// the simulator. Conventions: shared memory is addressed by 32-bit shared addresses; bf16 values are raw 16-bit patterns; warp
// collectives take full masks and stand at one call site; fragments loaded by ldmatrix go to mma only.
// Source of every instruction: PTX ISA 9.0, section named at the function.
#pragma once
#include <stdint.h>

#ifdef __CUDACC__
#define GRIDPOINT_DEVICE __device__ __forceinline__
#define GRIDPOINT_DEVICE_MEMBER __device__ __forceinline__
#define GRIDPOINT_UNROLL _Pragma("unroll")
#define GRIDPOINT_UNROLL_8 _Pragma("unroll 8")
#define GRIDPOINT_NO_UNROLL _Pragma("unroll 1")
#else
#include <math.h>
#include <string.h>
#include "gridpoint_simulator.h"
#define GRIDPOINT_DEVICE static inline
#define GRIDPOINT_DEVICE_MEMBER inline
#define GRIDPOINT_UNROLL
#define GRIDPOINT_UNROLL_8
#define GRIDPOINT_NO_UNROLL
#endif

// What there is beyond sm_80: instructions of sm_90 (GRIDPOINT_HOPPER), and those that only Hopper's own target sm_90a has
// (GRIDPOINT_WARPGROUPS). Both are there for the simulated device. Where nvcc compiles for the host, nothing is called.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define GRIDPOINT_HOPPER 1
#endif
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GRIDPOINT_WARPGROUPS 1
#endif

// Where the simulated device is told of plain accesses, it is also told of transcendental operations and of where vector accesses to
// shared memory stand: the caller's line, an argument behind the others. The data of an access that it is told of by a call moves
// by another, so that no access is told of twice.
#ifdef GRIDPOINT_TOLD
#define GRIDPOINT_SITE , uint32_t site = __builtin_LINE()
#define GRIDPOINT_TELL_SITE() gridpoint_site(site)
#define GRIDPOINT_TELL_TRANSCENDENTAL(kind) gridpoint_transcendental(kind)
#define GRIDPOINT_MOVE(target, source, bytes) gridpoint_move(target, source, bytes)
#else
#define GRIDPOINT_SITE
#define GRIDPOINT_TELL_SITE() static_cast<void>(0)
#define GRIDPOINT_TELL_TRANSCENDENTAL(kind) static_cast<void>(0)
#define GRIDPOINT_MOVE(target, source, bytes) memcpy(target, source, bytes)
#endif

namespace gridpoint {

constexpr uint32_t kFullMask = 0xffffffffu;
constexpr uint32_t kWarpThreads = 32;

// ---- identity -----------------------------------------------------------------------------------------------------------------

#ifdef __CUDACC__
GRIDPOINT_DEVICE uint32_t thread_index() { return threadIdx.x; }
GRIDPOINT_DEVICE uint32_t block_threads() { return blockDim.x; }
GRIDPOINT_DEVICE uint32_t block_index() { return blockIdx.x; }
GRIDPOINT_DEVICE uint32_t grid_blocks() { return gridDim.x; }
#else
GRIDPOINT_DEVICE uint32_t thread_index() { return gridpoint_thread()->thread[0]; }
GRIDPOINT_DEVICE uint32_t block_threads() { return gridpoint_thread()->block_size[0]; }
GRIDPOINT_DEVICE uint32_t block_index() { return gridpoint_thread()->block[0]; }
GRIDPOINT_DEVICE uint32_t grid_blocks() { return gridpoint_thread()->grid_size[0]; }
#endif
GRIDPOINT_DEVICE uint32_t lane_index() { return thread_index() % kWarpThreads; }
GRIDPOINT_DEVICE uint32_t warp_index() { return thread_index() / kWarpThreads; }

// ---- bit patterns -------------------------------------------------------------------------------------------------------------

GRIDPOINT_DEVICE uint32_t float_bits(float value) {
#ifdef __CUDACC__
  return __float_as_uint(value);
#else
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

GRIDPOINT_DEVICE float float_from_bits(uint32_t bits) {
#ifdef __CUDACC__
  return __uint_as_float(bits);
#else
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

GRIDPOINT_DEVICE float bf16_to_float(uint32_t bits) { return float_from_bits(bits << 16); }

// Low half holds `low`, high half `high`; round to nearest even, NaN becomes 0x7fff (9.7.9.22, cvt.rn.bf16x2.f32).
GRIDPOINT_DEVICE uint32_t pack_bf16(float low, float high) {
#ifdef __CUDACC__
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  uint32_t halves[2];
  float values[2] = {low, high};
  for (int i = 0; i < 2; ++i) {
    uint32_t bits = float_bits(values[i]);
    halves[i] = values[i] != values[i] ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  }
  return halves[0] | halves[1] << 16;
#endif
}

GRIDPOINT_DEVICE uint16_t float_to_bf16(float value) { return static_cast<uint16_t>(pack_bf16(value, 0.0f) & 0xffffu); }

// The float of 16 float16 bits, exactly (9.7.9.22, cvt.f32.f16).
GRIDPOINT_DEVICE float f16_to_float(uint32_t bits) {
#ifdef __CUDACC__
  float value;
  asm("{.reg .b16 half; cvt.u16.u32 half, %1; cvt.f32.f16 %0, half;}" : "=f"(value) : "r"(bits));
  return value;
#else
  const uint32_t sign = (bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  // Exponents move up by 112; what was infinite or NaN moves to the top, what was subnormal is a multiple of 2^-24.
  if (magnitude >= 0x7c00u) return float_from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x0400u) return float_from_bits(sign | ((magnitude << 13) + (112u << 23)));
  return float_from_bits(sign | float_bits(static_cast<float>(magnitude) * 0x1p-24f));
#endif
}

// As pack_bf16 in float16: round to nearest even, beyond 65504 infinity, NaN becomes 0x7fff (9.7.9.22, cvt.rn.f16x2.f32).
GRIDPOINT_DEVICE uint32_t pack_f16(float low, float high) {
#ifdef __CUDACC__
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  uint32_t halves[2];
  float values[2] = {low, high};
  for (int i = 0; i < 2; ++i) {
    const uint32_t bits = float_bits(values[i]);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (values[i] != values[i]) {
      halves[i] = 0x7fffu;
    } else if (magnitude >= 0x477ff000u) {
      // From 65520 on, halfway to the next power of two.
      halves[i] = sign | 0x7c00u;
    } else if (magnitude >= 0x38800000u) {
      halves[i] = sign | (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    } else {
      // Adding 0.5, whose unit in the last place is 2^-24, rounds to a multiple of 2^-24, the unit of subnormal numbers.
      halves[i] = sign | (float_bits(float_from_bits(magnitude) + 0.5f) - 0x3f000000u);
    }
  }
  return halves[0] | halves[1] << 16;
#endif
}

// The same value, of which the compiler knows nothing: it makes no copies of a loop for the cases of a condition on it.
GRIDPOINT_DEVICE uint32_t opaque(uint32_t value) {
#ifdef __CUDACC__
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// ---- arithmetic whose result differs between devices --------------------------------------------------------------------------

GRIDPOINT_DEVICE float fused_multiply_add(float a, float b, float c) {
#ifdef __CUDACC__
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

// 2^x; exactly 0 for -infinity and 1 for 0 (9.7.3.21, ex2.approx.ftz.f32).
GRIDPOINT_DEVICE float exp2_approximate(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  GRIDPOINT_TELL_TRANSCENDENTAL(0);
  return exp2f(x);
#endif
}

GRIDPOINT_DEVICE float exponential(float x) {
  GRIDPOINT_TELL_TRANSCENDENTAL(1);
  return expf(x);
}

GRIDPOINT_DEVICE float natural_logarithm(float x) {
  GRIDPOINT_TELL_TRANSCENDENTAL(2);
  return logf(x);
}

// log(1 + x), accurate for small x.
GRIDPOINT_DEVICE float natural_logarithm_1p(float x) {
  GRIDPOINT_TELL_TRANSCENDENTAL(2);
  return log1pf(x);
}

GRIDPOINT_DEVICE float reciprocal_square_root(float x) {
#ifdef __CUDACC__
  return __frsqrt_rn(x);
#else
  GRIDPOINT_TELL_TRANSCENDENTAL(3);
  return 1.0f / sqrtf(x);
#endif
}

// a / b, rounded to nearest.
GRIDPOINT_DEVICE float divide(float a, float b) {
  GRIDPOINT_TELL_TRANSCENDENTAL(4);
  return a / b;
}

// a / b to two units in the last place; 0 where b is beyond 2^126 (9.7.3.8, div.approx.ftz.f32).
GRIDPOINT_DEVICE float divide_approximate(float a, float b) {
#ifdef __CUDACC__
  float quotient;
  asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(quotient) : "f"(a), "f"(b));
  return quotient;
#else
  GRIDPOINT_TELL_TRANSCENDENTAL(4);
  return a / b;
#endif
}

// popc.b32: how many bits are set.
GRIDPOINT_DEVICE uint32_t population_count(uint32_t bits) {
#ifdef __CUDACC__
  return static_cast<uint32_t>(__popc(bits));
#else
  return static_cast<uint32_t>(__builtin_popcount(bits));
#endif
}

GRIDPOINT_DEVICE float minus_infinity() { return float_from_bits(0xff800000u); }

// ---- memory -------------------------------------------------------------------------------------------------------------------

// 16 bytes, the widest access of one thread.
struct alignas(16) Vector16 {
  uint32_t word[4];
};

// ld.global.v4.b32; `source` is a multiple of 16.
GRIDPOINT_DEVICE Vector16 load16(const void* source) {
#ifdef __CUDACC__
  Vector16 value;
  asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.word[0]), "=r"(value.word[1]), "=r"(value.word[2]), "=r"(value.word[3])
               : "l"(__cvta_generic_to_global(source))
               : "memory");
  return value;
#else
  gridpoint_global(source, 16, 16, 0);
  Vector16 value;
  GRIDPOINT_MOVE(&value, source, sizeof value);
  return value;
#endif
}

// st.global.v4.b32; `target` is a multiple of 16.
GRIDPOINT_DEVICE void store16(void* target, const Vector16& value) {
#ifdef __CUDACC__
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(target)), "r"(value.word[0]), "r"(value.word[1]), "r"(value.word[2]), "r"(value.word[3])
               : "memory");
#else
  gridpoint_global(target, 16, 16, 1);
  GRIDPOINT_MOVE(target, &value, sizeof value);
#endif
}

// 8 bytes.
struct alignas(8) Vector8 {
  uint32_t word[2];
};

// ld.global.v2.b32; `source` is a multiple of 8.
GRIDPOINT_DEVICE Vector8 load8(const void* source) {
#ifdef __CUDACC__
  Vector8 value;
  asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(value.word[0]), "=r"(value.word[1]) : "l"(__cvta_generic_to_global(source)) : "memory");
  return value;
#else
  gridpoint_global(source, 8, 8, 0);
  Vector8 value;
  GRIDPOINT_MOVE(&value, source, sizeof value);
  return value;
#endif
}

// st.global.v2.b32; `target` is a multiple of 8.
GRIDPOINT_DEVICE void store8(void* target, const Vector8& value) {
#ifdef __CUDACC__
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" : : "l"(__cvta_generic_to_global(target)), "r"(value.word[0]), "r"(value.word[1]) : "memory");
#else
  gridpoint_global(target, 8, 8, 1);
  GRIDPOINT_MOVE(target, &value, sizeof value);
#endif
}

// The kernel's dynamic shared memory as one struct; its alignment is at most 16.
template <typename T>
GRIDPOINT_DEVICE T& shared() {
  static_assert(alignof(T) <= 16, "the driver aligns dynamic shared memory to 16 bytes");
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char gridpoint_shared_memory[];
  return *reinterpret_cast<T*>(gridpoint_shared_memory);
#else
  return *static_cast<T*>(gridpoint_shared(gridpoint_shared_base(), sizeof(T), alignof(T)));
#endif
}

// %dynamic_smem_size: bytes of dynamic shared memory that the launch reserved (10, special registers).
GRIDPOINT_DEVICE uint32_t dynamic_shared_bytes() {
#ifdef __CUDACC__
  uint32_t bytes;
  asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
  return bytes;
#else
  return gridpoint_shared_bytes();
#endif
}

// cvta.to.shared: the 32-bit shared address of an object in shared memory.
GRIDPOINT_DEVICE uint32_t shared_address(const void* pointer) {
#ifdef __CUDACC__
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
#else
  return gridpoint_shared_address(pointer);
#endif
}

// Copies 16 bytes from global to shared memory asynchronously; bytes from `source_bytes` on are zeros, and with 0 `source` is not read
// (9.7.9.25.3.1, cp.async.cg).
GRIDPOINT_DEVICE void copy_async16(uint32_t target, const void* source, uint32_t source_bytes GRIDPOINT_SITE) {
#ifdef __CUDACC__
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(target), "l"(__cvta_generic_to_global(source)), "r"(source_bytes) : "memory");
#else
  GRIDPOINT_TELL_SITE();
  gridpoint_cp_async(target, source, 16, source_bytes);
#endif
}

// As copy_async16 with a cache policy, a hint.
GRIDPOINT_DEVICE void copy_async16(uint32_t target, const void* source, uint32_t source_bytes, uint64_t policy GRIDPOINT_SITE) {
#ifdef __CUDACC__
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;"
               :
               : "r"(target), "l"(__cvta_generic_to_global(source)), "r"(source_bytes), "l"(policy)
               : "memory");
#else
  GRIDPOINT_TELL_SITE();
  static_cast<void>(policy);
  gridpoint_cp_async(target, source, 16, source_bytes);
#endif
}

GRIDPOINT_DEVICE void copy_async_commit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  gridpoint_cp_async_commit();
#endif
}

// Waits until at most `Pending` of this thread's newest groups are incomplete (9.7.9.25.3.3).
template <uint32_t Pending>
GRIDPOINT_DEVICE void copy_async_wait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" : : "n"(Pending) : "memory");
#else
  gridpoint_cp_async_wait(Pending);
#endif
}

// ---- synchronisation ----------------------------------------------------------------------------------------------------------

GRIDPOINT_DEVICE void block_barrier() {
#ifdef __CUDACC__
  __syncthreads();
#else
  gridpoint_barrier(0, 0);
#endif
}

GRIDPOINT_DEVICE void warp_barrier() {
#ifdef __CUDACC__
  __syncwarp(kFullMask);
#else
  gridpoint_warp_sync(kFullMask);
#endif
}

// atom.acq_rel.gpu.global.add.u32: the value before.
GRIDPOINT_DEVICE uint32_t atomic_add_device(uint32_t* target, uint32_t value) {
#ifdef __CUDACC__
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(__cvta_generic_to_global(target)), "r"(value) : "memory");
  return before;
#else
  return gridpoint_atomic_add(target, value, 1, 1);
#endif
}

// atom.relaxed.cta.shared.add.u32 on shared memory: the value before.
GRIDPOINT_DEVICE uint32_t atomic_add_shared(uint32_t* target, uint32_t value) {
#ifdef __CUDACC__
  uint32_t before;
  asm volatile("atom.relaxed.cta.shared.add.u32 %0, [%1], %2;" : "=r"(before) : "r"(shared_address(target)), "r"(value) : "memory");
  return before;
#else
  return gridpoint_atomic_add(target, value, 0, 0);
#endif
}

// atom.relaxed.cta.shared.add.u64 on shared memory: the value before.
GRIDPOINT_DEVICE uint64_t atomic_add_shared64(uint64_t* target, uint64_t value) {
#ifdef __CUDACC__
  uint64_t before;
  asm volatile("atom.relaxed.cta.shared.add.u64 %0, [%1], %2;" : "=l"(before) : "r"(shared_address(target)), "l"(value) : "memory");
  return before;
#else
  return gridpoint_atomic_add64(target, value, 0, 0);
#endif
}

// fence.acq_rel.gpu.
GRIDPOINT_DEVICE void fence_device() {
#ifdef __CUDACC__
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
#else
  gridpoint_fence(1);
#endif
}

// fence.acq_rel.sys: orders this thread's writes to mapped host memory.
GRIDPOINT_DEVICE void fence_system() {
#ifdef __CUDACC__
  asm volatile("fence.acq_rel.sys;" ::: "memory");
#else
  gridpoint_fence(2);
#endif
}

// Returns once all prerequisite grids have completed and their writes are visible; no activation may be read before
// (9.7.13.13, griddepcontrol.wait). A no-op in a launch without a programmatic dependency.
GRIDPOINT_DEVICE void grid_dependency_wait() {
#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
#else
  gridpoint_grid_dependency_wait();
#endif
}

// ---- warp collectives ---------------------------------------------------------------------------------------------------------

// shfl.sync.bfly.b32 over the whole warp.
GRIDPOINT_DEVICE uint32_t shuffle_xor(uint32_t value, uint32_t lane_mask) {
#ifdef __CUDACC__
  return __shfl_xor_sync(kFullMask, value, lane_mask);
#else
  return gridpoint_shuffle(3, kFullMask, value, lane_mask);
#endif
}

GRIDPOINT_DEVICE float shuffle_xor(float value, uint32_t lane_mask) { return float_from_bits(shuffle_xor(float_bits(value), lane_mask)); }

// shfl.sync.up.b32: the value of lane - delta, or the own value below.
GRIDPOINT_DEVICE uint32_t shuffle_up(uint32_t value, uint32_t delta) {
#ifdef __CUDACC__
  return __shfl_up_sync(kFullMask, value, delta);
#else
  return gridpoint_shuffle(1, kFullMask, value, delta);
#endif
}

// shfl.sync.idx.b32.
GRIDPOINT_DEVICE uint32_t shuffle_index(uint32_t value, uint32_t lane) {
#ifdef __CUDACC__
  return __shfl_sync(kFullMask, value, lane);
#else
  return gridpoint_shuffle(0, kFullMask, value, lane);
#endif
}

// vote.sync.ballot.b32.
GRIDPOINT_DEVICE uint32_t ballot(bool predicate) {
#ifdef __CUDACC__
  return __ballot_sync(kFullMask, predicate);
#else
  return gridpoint_ballot(kFullMask, predicate);
#endif
}

// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8 (9.7.14.5.15, ldmatrix.x4).
GRIDPOINT_DEVICE void load_matrix_x4(uint32_t (&fragment)[4], uint32_t address) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(address)
               : "memory");
#else
  gridpoint_ldmatrix(fragment, 4, 0, address);
#endif
}

// As load_matrix_x4, each matrix transposed (ldmatrix.x4.trans).
GRIDPOINT_DEVICE void load_matrix_x4_transposed(uint32_t (&fragment)[4], uint32_t address) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(address)
               : "memory");
#else
  gridpoint_ldmatrix(fragment, 4, 1, address);
#endif
}

// M x N instructions mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 on shared operands, d += a x b (9.7.14.5.8):
// d[m][n] holds rows m * 16 + lane / 4 (+ 8) and columns n * 8 + lane % 4 * 2 (+ 1).
template <int M, int N>
GRIDPOINT_DEVICE void mma_bf16(float (&d)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2]) {
#ifdef __CUDACC__
  GRIDPOINT_UNROLL
  for (int m = 0; m < M; ++m) {
    GRIDPOINT_UNROLL
    for (int n = 0; n < N; ++n) {
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                   : "+f"(d[m][n][0]), "+f"(d[m][n][1]), "+f"(d[m][n][2]), "+f"(d[m][n][3])
                   : "r"(a[m][0]), "r"(a[m][1]), "r"(a[m][2]), "r"(a[m][3]), "r"(b[n][0]), "r"(b[n][1]));
    }
  }
#else
  gridpoint_mma_bf16(&d[0][0][0], &a[0][0], &b[0][0], M, N);
#endif
}

}  // namespace gridpoint

#include "ptx_warp.cuh"
#include "ptx_mbarrier.cuh"
#include "ptx_bulk.cuh"
#include "ptx_cluster.cuh"
#include "ptx_wgmma.cuh"

// ---- kernels and their table --------------------------------------------------------------------------------------------------
//
// A .cu file lists its kernels once, `#define NORM_KERNELS(X) X(name, ParameterStruct, threads, blocks_per_multiprocessor, body)`,
// and ends with GRIDPOINT_MODULE(norm, NORM_KERNELS). `body` is a function (possibly a template instance) taking the struct.

#ifdef __CUDACC__
#define GRIDPOINT_DEFINE_KERNEL(name, Parameters, threads, blocks, ...)                                                        \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Parameters parameters) {          \
    __VA_ARGS__(parameters);                                                                                                   \
  }
#define GRIDPOINT_MODULE(module, LIST) LIST(GRIDPOINT_DEFINE_KERNEL)
#else
#define GRIDPOINT_DEFINE_KERNEL(name, Parameters, threads, blocks, ...)                                                        \
  static void name(const void* parameters) { __VA_ARGS__(*static_cast<const Parameters*>(parameters)); }
#define GRIDPOINT_LIST_KERNEL(name, Parameters, threads, blocks, ...) {#name, &name, sizeof(Parameters), threads, nullptr, 0, nullptr},
// A build that tells the simulator of plain accesses lives beside the fast one, under names that its compiler is given.
#ifndef GRIDPOINT_MODULE_SYMBOL
#define GRIDPOINT_MODULE_SYMBOL(module) gridpoint_module_##module
#endif
#define GRIDPOINT_MODULE(module, LIST)                                                                                         \
  LIST(GRIDPOINT_DEFINE_KERNEL)                                                                                                \
  static const GridpointKernel module##_kernels[] = {LIST(GRIDPOINT_LIST_KERNEL)};                                             \
  extern "C" const GridpointModule GRIDPOINT_MODULE_SYMBOL(module) = {#module, module##_kernels, sizeof(module##_kernels) / sizeof(GridpointKernel)};
#endif
