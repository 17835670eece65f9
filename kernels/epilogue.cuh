// What every matrix product does with its sums: shared by gemm.cu, skinny.cu and gemm_hopper.cu, so that all give the same bits.
//
// From the accumulator x of row r and column c, in float32, rounded once:
//   x *= scale(r)              where the input's normalisation was folded into the product: scale(r) = 1 / rms of input row r, and the
//                              normalisation's weights were multiplied into the product's weights when they were loaded
//   x += bias[c]               where there is one
//   logits:    output = x, in float32
//   residual:  output = x + residual[r, c]
//   swiglu:    output[:, j] = silu(x[:, 2j]) * x[:, 2j + 1], silu(g) = g / (1 + exp(-g)); weights' rows are interleaved gate 0, up 0,
//              gate 1, up 1, ... (Shazeer, "GLU Variants Improve Transformer", 2020)
//   rotary:    columns are query heads, key heads, value heads. In query and key heads columns 2i and 2i + 1 are the elements i and
//              i + d/2 of the head (weights' rows are interleaved so when they are loaded) and are rotated by the row's position
//              (RoFormer, arXiv 2104.09864): a cos - b sin, b cos + a sin. Queries go to output [rows, Hq * d]; keys and values to the row's
//              slot of the paged cache, or nowhere with slot -1. Keys and queries keep the interleaved order, which no dot product sees.
// Hugging Face's modules round after every step; that is the same function with more rounding noise, and the tests compare with float64.
#pragma once
#include "element.cuh"
#include "tile.cuh"

namespace gridpoint {

enum class EpilogueKind { kLogits, kResidual, kSwiGlu, kRotary };

template <class ElementType, EpilogueKind Kind>
struct Epilogue {
  using Element = ElementType;
  static constexpr EpilogueKind kKind = Kind;
};

// Packed pairs of a run of `Count` neighbouring elements.
template <int Count>
struct Run {
  uint32_t word[Count / 2];
};

GRIDPOINT_DEVICE bool aligned(const void* pointer, uint32_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

// The first `count` of `Count` elements, the others zero.
template <int Count>
GRIDPOINT_DEVICE Run<Count> load_run(const uint16_t* source, uint32_t count) {
  Run<Count> run;
  if (count >= Count && aligned(source, Count * 2)) {
    if constexpr (Count == 8) {
      const Vector16 vector = load16(source);
      GRIDPOINT_UNROLL
      for (int i = 0; i < 4; ++i) run.word[i] = vector.word[i];
    } else if constexpr (Count == 4) {
      const Vector8 vector = load8(source);
      run.word[0] = vector.word[0];
      run.word[1] = vector.word[1];
    } else {
      static_assert(Count == 2, "runs are of two, four or eight columns");
      run.word[0] = *reinterpret_cast<const uint32_t*>(source);
    }
    return run;
  }
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < Count / 2; ++i) {
    const uint32_t low = 2 * i < count ? source[2 * i] : 0;
    const uint32_t high = 2 * i + 1 < count ? source[2 * i + 1] : 0;
    run.word[i] = low | high << 16;
  }
  return run;
}

template <class Element, int Count>
GRIDPOINT_DEVICE void store_run(uint16_t* target, const float (&values)[Count], uint32_t count) {
  Run<Count + Count % 2> run;
  GRIDPOINT_UNROLL
  for (int i = 0; i < (Count + 1) / 2; ++i) run.word[i] = Element::pack(values[2 * i], 2 * i + 1 < Count ? values[2 * i + 1] : 0.0f);
  if (Count > 1 && count >= Count && aligned(target, Count * 2)) {
    if constexpr (Count == 8) {
      store16(target, Vector16{{run.word[0], run.word[1], run.word[2], run.word[3]}});
    } else if constexpr (Count == 4) {
      store8(target, Vector8{{run.word[0], run.word[1]}});
    } else if constexpr (Count == 2) {
      *reinterpret_cast<uint32_t*>(target) = run.word[0];
    }
    return;
  }
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < Count; ++i) {
    if (i < count) target[i] = static_cast<uint16_t>(run.word[i / 2] >> (i % 2 * 16));
  }
}

