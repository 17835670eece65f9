// Matrix multiplication for few rows: output = epilogue(activations x weights^T) (epilogue.cuh) with at most 64 live rows, bound by the
// bandwidth of the weights. sm_80 instructions only.
//
// Shapes: as gemm.cu. N is any (rotary: whole heads), K a multiple of 8; activations, weights and caches are 16-byte aligned; output, residual
// and bias need their element's alignment only. Only live rows are read and written, and rows from the 65th on are not: a launch whose
// point has more takes another kernel. residual may be the same buffer as output.
//
// Work: a unit is eight rows of weights, the columns of one mma, so that shares differ by one unit: N = 4096 is 512 units, 3.88 a
// multiprocessor of 132, 4 at most. The list of all units of the first segment of K, then all of the second, and so on, is cut into equal
// runs, one a block; the grid may have any size, and is meant to have a block for each multiprocessor. A run is walked in passes of
// neighbouring units of one segment, whose rows go through K together: activations are read once a pass, not once a tile.
//
// Ring: shared memory behind the rows' sums of squares is cut at run time into 3 to 8 stages of 64, 128 or 256 values of k, from the rows
// of the largest pass, so that most of it is in flight for any N. Rows of a stage are 128 bytes, their 16-byte chunks xor-swizzled, filled by
// cp.async with one barrier a stage; the ring does not drain between passes. Copies of a stage are issued between the multiplications of
// another, whose chain has room for them. Weights are read once and leave the second cache first. Rows past the live ones or past N, and k
// past K, are zeros that cp.async fills in: nothing that lies there reaches a sum.
//
// Numbers: as gemm.cu, with the same bits: each segment is the sum over ascending k16 steps, from zero, by one mma instruction a step;
// segments are added in order. Which rows of mma a row has, the units of a pass, ring and grid change no bit.
// Segments of a unit meet in `partials` [segment][unit]: for each row tile 32 lanes x 4 floats in fragment order, so that every access is 16
// bytes a lane and coalesced, and from float 512 on the rows' sums of squares. The last warp to arrive at the unit's counter adds them in
// order, finishes the unit and leaves the counter at zero; nobody waits for anybody. Both buffers are used with more than one segment only.
//
// With GRIDPOINT_SCALE_COMPUTED the rows' scales come from the activations that pass through shared memory anyway: for each row tile one
// warp, of those with the fewest units, adds two mma a k16 step (squares.cuh), in groups of 512 columns, as row_scale.cu and with its bits.
//
// Stores: two neighbouring columns a thread, eight of a row: 32 bytes of logits, a sector; 16 bytes of 16-bit elements and 8 of SwiGLU, parts
// of sectors that the second cache joins, since neighbouring units are finished at the same time. Outputs are 2 to 4 bytes for each 2 K of
// weights.
//
// Launch: GRIDPOINT_SKINNY_THREADS threads; dynamic shared memory of any size from 256 + 3 x 72 x 128 bytes on, of which the kernel asks the
// hardware. Before griddepcontrol.wait only weights and the step block are read: both are complete before the first kernel of a step
// starts. Every thread waits, also in blocks without a unit.
// Two blocks of 114944 bytes and 128 threads fit a multiprocessor with 228 KB: 2 x (114944 + 1024) = 231936 of 233472 bytes, 2 x 128 x 255
// registers of 65536. So a block of the next product fills its ring while one of this product ends, and the ramp of a launch is hidden.
// Where two blocks meet on one multiprocessor and none on another, both still stream: 64 bytes a clock reach a multiprocessor, 21 are needed.
//
// Bounds, predicted for 132 multiprocessors at 1.755 GHz and 4.8 TB/s, 20.7 bytes a clock and multiprocessor:
// - in flight: 4.8 TB/s x 1 us / 132 = 36 KB are needed, the ring holds 48 to 75 KB of weights that are on their way with up to 16 rows;
// - chains: a unit is 256 bytes a k16 step, an mma that adds to another's sums follows it by about 33 clocks: four units give 31 bytes a clock;
// - shared memory, 128 bytes a clock: 4 warps x 512 bytes of activations for each row tile and step, weights written and read once. Four
//   units of 256 bytes have 49 clocks: 28 for one row tile, 94 for four. From 17 rows on, narrow weights are bound by it and by
// - the second cache, which sends every block all activations: 16 / (8 units) of the weights' bytes for each row tile, half as much again
//   for four units and 16 rows, three times as much for 64 rows. docs/kernels.md has the shapes.
#include "epilogue.cuh"
#include "squares.cuh"

