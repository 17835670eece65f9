// RMSNorm (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019) of the rows that the language-model head reads; those in front
// of other products are folded into them (row_scale.cu, skinny.cu).
//
//   output[r, :] = x * weight / sqrt(mean(x^2) + epsilon), x = input[row(r), :]
//
// Shapes: input [T, width], weight [width], output [rows, width]; width a multiple of 8, up to 65536. row(r) is r, or the token row that
// logit row r names. Arithmetic is float32 with one rounding at the end; Hugging Face's Llama rounds x / rms once more before the
// multiplication by the weight, which only loses bits.
//
// A row is spread over one warp where its width allows each lane at most four vectors of 16 bytes (width <= 1024), else over the
// whole block. The choice, and with it the order of the sum of squares, follows from the width alone, so that a row has the same
// bits in any batch and any grid. The first four vectors of a thread stay in registers between the two passes; those of wider
// rows (above 8192) are read again, from L1 or L2. A thread's partial sum reaches the others through shared memory: one warp
// barrier a row, and one block barrier more where the block shares a row. Buffers alternate between rows, which stands in for a second
// barrier: whoever writes buffer b again has passed the barrier after everyone's reads of b.
//
// Output may be the same buffer as input where rows are tokens: each element is read and written by one thread. With gathered rows they
// must be distinct.
//
// Launch: GRIDPOINT_NORM_THREADS threads, GRIDPOINT_NORM_SHARED_BYTES of shared memory, any grid; full at one block for every
// eight rows of width <= 1024, else one for every row. Every thread waits for the kernel before it first of all, also without a row.
#include "element.cuh"
#include "tile.cuh"

namespace gridpoint {
namespace {

constexpr uint32_t kVectorElements = 8;
constexpr uint32_t kWarps = GRIDPOINT_NORM_THREADS / kWarpThreads;
// Vectors of a row that a thread keeps in registers.
constexpr uint32_t kHeldVectors = 4;
constexpr uint32_t kWarpRowVectors = kHeldVectors * kWarpThreads;
static_assert(GRIDPOINT_NORM_THREADS % kWarpThreads == 0, "a block is whole warps");

struct NormShared {
  // Partial sums of squares: two alternating buffers of each warp's lanes, and of the block's warps.
  float lane_sums[kWarps][2][kWarpThreads];
  float warp_sums[2][kWarps];
};
static_assert(sizeof(NormShared) == GRIDPOINT_NORM_SHARED_BYTES, "the launch reserves exactly this struct");

template <class Element>
GRIDPOINT_DEVICE float add_squares(float total, const Vector16& values) {
  GRIDPOINT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float low = Element::low(values.word[i]);
    const float high = Element::high(values.word[i]);
    total = fused_multiply_add(high, high, fused_multiply_add(low, low, total));
  }
  return total;
}

template <class Element>
GRIDPOINT_DEVICE Vector16 normalized(const Vector16& values, const Vector16& weights, float scale) {
  Vector16 result;
  GRIDPOINT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float low = Element::low(values.word[i]) * scale * Element::low(weights.word[i]);
    const float high = Element::high(values.word[i]) * scale * Element::high(weights.word[i]);
    result.word[i] = Element::pack(low, high);
  }
  return result;
}

// Sum of 32 floats as a binary tree over neighbours, the same in every caller.
GRIDPOINT_DEVICE float tree_sum(const float* values) {
  float part[kWarpThreads];
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < kWarpThreads; ++i) part[i] = values[i];
  GRIDPOINT_UNROLL
  for (uint32_t width = kWarpThreads / 2; width > 0; width /= 2) {
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < width; ++i) part[i] = part[2 * i] + part[2 * i + 1];
  }
  return part[0];
}

// The sum over all threads of a row. `turn` counts the rows this warp has done; all its buffers alternate with it.
template <bool BlockRow>
GRIDPOINT_DEVICE float row_sum(NormShared& memory, float partial, uint32_t turn) {
  const uint32_t buffer = turn % 2;
  memory.lane_sums[warp_index()][buffer][lane_index()] = partial;
  warp_barrier();
  float total = tree_sum(memory.lane_sums[warp_index()][buffer]);
  if (BlockRow) {
    if (lane_index() == 0) memory.warp_sums[buffer][warp_index()] = total;
    block_barrier();
    total = 0.0f;
    GRIDPOINT_UNROLL
    for (uint32_t warp = 0; warp < kWarps; ++warp) total += memory.warp_sums[buffer][warp];
  }
  return total;
}