template <int Count>
GRIDPOINT_DEVICE void store_floats(float* target, const float (&values)[Count], uint32_t count) {
  if constexpr (Count % 4 == 0) {
    if (count >= Count && aligned(target, 16)) {
      GRIDPOINT_UNROLL
      for (int i = 0; i < Count; i += 4) {
        store16(target + i, Vector16{{float_bits(values[i]), float_bits(values[i + 1]), float_bits(values[i + 2]), float_bits(values[i + 3])}});
      }
      return;
    }
  } else if (count >= Count && aligned(target, 8)) {
    static_assert(Count == 2, "runs of float are two elements or whole vectors of 16 bytes");
    store8(target, Vector8{{float_bits(values[0]), float_bits(values[1])}});
    return;
  }
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < Count; ++i) {
    if (i < count) target[i] = values[i];
  }
}

// x / (1 + exp(-x)), to a few units of float32 in the last place for |x| below 10, before it is rounded to 16 bits. Of a product's gated
// columns this is most of the epilogue: with exp and a division rounded to nearest it took 45 instructions, so it takes 6.
GRIDPOINT_DEVICE float sigmoid_linear_unit(float x) {
  constexpr float kLog2OfE = 1.44269504f;
  return divide_approximate(x, 1.0f + exp2_approximate(x * -kLog2OfE));
}

// What a row brings along, read once for all its columns.
struct EpilogueRow {
  float scale;
  // Rotary: position of the row's token, and its slot in the cache.
  int32_t position;
  int32_t slot;
};

// Row `row`, where its scale, if there is one, is read from memory (GRIDPOINT_SCALE_GIVEN).
template <class Epilogue>
GRIDPOINT_DEVICE EpilogueRow epilogue_row(const GemmParameters& parameters, uint32_t row) {
  EpilogueRow result = {1.0f, 0, -1};
  if (parameters.scaled == GRIDPOINT_SCALE_GIVEN) result.scale = parameters.row_scales[row];
  if constexpr (Epilogue::kKind == EpilogueKind::kRotary) {
    result.position = section<int32_t>(parameters.step, parameters.step->positions_offset)[row];
    result.slot = section<int32_t>(parameters.step, parameters.step->slots_offset)[row];
  }
  return result;
}

// The bias of a run of columns, zeros without one.
template <int Count>
GRIDPOINT_DEVICE Run<Count> bias_run(const GemmParameters& parameters, uint32_t column) {
  if (parameters.bias == nullptr) return Run<Count>{};
  return load_run<Count>(parameters.bias + column, parameters.n - column);
}

// The residual of a run of a live row, for that epilogue; zeros for others. May be read before the sums are ready, never after the row
// has been finished: it may be what finish_run writes.
template <class Epilogue, int Count>
GRIDPOINT_DEVICE Run<Count> residual_run(const GemmParameters& parameters, uint32_t row, uint32_t column) {
  if constexpr (Epilogue::kKind != EpilogueKind::kResidual) return Run<Count>{};
  return load_run<Count>(parameters.residual + static_cast<uint64_t>(row) * parameters.n + column, parameters.n - column);
}

// Rotates a run of a query or key head by its angles (cos, sin).
template <int Count>
GRIDPOINT_DEVICE void rotate(float (&values)[Count], const float* angles) {
  GRIDPOINT_UNROLL
  for (int i = 0; i < Count; i += 2) {
    const Vector8 angle = load8(angles + i);
    const float cosine = float_from_bits(angle.word[0]);
    const float sine = float_from_bits(angle.word[1]);
    const float a = values[i];
    const float b = values[i + 1];
    values[i] = fused_multiply_add(-b, sine, a * cosine);
    values[i + 1] = fused_multiply_add(a, sine, b * cosine);
  }
}