namespace gridpoint {
namespace {

constexpr uint32_t kThreads = GRIDPOINT_SKINNY_THREADS;
constexpr uint32_t kWarps = kThreads / kWarpThreads;
constexpr uint32_t kMaximumRows = GRIDPOINT_SKINNY_ROWS;
// Rows of weights in a unit: the columns of one mma.
constexpr uint32_t kUnit = GRIDPOINT_SKINNY_UNIT;
// Values of k in a span, whose 128 bytes are a row of the ring.
constexpr uint32_t kSpan = 64;
constexpr uint32_t kRowBytes = kSpan * 2;
constexpr uint32_t kChunkElements = 8;
constexpr uint32_t kRowChunks = kRowBytes / 16;
// Rows that all threads copy at once, 16 bytes each.
constexpr uint32_t kCopyRows = kThreads / kRowChunks;
constexpr uint32_t kLeastStages = 3;
constexpr uint32_t kMostStages = 8;
// Spans of a group of squares; a stage's spans divide it.
constexpr uint32_t kSquaresSpans = GRIDPOINT_SQUARES_COLUMNS / kSpan;
// Sums that one unit leaves in memory for each segment: those of its mma tiles in fragment order, then the rows' sums of squares.
constexpr uint32_t kPartialSums = kMaximumRows * kUnit;
constexpr uint32_t kPartialFloats = GRIDPOINT_SKINNY_PARTIAL_FLOATS;
// Most units of a warp: what registers hold sums of.
template <int Tiles>
constexpr int kWarpUnits = Tiles == 4 ? 4 : 7;

static_assert(kPartialFloats == kPartialSums + kMaximumRows, "the host reserves what a unit leaves");
static_assert(kCopyRows == 16, "the swizzle repeats from copy to copy, and a copy is one tile of activations");

// What precedes the ring in shared memory.
struct alignas(16) SkinnyShared {
  // Sums of squares of the rows over the segment.
  float squares[kMaximumRows];
};

// ---- what a block does -----------------------------------------------------------------------------------------------------------

// Units are taken in runs that walk one segment of K together: passes. The sequence of a launch is all units of the first segment, all
// units of the second one, and so on; a block takes an equal share of it.
struct Share {
  uint32_t live_rows;
  uint32_t units;
  uint32_t spans;
  uint32_t segment_spans;
  uint32_t segments;
  uint32_t first;
  uint32_t end;
};

GRIDPOINT_DEVICE Share share_of(const GemmParameters& parameters) {
  Share share;
  share.live_rows = minimum(live_rows(parameters.step, parameters.rows), kMaximumRows);
  share.units = ceiling_divide(parameters.n, kUnit);
  share.spans = ceiling_divide(parameters.k, kSpan);
  share.segment_spans = minimum(ceiling_divide(parameters.segment, kSpan), share.spans);
  share.segments = ceiling_divide(share.spans, share.segment_spans);
  const uint64_t all = static_cast<uint64_t>(share.units) * share.segments;
  share.first = static_cast<uint32_t>(all * block_index() / grid_blocks());
  share.end = static_cast<uint32_t>(all * (block_index() + 1) / grid_blocks());
  return share;
}

// How the ring is cut: stages of `spans` spans, each a tile of rows of 128 bytes, activations first.
struct Ring {
  uint32_t address;
  uint32_t token_rows;
  uint32_t span_bytes;
  uint32_t spans;
  uint32_t stage_bytes;
  uint32_t stages;
  uint32_t end;
  uint32_t most_units;  // of a pass
};

GRIDPOINT_DEVICE uint32_t balanced(uint32_t units, uint32_t most) { return ceiling_divide(units, ceiling_divide(units, most)); }

template <int Tiles>
GRIDPOINT_DEVICE Ring ring_of(const Share& share) {
  constexpr uint32_t token_rows = Tiles * 16;
  Ring ring;
  const uint32_t rows = (dynamic_shared_bytes() - static_cast<uint32_t>(sizeof(SkinnyShared))) / kRowBytes;
  ring.address = shared_address(&shared<SkinnyShared>() + 1);
  ring.token_rows = token_rows;
  ring.most_units = minimum((rows / kLeastStages - token_rows) / kUnit, kWarpUnits<Tiles> * kWarps);
  // The largest pass: exact where the share lies in one segment, else a bound.
  const uint32_t run = share.end - share.first;
  const bool one_segment = share.first / share.units == (share.end - 1) / share.units;
  const uint32_t units = one_segment ? balanced(run, ring.most_units) : minimum(run, ring.most_units);
  const uint32_t span_rows = token_rows + units * kUnit;
  const uint32_t capacity = rows / span_rows;
  ring.span_bytes = span_rows * kRowBytes;
  ring.spans = capacity >= 16 ? 4 : capacity >= 8 ? 2 : 1;
  ring.stage_bytes = ring.spans * ring.span_bytes;
  ring.stages = minimum(capacity / ring.spans, kMostStages);
  ring.end = ring.address + ring.stages * ring.stage_bytes;
  return ring;
}

struct Pass {
  uint32_t first_unit;
  uint32_t units;
  uint32_t segment;
  uint32_t first_span;
  uint32_t end_span;
};

GRIDPOINT_DEVICE Pass pass_at(const Share& share, const Ring& ring, uint32_t item) {
  Pass pass;
  pass.segment = item / share.units;
  pass.first_unit = item % share.units;
  pass.units = balanced(minimum(share.end - item, share.units - pass.first_unit), ring.most_units);
  pass.first_span = pass.segment * share.segment_spans;
  pass.end_span = minimum(pass.first_span + share.segment_spans, share.spans);
  return pass;
}

// ---- copies ----------------------------------------------------------------------------------------------------------------------

// Where this thread's copies stand: the next stage to load, and this thread's first chunk of its first rows.
struct Loader {
  uint32_t item;
  uint32_t units;
  uint32_t span;
  uint32_t end_span;
  uint32_t columns_left;
  const uint16_t* weights;
  const uint16_t* activations;
};

GRIDPOINT_DEVICE void enter_pass(Loader& loader, const GemmParameters& parameters, const Share& share, const Ring& ring, uint32_t item) {
  loader.item = item;
  loader.units = 0;
  if (item >= share.end) return;
  const Pass pass = pass_at(share, ring, item);
  const uint32_t row = thread_index() / kRowChunks;
  const uint32_t column = pass.first_unit * kUnit + row;
  const uint32_t k = pass.first_span * kSpan + thread_index() % kRowChunks * kChunkElements;
  loader.units = pass.units;
  loader.span = pass.first_span;
  loader.end_span = pass.end_span;
  loader.columns_left = parameters.n - minimum(parameters.n, column);
  loader.weights = parameters.weights + static_cast<uint64_t>(column) * parameters.k + k;
  loader.activations = parameters.activations + static_cast<uint64_t>(row) * parameters.k + k;
}

GRIDPOINT_DEVICE void advance(Loader& loader, const GemmParameters& parameters, const Share& share, const Ring& ring) {
  loader.span += ring.spans;
  loader.weights += ring.spans * kSpan;
  loader.activations += ring.spans * kSpan;
  if (loader.units > 0 && loader.span >= loader.end_span) enter_pass(loader, parameters, share, ring, loader.item + loader.units);
}

// This thread's place in a tile of rows of 128 bytes.
GRIDPOINT_DEVICE uint32_t copy_place() { return swizzled<kRowBytes>(thread_index() / kRowChunks, thread_index() % kRowChunks); }

GRIDPOINT_DEVICE bool inside(const Loader& loader, const GemmParameters& parameters, uint32_t span) {
  return (loader.span + span) * kSpan + thread_index() % kRowChunks * kChunkElements < parameters.k;
}

// Span `span` of the stage; nothing behind the end of the pass's segment. Rows past N, and k past K, become zeros.
GRIDPOINT_DEVICE void load_weights(const Loader& loader, const GemmParameters& parameters, const Ring& ring, uint32_t stage, uint32_t span, uint64_t policy) {
  if (loader.units == 0 || loader.span + span >= loader.end_span) return;
  const bool k_inside = inside(loader, parameters, span);
  uint32_t target = stage + span * ring.span_bytes + ring.token_rows * kRowBytes + copy_place();
  const uint16_t* source = loader.weights + span * kSpan;
  GRIDPOINT_NO_UNROLL
  for (uint32_t row = thread_index() / kRowChunks, column = 0; row < loader.units * kUnit; row += kCopyRows, column += kCopyRows) {
    copy_async16(target, source, k_inside && column < loader.columns_left ? 16 : 0, policy);
    target += kCopyRows * kRowBytes;
    source += static_cast<uint64_t>(kCopyRows) * parameters.k;
  }
}

// As load_weights; rows past the live ones become zeros.
template <int Tiles>
GRIDPOINT_DEVICE void load_activations(const Loader& loader, const GemmParameters& parameters, const Share& share, const Ring& ring, uint32_t stage, uint32_t span) {
  static_assert(kCopyRows == 16, "a copy is a tile of rows");
  if (loader.units == 0 || loader.span + span >= loader.end_span) return;
  const bool k_inside = inside(loader, parameters, span);
  const uint32_t row = thread_index() / kRowChunks;
  const uint32_t target = stage + span * ring.span_bytes + copy_place();
  const uint16_t* source = loader.activations + span * kSpan;
  GRIDPOINT_UNROLL
  for (uint32_t tile = 0; tile < Tiles; ++tile) {
    copy_async16(target + tile * 16 * kRowBytes, source, k_inside && row + tile * 16 < share.live_rows ? 16 : 0);
    source += static_cast<uint64_t>(16) * parameters.k;
  }
}

// Returns once the oldest of stages - 1 groups is complete.
GRIDPOINT_DEVICE void wait_for_stage(uint32_t stages) {
  static_assert(kLeastStages == 3 && kMostStages == 8, "every number of stages has its case");
  switch (stages) {
    case 3: return copy_async_wait<1>();
    case 4: return copy_async_wait<2>();
    case 5: return copy_async_wait<3>();
    case 6: return copy_async_wait<4>();
    case 7: return copy_async_wait<5>();
    default: return copy_async_wait<6>();
  }
}

// ---- one pass --------------------------------------------------------------------------------------------------------------------

// Where a lane finds its rows of weights in a span.
template <int Units>
struct LaneRows {
  uint32_t weights[Units];
  uint32_t chunk;  // for the first half of the span, swizzled
};

// The part of a pass that a warp computes.
struct WarpPart {
  uint32_t first_unit;  // in the pass
  uint32_t units;
  // The row tile whose squares it sums, if that is below the number of tiles.
  uint32_t squares_tile;
};

GRIDPOINT_DEVICE WarpPart warp_part(const GemmParameters& parameters, const Pass& pass) {
  const uint32_t warp = warp_index();
  WarpPart part;
  part.first_unit = pass.units * warp / kWarps;
  part.units = pass.units * (warp + 1) / kWarps - part.first_unit;
  // Warps 0, 2, 1, 3 in the order of their units, fewest first.
  static_assert(kWarps == 4, "the order of the warps by their units is that of four");
  part.squares_tile = parameters.scaled == GRIDPOINT_SCALE_COMPUTED ? warp % 2 * 2 + warp / 2 : kWarps;
  return part;
}

// Byte offset of this lane's row of a tile of activations, and its chunk for the first k16 step, swizzled. Matrices of ldmatrix are rows 0-7 and
// 8-15 of the low half of a step, then of the high one.
GRIDPOINT_DEVICE uint32_t activation_row() { return lane_index() % 16 * kRowBytes; }
GRIDPOINT_DEVICE uint32_t activation_chunk() { return lane_index() / 16 ^ lane_index() % 8; }

template <int Tiles>
GRIDPOINT_DEVICE void load_activation_fragments(uint32_t (&fragments)[Tiles][4], uint32_t span, uint32_t step) {
  const uint32_t address = span + activation_row() + ((activation_chunk() ^ (step * 2)) << 4);
  GRIDPOINT_UNROLL
  for (int tile = 0; tile < Tiles; ++tile) load_matrix_x4(fragments[tile], address + tile * 16 * kRowBytes);
}

template <int Units>
GRIDPOINT_DEVICE LaneRows<Units> lane_rows(const Ring& ring, const Pass& pass, const WarpPart& part) {
  const uint32_t row = lane_index() % 8;
  LaneRows<Units> rows;
  // A unit that the warp does not have is the pass's last one again: its sums are dropped.
  GRIDPOINT_UNROLL
  for (uint32_t unit = 0; unit < Units; ++unit) {
    rows.weights[unit] = (ring.token_rows + minimum(part.first_unit + unit, pass.units - 1) * kUnit + row) * kRowBytes;
  }
  // Matrices of ldmatrix are the four chunks of two k16 steps of a unit.
  rows.chunk = lane_index() / 8 ^ row;
  return rows;
}

// Operands of two k16 steps, or activations of one.
template <int Tiles, int Units, int Steps>
struct Fragments {
  uint32_t activations[Steps][Tiles][4];
  uint32_t weights[2][Units][2];
};

// Weights of the first or second half of the span at `span`.
template <int Units>
GRIDPOINT_DEVICE void load_weight_fragments(uint32_t (&fragments)[2][Units][2], const LaneRows<Units>& rows, uint32_t span, uint32_t half) {
  const uint32_t address = span + ((rows.chunk ^ (half * 4)) << 4);
  GRIDPOINT_UNROLL
  for (int unit = 0; unit < Units; ++unit) {
    uint32_t chunks[4];
    load_matrix_x4(chunks, address + rows.weights[unit]);
    fragments[0][unit][0] = chunks[0];
    fragments[0][unit][1] = chunks[1];
    fragments[1][unit][0] = chunks[2];
    fragments[1][unit][1] = chunks[3];
  }
}

template <int Tiles, int Units>
GRIDPOINT_DEVICE void load_fragments(Fragments<Tiles, Units, 2>& fragments, const LaneRows<Units>& rows, uint32_t span, uint32_t half) {
  GRIDPOINT_UNROLL
  for (uint32_t step = 0; step < 2; ++step) load_activation_fragments<Tiles>(fragments.activations[step], span, half * 2 + step);
  load_weight_fragments<Units>(fragments.weights, rows, span, half);
}

// What a warp accumulates over a pass.
template <int Tiles, int Units>
struct Sums {
  float units[Tiles][Units][4];
  // Squares of one tile: of the current group, and of the groups before it for rows lane / 4 and lane / 4 + 8.
  Squares squares;
  float row_squares[2];
};

template <class Element, int Tiles, int Units>
GRIDPOINT_DEVICE void multiply(Sums<Tiles, Units>& sums, const uint32_t (&activations)[Tiles][4], const uint32_t (&weights)[Units][2], uint32_t squares_tile) {
  Element::template mma<Tiles, Units>(sums.units, activations, weights);
  const uint32_t mine = opaque(squares_tile);
  GRIDPOINT_UNROLL
  for (uint32_t tile = 0; tile < Tiles; ++tile) {
    if (tile == mine) add_squares<Element>(sums.squares, activations[tile]);
  }
}

template <int Tiles, int Units>
GRIDPOINT_DEVICE void clear(Sums<Tiles, Units>& sums) {
  GRIDPOINT_UNROLL
  for (int tile = 0; tile < Tiles; ++tile) {
    GRIDPOINT_UNROLL
    for (int unit = 0; unit < Units; ++unit) {
      GRIDPOINT_UNROLL
      for (int i = 0; i < 4; ++i) sums.units[tile][unit][i] = 0.0f;
    }
  }
  clear(sums.squares);
  sums.row_squares[0] = 0.0f;
  sums.row_squares[1] = 0.0f;
}

// ---- the end of a pass ---------------------------------------------------------------------------------------------------------------

// Sums of one unit: rows tile * 16 + lane / 4 (+ 8), columns lane % 4 * 2 (+ 1).
template <int Tiles>
struct UnitSums {
  float value[Tiles][4];
};

// Takes the first unit's sums, and moves the others up.
template <int Tiles, int Units>
GRIDPOINT_DEVICE UnitSums<Tiles> take(Sums<Tiles, Units>& sums) {
  UnitSums<Tiles> first;
  GRIDPOINT_UNROLL
  for (int tile = 0; tile < Tiles; ++tile) {
    GRIDPOINT_UNROLL
    for (int i = 0; i < 4; ++i) {
      first.value[tile][i] = sums.units[tile][0][i];
      GRIDPOINT_UNROLL
      for (int unit = 0; unit + 1 < Units; ++unit) sums.units[tile][unit][i] = sums.units[tile][unit + 1][i];
    }
  }
  return first;
}

GRIDPOINT_DEVICE float* partial_of(const GemmParameters& parameters, const Share& share, uint32_t segment, uint32_t unit) {
  return parameters.partials + (static_cast<uint64_t>(segment) * share.units + unit) * kPartialFloats;
}

// Leaves the warp's units for whoever comes last to each. Bit j: that is this warp, for its unit j.
template <int Tiles, int Units>
GRIDPOINT_DEVICE uint32_t leave_partials(const GemmParameters& parameters, const Share& share, const Pass& pass, const WarpPart& part, Sums<Tiles, Units>& sums) {
  const SkinnyShared& memory = shared<SkinnyShared>();
  const uint32_t lane = lane_index();
  GRIDPOINT_NO_UNROLL
  for (uint32_t unit = 0; unit < part.units; ++unit) {
    float* partial = partial_of(parameters, share, pass.segment, pass.first_unit + part.first_unit + unit);
    const UnitSums<Tiles> values = take(sums);
    GRIDPOINT_UNROLL
    for (int tile = 0; tile < Tiles; ++tile) {
      const float(&value)[4] = values.value[tile];
      store16(partial + (tile * kWarpThreads + lane) * 4, Vector16{{float_bits(value[0]), float_bits(value[1]), float_bits(value[2]), float_bits(value[3])}});
    }
    if (parameters.scaled == GRIDPOINT_SCALE_COMPUTED) {
      GRIDPOINT_NO_UNROLL
      for (uint32_t row = lane; row < Tiles * 16; row += kWarpThreads) partial[kPartialSums + row] = memory.squares[row];
    }
  }
  warp_barrier();
  bool last = false;
  if (lane < part.units) {
    uint32_t* counter = parameters.counters + pass.first_unit + part.first_unit + lane;
    fence_device();
    last = atomic_add_device(counter, 1) + 1 == share.segments;
    // All have arrived; the next launch counts from zero.
    if (last) *counter = 0;
    fence_device();
  }
  const uint32_t mask = ballot(last);
  warp_barrier();
  return mask;
}

// Adds a unit's segments in order.
template <int Tiles>
GRIDPOINT_DEVICE UnitSums<Tiles> add_partials(const GemmParameters& parameters, const Share& share, uint32_t unit, float (&squares)[Tiles][2]) {
  // Segments whose sums are on their way together: what registers hold.
  constexpr uint32_t kInFlight = 4 / Tiles;
  UnitSums<Tiles> total = {};
  GRIDPOINT_UNROLL
  for (int tile = 0; tile < Tiles; ++tile) squares[tile][0] = squares[tile][1] = 0.0f;
  GRIDPOINT_NO_UNROLL
  for (uint32_t first = 0; first < share.segments; first += kInFlight) {
    Vector16 loaded[kInFlight][Tiles] = {};
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kInFlight; ++i) {
      if (first + i < share.segments) {
        const float* partial = partial_of(parameters, share, first + i, unit);
        GRIDPOINT_UNROLL
        for (int tile = 0; tile < Tiles; ++tile) loaded[i][tile] = load16(partial + (tile * kWarpThreads + lane_index()) * 4);
      }
    }
    // What is behind the last segment adds zeros.
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kInFlight; ++i) {
      GRIDPOINT_UNROLL
      for (int tile = 0; tile < Tiles; ++tile) {
        GRIDPOINT_UNROLL
        for (int j = 0; j < 4; ++j) total.value[tile][j] += float_from_bits(loaded[i][tile].word[j]);
      }
    }
  }
  if (parameters.scaled == GRIDPOINT_SCALE_COMPUTED) {
    GRIDPOINT_NO_UNROLL
    for (uint32_t segment = 0; segment < share.segments; ++segment) {
      const float* partial = partial_of(parameters, share, segment, unit) + kPartialSums + lane_index() / 4;
      GRIDPOINT_UNROLL
      for (int tile = 0; tile < Tiles; ++tile) {
        squares[tile][0] += partial[tile * 16];
        squares[tile][1] += partial[tile * 16 + 8];
      }
    }
  }
  return total;
}

