// Atomic functions: relaxed, of the device's scope, or by their suffix of the block's or the system's ("Atomic Functions"). Included by
// gridpoint_cuda.h.
#pragma once

namespace gridpoint_cuda {

template <typename T>
static inline T atomic(uint32_t operation, T* pointer, T value, uint32_t scope) {
  if constexpr (sizeof(T) == 4) {
    return bits_as<T>(gridpoint_atomic(operation, reinterpret_cast<uint32_t*>(pointer), bits_as<uint32_t>(value), scope, 0));
  } else {
    return bits_as<T>(gridpoint_atomic64(operation, reinterpret_cast<uint64_t*>(pointer), bits_as<uint64_t>(value), scope, 0));
  }
}

template <typename T>
static inline T compare_and_swap(T* pointer, T expected, T value, uint32_t scope) {
  if constexpr (sizeof(T) == 4) {
    return bits_as<T>(gridpoint_atomic_compare_exchange(reinterpret_cast<uint32_t*>(pointer), bits_as<uint32_t>(expected),
                                                        bits_as<uint32_t>(value), scope, 0));
  } else {
    return bits_as<T>(gridpoint_atomic_compare_exchange64(reinterpret_cast<uint64_t*>(pointer), bits_as<uint64_t>(expected),
                                                          bits_as<uint64_t>(value), scope, 0));
  }
}

}  // namespace gridpoint_cuda

#define GRIDPOINT_ATOMIC(name, operation, type)                                                                               \
  static inline type name(type* pointer, type value) { return gridpoint_cuda::atomic(operation, pointer, value, 1); }          \
  static inline type name##_block(type* pointer, type value) { return gridpoint_cuda::atomic(operation, pointer, value, 0); }  \
  static inline type name##_system(type* pointer, type value) { return gridpoint_cuda::atomic(operation, pointer, value, 2); }
#define GRIDPOINT_ATOMIC_CAS(type)                                                                                            \
  static inline type atomicCAS(type* pointer, type expected, type value) {                                                    \
    return gridpoint_cuda::compare_and_swap(pointer, expected, value, 1);                                                     \
  }                                                                                                                           \
  static inline type atomicCAS_block(type* pointer, type expected, type value) {                                              \
    return gridpoint_cuda::compare_and_swap(pointer, expected, value, 0);                                                     \
  }                                                                                                                           \
  static inline type atomicCAS_system(type* pointer, type expected, type value) {                                             \
    return gridpoint_cuda::compare_and_swap(pointer, expected, value, 2);                                                     \
  }
GRIDPOINT_ATOMIC(atomicAdd, 0, int)
GRIDPOINT_ATOMIC(atomicAdd, 0, unsigned int)
GRIDPOINT_ATOMIC(atomicAdd, 0, unsigned long long)
GRIDPOINT_ATOMIC(atomicAdd, 11, float)
GRIDPOINT_ATOMIC(atomicAdd, 11, double)
GRIDPOINT_ATOMIC(atomicMin, 3, int)
GRIDPOINT_ATOMIC(atomicMin, 1, unsigned int)
GRIDPOINT_ATOMIC(atomicMin, 3, long long)
GRIDPOINT_ATOMIC(atomicMin, 1, unsigned long long)
GRIDPOINT_ATOMIC(atomicMax, 4, int)
GRIDPOINT_ATOMIC(atomicMax, 2, unsigned int)
GRIDPOINT_ATOMIC(atomicMax, 4, long long)
GRIDPOINT_ATOMIC(atomicMax, 2, unsigned long long)
GRIDPOINT_ATOMIC(atomicAnd, 5, int)
GRIDPOINT_ATOMIC(atomicAnd, 5, unsigned int)
GRIDPOINT_ATOMIC(atomicAnd, 5, unsigned long long)
GRIDPOINT_ATOMIC(atomicOr, 6, int)
GRIDPOINT_ATOMIC(atomicOr, 6, unsigned int)
GRIDPOINT_ATOMIC(atomicOr, 6, unsigned long long)
GRIDPOINT_ATOMIC(atomicXor, 7, int)
GRIDPOINT_ATOMIC(atomicXor, 7, unsigned int)
GRIDPOINT_ATOMIC(atomicXor, 7, unsigned long long)
GRIDPOINT_ATOMIC(atomicExch, 8, int)
GRIDPOINT_ATOMIC(atomicExch, 8, unsigned int)
GRIDPOINT_ATOMIC(atomicExch, 8, unsigned long long)
GRIDPOINT_ATOMIC(atomicExch, 8, float)
GRIDPOINT_ATOMIC(atomicInc, 9, unsigned int)
GRIDPOINT_ATOMIC(atomicDec, 10, unsigned int)
GRIDPOINT_ATOMIC_CAS(int)
GRIDPOINT_ATOMIC_CAS(unsigned int)
GRIDPOINT_ATOMIC_CAS(unsigned long long)
#undef GRIDPOINT_ATOMIC
#undef GRIDPOINT_ATOMIC_CAS

// atom.add of the negated value.
static inline int atomicSub(int* pointer, int value) { return static_cast<int>(atomicAdd(reinterpret_cast<unsigned int*>(pointer), 0u - static_cast<unsigned int>(value))); }
static inline unsigned int atomicSub(unsigned int* pointer, unsigned int value) { return atomicAdd(pointer, 0u - value); }
