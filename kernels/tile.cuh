// What the kernels share above single instructions: sections of the step block, reductions, rounding, swizzled shared tiles.
#pragma once
#include "parameters.h"
#include "ptx.cuh"

namespace gridpoint {

GRIDPOINT_DEVICE uint32_t ceiling_divide(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
GRIDPOINT_DEVICE uint32_t minimum(uint32_t a, uint32_t b) { return a < b ? a : b; }
GRIDPOINT_DEVICE uint32_t maximum(uint32_t a, uint32_t b) { return a > b ? a : b; }
GRIDPOINT_DEVICE float maximum(float a, float b) { return a > b ? a : b; }

// A section of the step block, by the byte offset that its header holds.
template <typename T>
GRIDPOINT_DEVICE const T* section(const StepHeader* step, uint32_t offset) {
  return reinterpret_cast<const T*>(reinterpret_cast<const unsigned char*>(step) + offset);
}

// How many rows an operation has in this step.
GRIDPOINT_DEVICE uint32_t live_rows(const StepHeader* step, uint32_t rows) { return rows == GRIDPOINT_ROWS_TOKENS ? step->tokens : step->logit_rows; }

// Butterfly sum over the warp: every lane gets the same bits, in an order fixed by lane numbers.
GRIDPOINT_DEVICE float warp_sum(float value) {
  GRIDPOINT_UNROLL
  for (uint32_t mask = kWarpThreads / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

GRIDPOINT_DEVICE float warp_maximum(float value) {
  GRIDPOINT_UNROLL
  for (uint32_t mask = kWarpThreads / 2; mask > 0; mask /= 2) value = maximum(value, shuffle_xor(value, mask));
  return value;
}

// 1 / rms of a row from the sum of its squares: the same operations wherever it is computed.
GRIDPOINT_DEVICE float row_scale_of(float sum_of_squares, float inverse_width, float epsilon) {
  return reciprocal_square_root(fused_multiply_add(sum_of_squares, inverse_width, epsilon));
}

// The low and high bf16 of a packed word as floats.
GRIDPOINT_DEVICE float low_bf16(uint32_t packed) { return bf16_to_float(packed & 0xffffu); }
GRIDPOINT_DEVICE float high_bf16(uint32_t packed) { return bf16_to_float(packed >> 16); }

// Byte offset of 16-byte chunk `chunk` of row `row` in a shared tile whose rows are `RowBytes` (a multiple of 64) long, so that the eight rows
// an ldmatrix phase reads lie in different banks. Rows made of 128-byte spans: the chunk index is xor-ed with the row inside each span. Other
// rows (192 bytes): every other row starts in the middle of a span already, so the chunk index is xor-ed with half the row inside each 64 bytes.
template <uint32_t RowBytes>
GRIDPOINT_DEVICE uint32_t swizzled(uint32_t row, uint32_t chunk) {
  static_assert(RowBytes % 64 == 0, "a swizzled row is made of 64-byte spans");
  return row * RowBytes + ((chunk ^ (RowBytes % 128 == 0 ? row & 7u : row >> 1 & 3u)) << 4);
}

// The place `chunks` (even) chunks behind `place`, a place of `swizzled` in the first two chunks of its row.
template <uint32_t RowBytes>
GRIDPOINT_DEVICE uint32_t swizzled_further(uint32_t place, uint32_t chunks) {
  return RowBytes % 128 == 0 ? place ^ (chunks << 4) : (place ^ ((chunks & 2u) << 4)) + (chunks >> 2 << 6);
}

}  // namespace gridpoint