// Stores of a unit: two neighbouring columns a thread, eight a row, at once 16 bytes of 16-bit elements and 32 of logits. Loops are not
// unrolled: this is most of the code and least of the time.
template <class Epilogue, int Tiles, int Units>
GRIDPOINT_DEVICE void finish_pass(const GemmParameters& parameters, const Share& share, const Pass& pass, const WarpPart& part, Sums<Tiles, Units>& sums) {
  const SkinnyShared& memory = shared<SkinnyShared>();
  const bool computed = parameters.scaled == GRIDPOINT_SCALE_COMPUTED;
  uint32_t mine = ~0u;
  if (share.segments > 1) {
    mine = leave_partials(parameters, share, pass, part, sums);
    if (mine == 0) return;
  }
  GRIDPOINT_NO_UNROLL
  for (uint32_t unit = 0; unit < part.units; ++unit) {
    const uint32_t place = pass.first_unit + part.first_unit + unit;
    UnitSums<Tiles> values;
    float squares[Tiles][2] = {};
    if (opaque(share.segments) > 1) {
      if ((mine >> unit & 1) == 0) continue;
      values = add_partials<Tiles>(parameters, share, place, squares);
    } else {
      values = take(sums);
      GRIDPOINT_UNROLL
      for (int tile = 0; tile < Tiles; ++tile) {
        if (computed) {
          squares[tile][0] = memory.squares[tile * 16 + lane_index() / 4];
          squares[tile][1] = memory.squares[tile * 16 + lane_index() / 4 + 8];
        }
      }
    }
    const uint32_t column = place * kUnit + lane_index() % 4 * 2;
    if (column >= parameters.n) continue;
    const Run<2> bias = bias_run<2>(parameters, column);
    GRIDPOINT_NO_UNROLL
    for (uint32_t row = lane_index() / 4; row < share.live_rows; row += 16) {
      // All reads of a tile before its first write, so that their latencies overlap.
      const bool lower = row + 8 < share.live_rows;
      EpilogueRow about[2];
      Run<2> residual[2] = {};
      about[0] = epilogue_row<Epilogue>(parameters, row);
      residual[0] = residual_run<Epilogue, 2>(parameters, row, column);
      if (lower) {
        about[1] = epilogue_row<Epilogue>(parameters, row + 8);
        residual[1] = residual_run<Epilogue, 2>(parameters, row + 8, column);
      }
      GRIDPOINT_UNROLL
      for (uint32_t half = 0; half < 2; ++half) {
        if (half == 0 || lower) {
          if (computed) about[half].scale = row_scale_of(squares[0][half], parameters.inverse_width, parameters.epsilon);
          float pair[2] = {values.value[0][half * 2], values.value[0][half * 2 + 1]};
          finish_run<Epilogue, 2>(parameters, row + half * 8, column, pair, about[half], bias, residual[half]);
        }
      }
      GRIDPOINT_UNROLL
      for (int tile = 0; tile + 1 < Tiles; ++tile) {
        GRIDPOINT_UNROLL
        for (int i = 0; i < 4; ++i) values.value[tile][i] = values.value[tile + 1][i];
        squares[tile][0] = squares[tile + 1][0];
        squares[tile][1] = squares[tile + 1][1];
      }
    }
  }
}

