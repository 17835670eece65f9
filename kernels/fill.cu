// Random numbers for weights, activations and the key-value cache of models that are only to be timed or counted.
//
//   target[i] = offset + half_width * u(seed, tensor, i), u uniform in (-1, 1)
//
// u is 16 bits of a Philox block whose key is the seed and whose counter holds tensor and i / 8, so that a tensor has the same bits
// whatever the grid. u is an odd multiple of 2^-16: with offset 0 no element is zero, and none is NaN or infinite. A standard deviation s
// asks for a half width of sqrt(3) s.
//
// Shapes: target 16-bit elements [count], at a multiple of 16 bytes; what follows element count - 1 is left alone.
//
// Launch: GRIDPOINT_FILL_THREADS threads, no shared memory, any grid. A thread makes eight elements at a time, one vector.
#include "element.cuh"
#include "philox.cuh"
#include "tile.cuh"

namespace gridpoint {
namespace {

constexpr uint32_t kVectorElements = 8;

// The low and the high 16 bits of a word as numbers in (-1, 1).
GRIDPOINT_DEVICE float low_uniform(uint32_t word) { return fused_multiply_add(static_cast<float>(word & 0xffffu), 0x1p-15f, 0x1p-16f - 1.0f); }
GRIDPOINT_DEVICE float high_uniform(uint32_t word) { return low_uniform(word >> 16); }

template <typename Element>
GRIDPOINT_DEVICE void fill_random(const FillParameters& parameters) {
  grid_dependency_wait();
  const uint64_t stride = uint64_t{grid_blocks()} * block_threads();
  const uint64_t vectors = (parameters.count + kVectorElements - 1) / kVectorElements;
  for (uint64_t vector = uint64_t{block_index()} * block_threads() + thread_index(); vector < vectors; vector += stride) {
    const PhiloxBlock bits =
        philox4x32_10({{static_cast<uint32_t>(vector), static_cast<uint32_t>(vector >> 32), parameters.tensor, 0}}, parameters.seed);
    Vector16 values;
    GRIDPOINT_UNROLL
    for (int i = 0; i < 4; ++i) {
      values.word[i] = Element::pack(fused_multiply_add(low_uniform(bits.word[i]), parameters.half_width, parameters.offset),
                                     fused_multiply_add(high_uniform(bits.word[i]), parameters.half_width, parameters.offset));
    }
    const uint64_t first = vector * kVectorElements;
    if (parameters.count - first >= kVectorElements) {
      store16(parameters.target + first, values);
    } else {
      const uint32_t rest = static_cast<uint32_t>(parameters.count - first);
      GRIDPOINT_UNROLL
      for (uint32_t i = 0; i < kVectorElements; ++i) {
        if (i < rest) parameters.target[first + i] = static_cast<uint16_t>(values.word[i / 2] >> (i % 2 * 16));
      }
    }
  }
}

}  // namespace
}  // namespace gridpoint

#define FILL_KERNELS(X)                                                                                    \
  X(fill_random, FillParameters, GRIDPOINT_FILL_THREADS, 4, gridpoint::fill_random<gridpoint::Bf16>)       \
  X(fill_random_f16, FillParameters, GRIDPOINT_FILL_THREADS, 4, gridpoint::fill_random<gridpoint::F16>)
GRIDPOINT_MODULE(fill, FILL_KERNELS)