// Rotates a run of a query or key head, whose first column is `place` of the head, or leaves one of a value head; stores it.
template <class Element, int Count>
GRIDPOINT_DEVICE void finish_rotary(const GemmParameters& parameters, uint32_t row, uint32_t column, float (&values)[Count], const EpilogueRow& about) {
  const uint32_t head = column / parameters.head_dim;
  const uint32_t place = column % parameters.head_dim;
  const bool is_query = head < parameters.query_heads;
  const bool is_value = head >= parameters.query_heads + parameters.kv_heads;
  if (!is_query && about.slot < 0) return;
  if (!is_value) rotate<Count>(values, parameters.rotary + static_cast<uint64_t>(about.position) * parameters.head_dim + place);
  uint16_t* target;
  if (is_query) {
    target = static_cast<uint16_t*>(parameters.output) + static_cast<uint64_t>(row) * (parameters.query_heads * parameters.head_dim) + column;
  } else {
    const uint32_t kv_head = head - parameters.query_heads - (is_value ? parameters.kv_heads : 0);
    const uint64_t page = static_cast<uint32_t>(about.slot) / GRIDPOINT_PAGE_TOKENS;
    const uint32_t token = static_cast<uint32_t>(about.slot) % GRIDPOINT_PAGE_TOKENS;
    target = (is_value ? parameters.value_cache : parameters.key_cache) +
             ((page * parameters.kv_heads + kv_head) * GRIDPOINT_PAGE_TOKENS + token) * parameters.head_dim + place;
  }
  store_run<Element, Count>(target, values, Count);
}

// The sums of a run of neighbouring columns, scaled and with the bias. Without a scale a sum is multiplied by 1, without a bias it gets +0:
// only the sign of a zero changes, in every kernel alike.
template <class Element, int Count>
GRIDPOINT_DEVICE void scale_and_shift(float (&values)[Count], float scale, const Run<Count>& bias) {
  GRIDPOINT_UNROLL
  for (int i = 0; i < Count / 2; ++i) {
    values[2 * i] = fused_multiply_add(values[2 * i], scale, Element::low(bias.word[i]));
    values[2 * i + 1] = fused_multiply_add(values[2 * i + 1], scale, Element::high(bias.word[i]));
  }
}

// Adds a run of the residual to a run that has been scaled.
template <class Element, int Count>
GRIDPOINT_DEVICE void add_residual(float (&values)[Count], const Run<Count>& residual) {
  GRIDPOINT_UNROLL
  for (int i = 0; i < Count / 2; ++i) {
    values[2 * i] += Element::low(residual.word[i]);
    values[2 * i + 1] += Element::high(residual.word[i]);
  }
}

// silu(gate) * up.
GRIDPOINT_DEVICE float gated(float gate, float up) { return sigmoid_linear_unit(gate) * up; }

// The run of columns [column, column + Count) of live row `row`, from its sums. `column` is a multiple of Count, which divides 8.
template <class Epilogue, int Count>
GRIDPOINT_DEVICE void finish_run(const GemmParameters& parameters, uint32_t row, uint32_t column, float (&values)[Count], const EpilogueRow& about,
                                 const Run<Count>& bias, const Run<Count>& residual) {
  using Element = typename Epilogue::Element;
  scale_and_shift<Element, Count>(values, about.scale, bias);
  const uint32_t count = parameters.n - column;
  if constexpr (Epilogue::kKind == EpilogueKind::kRotary) {
    finish_rotary<Element, Count>(parameters, row, column, values, about);
  } else if constexpr (Epilogue::kKind == EpilogueKind::kLogits) {
    store_floats<Count>(static_cast<float*>(parameters.output) + static_cast<uint64_t>(row) * parameters.n + column, values, count);
  } else if constexpr (Epilogue::kKind == EpilogueKind::kSwiGlu) {
    float halves[Count / 2];
    GRIDPOINT_UNROLL
    for (int i = 0; i < Count / 2; ++i) halves[i] = gated(values[2 * i], values[2 * i + 1]);
    uint16_t* target = static_cast<uint16_t*>(parameters.output) + static_cast<uint64_t>(row) * (parameters.n / 2) + column / 2;
    store_run<Element, Count / 2>(target, halves, count / 2);
  } else {
    if constexpr (Epilogue::kKind == EpilogueKind::kResidual) add_residual<Element, Count>(values, residual);
    store_run<Element, Count>(static_cast<uint16_t*>(parameters.output) + static_cast<uint64_t>(row) * parameters.n + column, values, count);
  }
}

}  // namespace gridpoint