// ---- the kernel ---------------------------------------------------------------------------------------------------------------

// The ring's state: which stage is read next, which one is filled next, and with what.
struct Stream {
  uint32_t read;
  uint32_t write;
  Loader loader;
  uint64_t policy;
};

// The sums of a pass, for units that the warp has.
template <class Element, int Tiles, int Units>
GRIDPOINT_DEVICE void multiply_pass(const GemmParameters& parameters, const Share& share, const Ring& ring, const Pass& pass, const WarpPart& part, Stream& stream,
                                    Sums<Tiles, kWarpUnits<Tiles>>& result) {
  // Whether registers hold the operands of two steps ahead.
  constexpr bool kAhead = Tiles * Units < 8;
  const LaneRows<Units> rows = lane_rows<Units>(ring, pass, part);
  const bool squares = part.squares_tile < Tiles;
  Sums<Tiles, Units> sums;
  clear(sums);

  GRIDPOINT_NO_UNROLL
  for (uint32_t span = pass.first_span; span < pass.end_span; span += ring.spans) {
    // The stage to read is complete for this thread, and after the barrier for all; the barrier also says that all warps are done with
    // the stage read in the turn before, which is the one to fill.
    wait_for_stage(ring.stages);
    block_barrier();
    const uint32_t loaded = minimum(ring.spans, pass.end_span - span);
    const uint32_t here = part.units > 0 || squares ? loaded : 0;
    Fragments<Tiles, Units, kAhead ? 2 : 1> fragments[kAhead ? 2 : 1];
    if constexpr (kAhead) {
      if (here > 0) load_fragments(fragments[0], rows, stream.read, 0);
    }
    // Copies are issued between the multiplications, whose chain leaves room for them.
    GRIDPOINT_NO_UNROLL
    for (uint32_t i = 0; i < ring.spans; ++i) {
      load_weights(stream.loader, parameters, ring, stream.write, i, stream.policy);
      load_activations<Tiles>(stream.loader, parameters, share, ring, stream.write, i);
      if (i >= here) continue;
      const uint32_t address = stream.read + i * ring.span_bytes;
      if constexpr (kAhead) {
        load_fragments(fragments[1], rows, address, 1);
        GRIDPOINT_UNROLL
        for (int step = 0; step < 2; ++step) multiply<Element>(sums, fragments[0].activations[step], fragments[0].weights[step], part.squares_tile);
        if (i + 1 < here) load_fragments(fragments[0], rows, address + ring.span_bytes, 0);
        GRIDPOINT_UNROLL
        for (int step = 0; step < 2; ++step) multiply<Element>(sums, fragments[1].activations[step], fragments[1].weights[step], part.squares_tile);
      } else {
        GRIDPOINT_UNROLL
        for (uint32_t half = 0; half < 2; ++half) {
          load_weight_fragments<Units>(fragments[0].weights, rows, address, half);
          GRIDPOINT_UNROLL
          for (uint32_t step = 0; step < 2; ++step) {
            load_activation_fragments<Tiles>(fragments[0].activations[0], address, half * 2 + step);
            multiply<Element>(sums, fragments[0].activations[0], fragments[0].weights[step], part.squares_tile);
          }
        }
      }
    }
    copy_async_commit();
    advance(stream.loader, parameters, share, ring);
    stream.write = stream.read;
    stream.read = stream.read + ring.stage_bytes == ring.end ? ring.address : stream.read + ring.stage_bytes;
    const uint32_t done = span + loaded;
    if (squares && (done == pass.end_span || (done - pass.first_span) % kSquaresSpans == 0)) {
      sums.row_squares[0] += squares_of(sums.squares, 0);
      sums.row_squares[1] += squares_of(sums.squares, 1);
      clear(sums.squares);
    }
  }
  clear(result);
  GRIDPOINT_UNROLL
  for (int tile = 0; tile < Tiles; ++tile) {
    GRIDPOINT_UNROLL
    for (int unit = 0; unit < Units; ++unit) {
      GRIDPOINT_UNROLL
      for (int i = 0; i < 4; ++i) result.units[tile][unit][i] = sums.units[tile][unit][i];
    }
  }
  result.row_squares[0] = sums.row_squares[0];
  result.row_squares[1] = sums.row_squares[1];
}

