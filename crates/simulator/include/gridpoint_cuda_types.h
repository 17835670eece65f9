// Qualifiers, vector types, who a thread is, and shared memory. Included by gridpoint_cuda.h.
#pragma once

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// Only constants with an initialiser: nothing copies to a symbol.
#define __constant__ static const

// A host compiler can only make these static. They lie in a section of their own, which the module's table names; where the build moves
// them there (gridpoint-simulator-build), inline functions and templates can have them too.
// An assembler takes a section for a symbol: no function may have its name.
#ifndef GRIDPOINT_SHARED_SECTION
#define GRIDPOINT_SHARED_SECTION gridpoint_block_shared
#endif
#define GRIDPOINT_TEXT_OF(words) #words
#define GRIDPOINT_TEXT(words) GRIDPOINT_TEXT_OF(words)
#ifdef GRIDPOINT_SHARED_IS_MOVED
#define __shared__ static
#else
#define __shared__ __attribute__((section(GRIDPOINT_TEXT(GRIDPOINT_SHARED_SECTION)))) static
#endif

// ---- vector types (alignments: "Built-in Vector Types") -----------------------------------------------------------------------

#define GRIDPOINT_VECTORS(base, name, two, four)                                                                              \
  struct name##1 { base x; };                                                                                                  \
  struct alignas(two) name##2 { base x, y; };                                                                                  \
  struct name##3 { base x, y, z; };                                                                                            \
  struct alignas(four) name##4 { base x, y, z, w; };                                                                           \
  constexpr name##1 make_##name##1(base x) { return {x}; }                                                                     \
  constexpr name##2 make_##name##2(base x, base y) { return {x, y}; }                                                          \
  constexpr name##3 make_##name##3(base x, base y, base z) { return {x, y, z}; }                                               \
  constexpr name##4 make_##name##4(base x, base y, base z, base w) { return {x, y, z, w}; }
GRIDPOINT_VECTORS(signed char, char, 2, 4)
GRIDPOINT_VECTORS(unsigned char, uchar, 2, 4)
GRIDPOINT_VECTORS(short, short, 4, 8)
GRIDPOINT_VECTORS(unsigned short, ushort, 4, 8)
GRIDPOINT_VECTORS(int, int, 8, 16)
GRIDPOINT_VECTORS(unsigned int, uint, 8, 16)
GRIDPOINT_VECTORS(long, long, 16, 16)
GRIDPOINT_VECTORS(unsigned long, ulong, 16, 16)
GRIDPOINT_VECTORS(long long, longlong, 16, 16)
GRIDPOINT_VECTORS(unsigned long long, ulonglong, 16, 16)
GRIDPOINT_VECTORS(float, float, 8, 16)
GRIDPOINT_VECTORS(double, double, 16, 16)
#undef GRIDPOINT_VECTORS

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};

// ---- who a thread is ------------------------------------------------------------------------------------------------------------

namespace gridpoint_cuda {

static inline const uint3& three(const uint32_t* of) { return *reinterpret_cast<const uint3*>(of); }
static inline const dim3& extent(const uint32_t* of) { return *reinterpret_cast<const dim3*>(of); }

// Number of the thread in its block, and in its warp.
static inline uint32_t linear_thread() {
  const GridpointThread* me = gridpoint_thread();
  return me->thread[0] + me->block_size[0] * (me->thread[1] + me->block_size[1] * me->thread[2]);
}
static inline uint32_t lane() { return linear_thread() % 32; }

}  // namespace gridpoint_cuda

#define threadIdx (gridpoint_cuda::three(gridpoint_thread()->thread))
#define blockIdx (gridpoint_cuda::three(gridpoint_thread()->block))
#define blockDim (gridpoint_cuda::extent(gridpoint_thread()->block_size))
#define gridDim (gridpoint_cuda::extent(gridpoint_thread()->grid_size))
static constexpr int warpSize = 32;

// ---- loads and stores with hints ------------------------------------------------------------------------------------------------

// ld.global.nc: nothing may write there during the launch.
template <typename T>
static inline T __ldg(const T* pointer) {
  gridpoint_global(pointer, sizeof(T), alignof(T), 2);
  return *pointer;
}
template <typename T>
static inline T __ldca(const T* pointer) { return *pointer; }
template <typename T>
static inline T __ldcg(const T* pointer) { return *pointer; }
template <typename T>
static inline T __ldcs(const T* pointer) { return *pointer; }
template <typename T>
static inline void __stcg(T* pointer, T value) { *pointer = value; }
template <typename T>
static inline void __stcs(T* pointer, T value) { *pointer = value; }

// ---- what a kernel says of itself -------------------------------------------------------------------------------------------------

static inline void __trap() { gridpoint_fault("__trap"); }
// Other threads of the block get a turn, whatever the time.
static inline void __nanosleep(unsigned int) { gridpoint_yield(); }