// Rows first, first + stride, ...; each is shared by `Threads` threads, of which this is number `thread`.
template <class Element, bool BlockRow>
GRIDPOINT_DEVICE void norm_rows(const NormParameters& parameters, uint32_t first, uint32_t stride, uint32_t thread) {
  constexpr uint32_t kThreads = BlockRow ? GRIDPOINT_NORM_THREADS : kWarpThreads;
  NormShared& memory = shared<NormShared>();
  const StepHeader* step = parameters.step;
  const LogitRow* logit_rows = section<LogitRow>(step, step->logit_rows_offset);
  const uint32_t rows = live_rows(step, parameters.rows);
  const uint32_t vectors = parameters.width / kVectorElements;
  const float inverse_width = divide(1.0f, static_cast<float>(parameters.width));
  uint32_t turn = 0;
  for (uint32_t r = first; r < rows; r += stride, ++turn) {
    const uint32_t source_row = parameters.rows == GRIDPOINT_ROWS_TOKENS ? r : static_cast<uint32_t>(logit_rows[r].token_row);
    const uint64_t source = static_cast<uint64_t>(source_row) * parameters.width;
    const uint16_t* input = parameters.input + source;
    uint16_t* output = parameters.output + static_cast<uint64_t>(r) * parameters.width;

    Vector16 held[kHeldVectors];
    float partial = 0.0f;
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kHeldVectors; ++i) {
      const uint32_t vector = thread + i * kThreads;
      if (vector < vectors) held[i] = load16(input + vector * kVectorElements);
    }
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kHeldVectors; ++i) {
      const uint32_t vector = thread + i * kThreads;
      if (vector < vectors) partial = add_squares<Element>(partial, held[i]);
    }
    if (BlockRow) {
      for (uint32_t vector = thread + kHeldVectors * kThreads; vector < vectors; vector += kThreads) {
        partial = add_squares<Element>(partial, load16(input + vector * kVectorElements));
      }
    }

    const float mean = row_sum<BlockRow>(memory, partial, turn) * inverse_width;
    const float scale = reciprocal_square_root(mean + parameters.epsilon);

    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kHeldVectors; ++i) {
      const uint32_t vector = thread + i * kThreads;
      if (vector < vectors) {
        const Vector16 weights = load16(parameters.weight + vector * kVectorElements);
        store16(output + vector * kVectorElements, normalized<Element>(held[i], weights, scale));
      }
    }
    if (BlockRow) {
      for (uint32_t vector = thread + kHeldVectors * kThreads; vector < vectors; vector += kThreads) {
        const Vector16 weights = load16(parameters.weight + vector * kVectorElements);
        store16(output + vector * kVectorElements, normalized<Element>(load16(input + vector * kVectorElements), weights, scale));
      }
    }
  }
}

template <class Element>
GRIDPOINT_DEVICE void norm(const NormParameters& parameters) {
  // At once: the product behind this loads its first weights while the product in front of it ends. It waits by itself.
  grid_launch_dependents();
  grid_dependency_wait();
  if (parameters.width / kVectorElements <= kWarpRowVectors) {
    norm_rows<Element, false>(parameters, block_index() * kWarps + warp_index(), grid_blocks() * kWarps, lane_index());
  } else {
    norm_rows<Element, true>(parameters, block_index(), grid_blocks(), thread_index());
  }
}

}  // namespace
}  // namespace gridpoint

#define NORM_KERNELS(X)                                                                        \
  X(rms_norm, NormParameters, GRIDPOINT_NORM_THREADS, 3, gridpoint::norm<gridpoint::Bf16>)     \
  X(rms_norm_f16, NormParameters, GRIDPOINT_NORM_THREADS, 3, gridpoint::norm<gridpoint::F16>)
GRIDPOINT_MODULE(norm, NORM_KERNELS)