template <class Epilogue, int Tiles>
GRIDPOINT_DEVICE void run_pass(const GemmParameters& parameters, const Share& share, const Ring& ring, const Pass& pass, Stream& stream) {
  using Element = typename Epilogue::Element;
  const WarpPart part = warp_part(parameters, pass);
  Sums<Tiles, kWarpUnits<Tiles>> sums;
  // The same for all warps of the block: the most units that one of them has, rounded up to a number that has its code.
  const uint32_t most = ceiling_divide(pass.units, kWarps);
  static_assert(kWarpUnits<Tiles> == 4 || kWarpUnits<Tiles> == 7, "the largest pass has its code");
  if (most == 1) {
    multiply_pass<Element, Tiles, 1>(parameters, share, ring, pass, part, stream, sums);
  } else if (most == 2) {
    multiply_pass<Element, Tiles, 2>(parameters, share, ring, pass, part, stream, sums);
  } else if (kWarpUnits<Tiles> == 4 || most <= 4) {
    multiply_pass<Element, Tiles, 4>(parameters, share, ring, pass, part, stream, sums);
  } else if constexpr (kWarpUnits<Tiles> > 4) {
    multiply_pass<Element, Tiles, kWarpUnits<Tiles>>(parameters, share, ring, pass, part, stream, sums);
  }
  if (parameters.scaled == GRIDPOINT_SCALE_COMPUTED) {
    // Readers of the pass before have come to a barrier of this one.
    if (part.squares_tile < Tiles && holds_squares()) {
      float* row_squares = shared<SkinnyShared>().squares + part.squares_tile * 16 + lane_index() / 4;
      row_squares[0] = sums.row_squares[0];
      row_squares[8] = sums.row_squares[1];
    }
    block_barrier();
  }
  if (part.units > 0) finish_pass<Epilogue>(parameters, share, pass, part, sums);
}

