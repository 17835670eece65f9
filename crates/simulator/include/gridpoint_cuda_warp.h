// Barriers, fences and warp collectives. Included by gridpoint_cuda.h.
#pragma once

static inline void __syncthreads() { gridpoint_barrier(0, 0); }
static inline void __syncwarp(unsigned int mask = 0xffffffffu) { gridpoint_warp_sync(mask); }
static inline void __threadfence_block() { gridpoint_fence(0); }
static inline void __threadfence() { gridpoint_fence(1); }
static inline void __threadfence_system() { gridpoint_fence(2); }

static inline unsigned int __ballot_sync(unsigned int mask, int predicate) {
  return gridpoint_ballot(mask, predicate != 0);
}
static inline int __any_sync(unsigned int mask, int predicate) { return static_cast<int>(gridpoint_vote(0, mask, predicate != 0)); }
static inline int __all_sync(unsigned int mask, int predicate) { return static_cast<int>(gridpoint_vote(1, mask, predicate != 0)); }

static inline unsigned int __reduce_add_sync(unsigned int mask, unsigned int value) { return gridpoint_reduce(0, mask, value); }
static inline unsigned int __reduce_min_sync(unsigned int mask, unsigned int value) { return gridpoint_reduce(1, mask, value); }
static inline unsigned int __reduce_max_sync(unsigned int mask, unsigned int value) { return gridpoint_reduce(2, mask, value); }
static inline unsigned int __reduce_and_sync(unsigned int mask, unsigned int value) { return gridpoint_reduce(5, mask, value); }
static inline unsigned int __reduce_or_sync(unsigned int mask, unsigned int value) { return gridpoint_reduce(6, mask, value); }
static inline unsigned int __reduce_xor_sync(unsigned int mask, unsigned int value) { return gridpoint_reduce(7, mask, value); }
static inline int __reduce_add_sync(unsigned int mask, int value) {
  return static_cast<int>(gridpoint_reduce(0, mask, static_cast<uint32_t>(value)));
}
static inline int __reduce_min_sync(unsigned int mask, int value) {
  return static_cast<int>(gridpoint_reduce(3, mask, static_cast<uint32_t>(value)));
}
static inline int __reduce_max_sync(unsigned int mask, int value) {
  return static_cast<int>(gridpoint_reduce(4, mask, static_cast<uint32_t>(value)));
}

namespace gridpoint_cuda {

// shfl.sync of 32 bits among segments of `width` lanes. The machine knows whole warps; with smaller segments the lane that is read is
// worked out here, and a lane whose source lies outside its segment reads itself ("Warp Shuffle Functions").
static inline uint32_t shuffle_word(uint32_t mode, uint32_t mask, uint32_t value, uint32_t operand, int width) {
  if (width == 32) return gridpoint_shuffle(mode, mask, value, operand);
  if (width <= 0 || width > 32 || (width & (width - 1)) != 0) {
    gridpoint_fault("the width of a shuffle must be a power of two of at most 32");
  }
  const uint32_t me = lane(), size = static_cast<uint32_t>(width);
  const uint32_t first = me / size * size, last = first + size - 1;
  uint32_t source = me;
  if (mode == 0) source = first + operand % size;
  if (mode == 1) source = me - first < operand ? me : me - operand;
  if (mode == 2) source = last - me < operand ? me : me + operand;
  // A lane of an earlier segment may be read.
  if (mode == 3) source = (me ^ operand) > last ? me : me ^ operand;
  return gridpoint_shuffle(0, mask, value, source);
}

template <typename T>
static inline T shuffle(uint32_t mode, uint32_t mask, T value, uint32_t operand, int width) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &value, sizeof value);
  for (uint32_t& word : words) word = shuffle_word(mode, mask, word, operand, width);
  memcpy(&value, words, sizeof value);
  return value;
}

}  // namespace gridpoint_cuda

#define GRIDPOINT_SHUFFLES(type)                                                                                              \
  static inline type __shfl_sync(unsigned int mask, type value, int lane, int width = 32) {                                   \
    return gridpoint_cuda::shuffle(0, mask, value, static_cast<uint32_t>(lane), width);                                       \
  }                                                                                                                           \
  static inline type __shfl_up_sync(unsigned int mask, type value, unsigned int delta, int width = 32) {                      \
    return gridpoint_cuda::shuffle(1, mask, value, delta, width);                                                             \
  }                                                                                                                           \
  static inline type __shfl_down_sync(unsigned int mask, type value, unsigned int delta, int width = 32) {                    \
    return gridpoint_cuda::shuffle(2, mask, value, delta, width);                                                             \
  }                                                                                                                           \
  static inline type __shfl_xor_sync(unsigned int mask, type value, int lanes, int width = 32) {                              \
    return gridpoint_cuda::shuffle(3, mask, value, static_cast<uint32_t>(lanes), width);                                      \
  }
GRIDPOINT_SHUFFLES(int)
GRIDPOINT_SHUFFLES(unsigned int)
GRIDPOINT_SHUFFLES(long)
GRIDPOINT_SHUFFLES(unsigned long)
GRIDPOINT_SHUFFLES(long long)
GRIDPOINT_SHUFFLES(unsigned long long)
GRIDPOINT_SHUFFLES(float)
GRIDPOINT_SHUFFLES(double)
#undef GRIDPOINT_SHUFFLES
