// Rotary position embedding and append to the paged key-value cache, in one pass over the fused projection.
//
// What: for every live token, query heads are rotated in place, key heads are rotated into the key cache, value heads are copied
// into the value cache. The key columns of `qkv` keep their unrotated values: attention reads keys from the cache alone.
// Shapes: qkv [T, (Hq + 2 Hkv) * d]; caches [pages, Hkv, 64, d]; elements bf16, of kernels `_f16` float16; d 64, 96, 128, 256;
// rotary float [positions, d / 2, 2] = (cos, sin).
// Convention: the halves of a head are rotated against each other, as checkpoints in the Hugging Face layout expect
// (RoFormer, arXiv 2104.09864, with the pairs (i, i + d / 2)):
//   out[i] = x[i] cos - x[i + d/2] sin,  out[i + d/2] = x[i + d/2] cos + x[i] sin, in float32, rounded once.
// Work: one thread takes 8 pairs of one head (two 16-byte loads, two 16-byte stores), grid-stride over live tokens x heads, so any
// grid gives the same bits and padding costs nothing. A token with slot -1 is rotated and stores nothing.
// Contract of the host: a position lies inside the table, a slot inside the cache, and T * (Hq + 2 Hkv) * d / 16 below 2^31.
#include "element.cuh"
#include "tile.cuh"

namespace gridpoint {
namespace {

constexpr uint32_t kRopeThreads = GRIDPOINT_ROPE_THREADS;
// Elements of a 16-byte access.
constexpr uint32_t kVector = 8;

struct RotatedPair {
  Vector16 first;
  Vector16 second;
};

// Rotates 8 pairs: `first` holds x[i], `second` x[i + d/2], `rotary` the 8 (cos, sin).
template <typename Element>
GRIDPOINT_DEVICE RotatedPair rotate(const Vector16& first, const Vector16& second, const float* rotary) {
  RotatedPair result;
  GRIDPOINT_UNROLL
  for (uint32_t word = 0; word < 4; ++word) {
    const Vector16 angles = load16(rotary + word * 4);
    const float low_cos = float_from_bits(angles.word[0]);
    const float low_sin = float_from_bits(angles.word[1]);
    const float high_cos = float_from_bits(angles.word[2]);
    const float high_sin = float_from_bits(angles.word[3]);
    const float low_a = Element::low(first.word[word]);
    const float high_a = Element::high(first.word[word]);
    const float low_b = Element::low(second.word[word]);
    const float high_b = Element::high(second.word[word]);
    result.first.word[word] =
        Element::pack(fused_multiply_add(-low_b, low_sin, low_a * low_cos), fused_multiply_add(-high_b, high_sin, high_a * high_cos));
    result.second.word[word] =
        Element::pack(fused_multiply_add(low_a, low_sin, low_b * low_cos), fused_multiply_add(high_a, high_sin, high_b * high_cos));
  }
  return result;
}

template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void rope_append(const RopeAppendParameters& parameters) {
  static_assert(HeadDim % (2 * kVector) == 0, "half a head is a whole number of 16-byte vectors");
  constexpr uint32_t kHalf = HeadDim / 2;
  constexpr uint32_t kParts = kHalf / kVector;
  grid_dependency_wait();
  const StepHeader* step = parameters.step;
  const int32_t* positions = section<int32_t>(step, step->positions_offset);
  const int32_t* slots = section<int32_t>(step, step->slots_offset);
  const uint32_t heads = parameters.query_heads + 2 * parameters.kv_heads;
  const uint32_t units = step->tokens * heads * kParts;
  const uint32_t stride = grid_blocks() * block_threads();
  for (uint32_t unit = block_index() * block_threads() + thread_index(); unit < units; unit += stride) {
    const uint32_t part = unit % kParts;
    const uint32_t row = unit / kParts;
    const uint32_t token = row / heads;
    const uint32_t head = row - token * heads;
    const int32_t slot = slots[token];
    const bool is_query = head < parameters.query_heads;
    if (!is_query && slot < 0) continue;

    uint16_t* source = parameters.qkv + uint64_t{row} * HeadDim + part * kVector;
    RotatedPair pair = {load16(source), load16(source + kHalf)};
    const bool is_value = head >= parameters.query_heads + parameters.kv_heads;
    if (!is_value) {
      const float* rotary = parameters.rotary + static_cast<uint64_t>(positions[token]) * HeadDim + part * (2 * kVector);
      pair = rotate<Element>(pair.first, pair.second, rotary);
    }
    uint16_t* target = source;
    if (!is_query) {
      const uint32_t kv_head = head - parameters.query_heads - (is_value ? parameters.kv_heads : 0);
      const uint64_t page = static_cast<uint32_t>(slot) / GRIDPOINT_PAGE_TOKENS;
      const uint32_t place = static_cast<uint32_t>(slot) % GRIDPOINT_PAGE_TOKENS;
      target = (is_value ? parameters.value_cache : parameters.key_cache) +
               ((page * parameters.kv_heads + kv_head) * GRIDPOINT_PAGE_TOKENS + place) * HeadDim + part * kVector;
    }
    store16(target, pair.first);
    store16(target + kHalf, pair.second);
  }
}

}  // namespace
}  // namespace gridpoint

#define ROPE_INSTANCE(X, name, Element, dim) \
  X(name, RopeAppendParameters, gridpoint::kRopeThreads, 4, gridpoint::rope_append<gridpoint::Element, dim>)
#define ROPE_INSTANCES(X, suffix, Element)              \
  ROPE_INSTANCE(X, rope_append_d64##suffix, Element, 64)   \
  ROPE_INSTANCE(X, rope_append_d96##suffix, Element, 96)   \
  ROPE_INSTANCE(X, rope_append_d128##suffix, Element, 128) \
  ROPE_INSTANCE(X, rope_append_d256##suffix, Element, 256)
#define ROPE_KERNELS(X) ROPE_INSTANCES(X, , Bf16) ROPE_INSTANCES(X, _f16, F16)

GRIDPOINT_MODULE(rope, ROPE_KERNELS)