// All of a block, for up to 16 * Tiles live rows.
template <class Epilogue, int Tiles>
GRIDPOINT_DEVICE void run_share(const GemmParameters& parameters, const Share& share) {
  const Ring ring = ring_of<Tiles>(share);
  Stream stream = {};
  stream.read = ring.address;
  stream.write = ring.end - ring.stage_bytes;
  // Fill all stages but one. Weights need no kernel before this one, so they start before the wait; a thread's groups complete in
  // order, so the first group closed after it also covers them.
  stream.policy = policy_evict_first();
  enter_pass(stream.loader, parameters, share, ring, share.first);
  Loader ahead = stream.loader;
  GRIDPOINT_NO_UNROLL
  for (uint32_t stage = ring.address; stage < stream.write; stage += ring.stage_bytes) {
    GRIDPOINT_NO_UNROLL
    for (uint32_t i = 0; i < ring.spans; ++i) load_weights(ahead, parameters, ring, stage, i, stream.policy);
    advance(ahead, parameters, share, ring);
  }
  grid_dependency_wait();
  GRIDPOINT_NO_UNROLL
  for (uint32_t stage = ring.address; stage < stream.write; stage += ring.stage_bytes) {
    GRIDPOINT_NO_UNROLL
    for (uint32_t i = 0; i < ring.spans; ++i) load_activations<Tiles>(stream.loader, parameters, share, ring, stage, i);
    copy_async_commit();
    advance(stream.loader, parameters, share, ring);
  }

  GRIDPOINT_NO_UNROLL
  for (uint32_t item = share.first; item < share.end;) {
    const Pass pass = pass_at(share, ring, item);
    run_pass<Epilogue, Tiles>(parameters, share, ring, pass, stream);
    item += pass.units;
  }
}

template <class Epilogue>
GRIDPOINT_DEVICE void skinny(const GemmParameters& parameters) {
  // At once: the next kernel's blocks begin where this grid leaves room or its blocks end. They wait by themselves.
  grid_launch_dependents();
  const Share share = share_of(parameters);
  if (share.live_rows == 0 || share.first == share.end) {
    grid_dependency_wait();
  } else if (share.live_rows <= 16) {
    run_share<Epilogue, 1>(parameters, share);
  } else if (share.live_rows <= 32) {
    run_share<Epilogue, 2>(parameters, share);
  } else {
    run_share<Epilogue, 4>(parameters, share);
  }
}

}  // namespace
}  // namespace gridpoint

// Two blocks an SM, so that a block of the next product fits beside one of this.
#define SKINNY_INSTANCE(X, name, Element, Kind) \
  X(name, GemmParameters, GRIDPOINT_SKINNY_THREADS, 2, gridpoint::skinny<gridpoint::Epilogue<gridpoint::Element, gridpoint::EpilogueKind::Kind>>)
#define SKINNY_ELEMENT(X, Element, suffix)                       \
  SKINNY_INSTANCE(X, skinny_logits##suffix, Element, kLogits)     \
  SKINNY_INSTANCE(X, skinny_residual##suffix, Element, kResidual) \
  SKINNY_INSTANCE(X, skinny_swiglu##suffix, Element, kSwiGlu)     \
  SKINNY_INSTANCE(X, skinny_rotary##suffix, Element, kRotary)

#define SKINNY_KERNELS(X)     \
  SKINNY_ELEMENT(X, Bf16, )   \
  SKINNY_ELEMENT(X, F16, _f16)

GRIDPOINT_MODULE(skinny, SKINNY_KERNELS)
