// Matrix multiplication with fused epilogues (epilogue.cuh): output = epilogue(activations x weights^T), bf16 or float16 in, float32 accumulation.
// For more rows than skinny.cu takes: the path for GPUs before Hopper, and for shapes that gemm_hopper.cu does not take.
//
// Shapes: activations [rows, K], weights [N, K], bias [N], residual and output [rows, N] (swiglu: [rows, N / 2]). N is any (rotary: whole
// heads), K a multiple of 8; activations, weights and caches are 16-byte aligned; output, residual and bias need their element's alignment only.
// Only the step's live rows are read and written. residual may be the same buffer as output: each element is read and then written by
// one thread.
//
// A block walks output tiles tile = block, block + grid, ... below live row tiles x column tiles; the grid may have any size. The pairs
// (tile, 64 values of k) of that walk form one stream through a ring of `Stages` stages filled by cp.async, with one barrier for each
// pair; the ring does not drain between tiles, so the first loads of a tile fly during the epilogue of the one before. Rows of a stage
// are 128 bytes, their 16-byte chunks xor-swizzled so that ldmatrix and cp.async are free of bank conflicts. Rows past the live ones or
// past N, and k past K, are zeros that cp.async fills in: nothing that lies there reaches a sum. Fragments are double-buffered in
// registers over the four k16 steps of a stage. Warps whose part of a tile holds no live row or no column skip ldmatrix and mma.
// Structure: Ampere multistage GEMM (CUTLASS's MmaMultistage); wgmma and tensor maps would be another file.
//
// Columns are dealt to mma tiles so that stores are wide: in mma tile j of a group of G, mma column c is column
// (c / 2) * 2G + 2j + c % 2 of the group. ldmatrix takes any row address, so this costs nothing, and a thread ends up with 2G
// neighbouring columns of a row: one 16-byte store for G = 4, whole 32-byte sectors, no shuffles and no round trip through shared
// memory. The swizzle of the weights' rows follows the same deal.
//
// Tile order: groups of kGroupTiles row tiles; inside a group rows run fastest. With few rows every block has its own weights and they
// are read once; with many, the tiles in flight at one time (132 to 396 of them) span 16 row tiles by 8 to 25 column tiles, close to the
// square that reads least, and weights come from device memory once for each 16 row tiles while a group's activations stay in L2.
//
// Numbers: K is cut into the segments of GemmParameters; each is the sum over ascending k16 steps, from zero, in float32, by one mma
// instruction a step, and segments are added in order, whatever the tile variant, the grid, the row's place or the other rows: all variants
// give the same bits. The tile of 128x128 has no registers for a second set of sums and takes one segment only.
//
// Launch contract; dynamic shared memory = stages x (rows + columns) x 128 bytes, also in parameters.h. Before
// griddepcontrol.wait only weights and the step block are read: both are complete before the first kernel of a step starts. Every
// thread waits, also in blocks without a tile; the bias is read by the epilogue, behind the wait.
//
//   tile     threads  warp tile  stages  shared bytes  registers sm_80, sm_90a  blocks/SM with 228, 164, 100 KB
//   64x64        128      32x32       4         65536             148, 150                                3, 2, 1
//   128x128      128      64x64       3         98304             244, 246                                2, 1, 1
//
// Registers are the most that ptxas 13.0 gives any epilogue of the tile, without spills; they allow the blocks that
// shared memory allows.
//
// 128x128 is bound by the tensor pipe and by shared memory: a 64x64 warp tile reads 4 KB of fragments for 65536 multiply-adds, 16 a
// byte, where 64x32 with eight warps has 10.7; at 128 bytes a clock 64x32 would cap an SM near 1365 multiply-adds a clock before
// cp.async takes its share (256 clocks a stage). Two blocks an SM hide each other's barriers and epilogues.
#include "epilogue.cuh"

namespace gridpoint {
namespace {

// Values of k in one stage: 128 bytes of bf16, the span that the swizzle works in.
constexpr uint32_t kBlockK = 64;
constexpr uint32_t kRowBytes = kBlockK * 2;
constexpr uint32_t kChunks = kRowBytes / 16;
constexpr uint32_t kChunkElements = 8;
constexpr uint32_t kSteps = kBlockK / 16;
// Row tiles that share a pass over the weights.
constexpr uint32_t kGroupTiles = 16;

template <uint32_t Rows, uint32_t Columns, uint32_t WarpRows, uint32_t WarpColumns, uint32_t Stages>
struct Tile {
  static constexpr uint32_t kRows = Rows;
  static constexpr uint32_t kColumns = Columns;
  static constexpr uint32_t kWarpRows = WarpRows;
  static constexpr uint32_t kWarpColumns = WarpColumns;
  static constexpr uint32_t kStages = Stages;
  static constexpr uint32_t kWarpsAcross = Columns / WarpColumns;
  static constexpr uint32_t kThreads = Rows / WarpRows * kWarpsAcross * kWarpThreads;
  // mma tiles of a warp, and how many of those side by side form a group that shares neighbouring columns.
  static constexpr int kRowTiles = WarpRows / 16;
  static constexpr int kColumnTiles = WarpColumns / 8;
  static constexpr int kGroup = kColumnTiles < 4 ? kColumnTiles : 4;
  static constexpr int kGroups = kColumnTiles / kGroup;
  // Neighbouring columns of a row that one thread holds.
  static constexpr int kRun = 2 * kGroup;
  // Rows that all threads together copy at once, 16 bytes each.
  static constexpr uint32_t kPassRows = kThreads / kChunks;
  static constexpr uint32_t kActivationBytes = Rows * kRowBytes;
  static constexpr uint32_t kStageBytes = (Rows + Columns) * kRowBytes;
  static constexpr uint32_t kSharedBytes = Stages * kStageBytes;
  // Whether a second set of sums fits the registers, so that K can be cut into segments.
  static constexpr bool kSegmented = kRowTiles * kColumnTiles * 4 <= 64;

  static_assert(Rows % WarpRows == 0 && Columns % WarpColumns == 0, "warps cover the tile exactly");
  static_assert(WarpRows % 16 == 0 && WarpColumns % 16 == 0, "an ldmatrix of four matrices covers 16 rows of either operand");
  static_assert(kColumnTiles % kGroup == 0 && kGroup % 2 == 0, "groups of two or four mma tiles cover a warp's columns");
  static_assert(Rows % kPassRows == 0 && Columns % kPassRows == 0, "copy passes cover both operands exactly");
  static_assert(kPassRows % 8 == 0, "the activations' swizzle repeats from pass to pass");
  static_assert(Stages >= 2, "a stage is filled while another is read");
  static_assert(kThreads == GRIDPOINT_GEMM_THREADS, "the launch has exactly the tile's warps");
};

using Tile64x64 = Tile<64, 64, 32, 32, 4>;
using Tile128x128 = Tile<128, 128, 64, 64, 3>;
static_assert(Tile64x64::kSharedBytes == GRIDPOINT_GEMM_64X64_SHARED_BYTES, "the launch reserves exactly the ring");
static_assert(Tile128x128::kSharedBytes == GRIDPOINT_GEMM_128X128_SHARED_BYTES, "the launch reserves exactly the ring");

// ---- the walk over tiles and k ------------------------------------------------------------------------------------------------

// What a launch covers.
struct Extent {
  uint32_t rows;  // live rows
  uint32_t columns;
  uint32_t k;
  uint32_t row_tiles;
  uint32_t column_tiles;
  uint32_t k_tiles;
  uint32_t segment_tiles;  // k tiles of a segment
  uint32_t tiles;
};

// First row and column of an output tile.
struct Corner {
  uint32_t row;
  uint32_t column;
};

template <class Tile>
GRIDPOINT_DEVICE Extent extent_of(const GemmParameters& parameters) {
  Extent extent;
  extent.rows = live_rows(parameters.step, parameters.rows);
  extent.columns = parameters.n;
  extent.k = parameters.k;
  extent.row_tiles = ceiling_divide(extent.rows, Tile::kRows);
  extent.column_tiles = ceiling_divide(extent.columns, Tile::kColumns);
  extent.k_tiles = ceiling_divide(extent.k, kBlockK);
  extent.segment_tiles = ceiling_divide(parameters.segment, kBlockK);
  extent.tiles = extent.row_tiles * extent.column_tiles;
  return extent;
}

template <class Tile>
GRIDPOINT_DEVICE Corner corner_of(const Extent& extent, uint32_t tile) {
  const uint32_t group_tiles = kGroupTiles * extent.column_tiles;
  const uint32_t first_row_tile = tile / group_tiles * kGroupTiles;
  const uint32_t height = minimum(kGroupTiles, extent.row_tiles - first_row_tile);
  const uint32_t place = tile % group_tiles;
  return Corner{(first_row_tile + place % height) * Tile::kRows, place / height * Tile::kColumns};
}

// Where the copies of this thread stand: the next pair (tile, k tile) to load, and addresses of this thread's first chunk of it.
struct Loader {
  uint32_t tile;
  uint32_t k_tile;
  uint32_t rows_left;  // live rows from this thread's first row of the tile on; likewise columns
  uint32_t columns_left;
  const uint16_t* activations;
  const uint16_t* weights;
};

template <class Tile>
GRIDPOINT_DEVICE void enter_tile(Loader& loader, const GemmParameters& parameters, const Extent& extent, uint32_t tile) {
  loader.tile = tile;
  loader.k_tile = 0;
  if (tile >= extent.tiles) return;
  const Corner corner = corner_of<Tile>(extent, tile);
  const uint32_t chunk = thread_index() % kChunks * kChunkElements;
  const uint32_t row = corner.row + thread_index() / kChunks;
  const uint32_t column = corner.column + thread_index() / kChunks;
  loader.rows_left = extent.rows - minimum(extent.rows, row);
  loader.columns_left = extent.columns - minimum(extent.columns, column);
  loader.activations = parameters.activations + static_cast<uint64_t>(row) * extent.k + chunk;
  loader.weights = parameters.weights + static_cast<uint64_t>(column) * extent.k + chunk;
}

template <class Tile>
GRIDPOINT_DEVICE void advance(Loader& loader, const GemmParameters& parameters, const Extent& extent) {
  if (++loader.k_tile < extent.k_tiles) {
    loader.activations += kBlockK;
    loader.weights += kBlockK;
  } else {
    enter_tile<Tile>(loader, parameters, extent, loader.tile + grid_blocks());
  }
}

// The swizzle key of a row of the weights' tile: its number in the mma tile that reads it, so that the eight rows of an ldmatrix phase differ.
template <class Tile>
GRIDPOINT_DEVICE uint32_t weight_key(uint32_t column) {
  return column / Tile::kRun % 4 * 2 + column % 2;
}

// 16 bytes, or zeros where `inside` is false; the address is then not read.
GRIDPOINT_DEVICE void copy_chunk(uint32_t target, const uint16_t* source, bool inside) { copy_async16(target, source, inside ? 16 : 0); }

template <class Tile>
GRIDPOINT_DEVICE void load_activations(const Loader& loader, const Extent& extent, uint32_t stage_address) {
  if (loader.tile >= extent.tiles) return;
  const uint32_t chunk = thread_index() % kChunks;
  const uint32_t row = thread_index() / kChunks;
  const bool k_inside = loader.k_tile * kBlockK + chunk * kChunkElements < extent.k;
  const uint32_t target = stage_address + swizzled<kRowBytes>(row, chunk);
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < Tile::kRows; i += Tile::kPassRows) {
    copy_chunk(target + i * kRowBytes, loader.activations + static_cast<uint64_t>(i) * extent.k, k_inside && i < loader.rows_left);
  }
}

template <class Tile>
GRIDPOINT_DEVICE void load_weights(const Loader& loader, const Extent& extent, uint32_t stage_address) {
  if (loader.tile >= extent.tiles) return;
  const uint32_t chunk = thread_index() % kChunks;
  const uint32_t column = thread_index() / kChunks;
  const bool k_inside = loader.k_tile * kBlockK + chunk * kChunkElements < extent.k;
  const uint32_t target = stage_address + Tile::kActivationBytes;
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < Tile::kColumns; i += Tile::kPassRows) {
    const uint32_t place = (column + i) * kRowBytes + ((chunk ^ weight_key<Tile>(column + i)) << 4);
    copy_chunk(target + place, loader.weights + static_cast<uint64_t>(i) * extent.k, k_inside && i < loader.columns_left);
  }
}

// ---- one stage ----------------------------------------------------------------------------------------------------------------

template <class Tile>
struct Fragments {
  uint32_t activations[Tile::kRowTiles][4];
  uint32_t weights[Tile::kColumnTiles][2];
};

// This lane's row addresses for ldmatrix, relative to a stage, for the first k16 step before the swizzle's xor.
struct LaneRows {
  uint32_t activations;  // byte offset of the lane's first row
  uint32_t weights;
  uint32_t activation_chunk;  // chunk of the row for step 0, swizzled; step s is this xor 2s
  uint32_t weight_chunk;
};

template <class Tile>
GRIDPOINT_DEVICE LaneRows lane_rows() {
  const uint32_t lane = lane_index();
  const uint32_t warp = warp_index();
  const uint32_t row = lane % 8;
  const uint32_t matrix = lane / 8;
  LaneRows result;
  // Matrices of activations: rows 0-7 and 8-15 of the low k half, then of the high one.
  result.activations = (warp / Tile::kWarpsAcross * Tile::kWarpRows + matrix % 2 * 8 + row) * kRowBytes;
  result.activation_chunk = (matrix / 2) ^ row;
  // Matrices of weights: low and high k half of one mma tile, then of its right neighbour. The key of the lane's row is `row`.
  const uint32_t column = warp % Tile::kWarpsAcross * Tile::kWarpColumns + row / 2 * Tile::kRun + matrix / 2 * 2 + row % 2;
  result.weights = Tile::kActivationBytes + column * kRowBytes;
  result.weight_chunk = (matrix % 2) ^ row;
  return result;
}

template <class Tile>
GRIDPOINT_DEVICE void load_fragments(Fragments<Tile>& fragments, const LaneRows& rows, uint32_t stage_address, uint32_t step) {
  const uint32_t activations = stage_address + rows.activations + ((rows.activation_chunk ^ (2 * step)) << 4);
  const uint32_t weights = stage_address + rows.weights + ((rows.weight_chunk ^ (2 * step)) << 4);
  GRIDPOINT_UNROLL
  for (int m = 0; m < Tile::kRowTiles; ++m) load_matrix_x4(fragments.activations[m], activations + m * 16 * kRowBytes);
  GRIDPOINT_UNROLL
  for (int n = 0; n < Tile::kColumnTiles; n += 2) {
    const uint32_t column = n / Tile::kGroup * 8 * Tile::kGroup + n % Tile::kGroup * 2;
    uint32_t pair[4];
    load_matrix_x4(pair, weights + column * kRowBytes);
    fragments.weights[n][0] = pair[0];
    fragments.weights[n][1] = pair[1];
    fragments.weights[n + 1][0] = pair[2];
    fragments.weights[n + 1][1] = pair[3];
  }
}

template <class Element, class Tile>
GRIDPOINT_DEVICE void multiply_stage(float (&sums)[Tile::kRowTiles][Tile::kColumnTiles][4], const LaneRows& rows, uint32_t stage_address) {
  Fragments<Tile> fragments[2];
  load_fragments<Tile>(fragments[0], rows, stage_address, 0);
  GRIDPOINT_UNROLL
  for (uint32_t step = 0; step < kSteps; ++step) {
    if (step + 1 < kSteps) load_fragments<Tile>(fragments[(step + 1) % 2], rows, stage_address, step + 1);
    Element::template mma<Tile::kRowTiles, Tile::kColumnTiles>(sums, fragments[step % 2].activations, fragments[step % 2].weights);
  }
}

// ---- the end of a tile -----------------------------------------------------------------------------------------------------------

// `row` and `column` are the corner of this warp's part of the tile.
template <class Tile, class Epilogue>
GRIDPOINT_DEVICE void finish_tile(const GemmParameters& parameters, const Extent& extent, uint32_t row, uint32_t column,
                                  const float (&sums)[Tile::kRowTiles][Tile::kColumnTiles][4]) {
  row += lane_index() / 4;
  column += lane_index() % 4 * Tile::kRun;
  EpilogueRow about[Tile::kRowTiles * 2];
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < Tile::kRowTiles * 2; ++half) {
    if (row + half * 8 < extent.rows) about[half] = epilogue_row<Epilogue>(parameters, row + half * 8);
  }
  GRIDPOINT_UNROLL
  for (int group = 0; group < Tile::kGroups; ++group, column += 4 * Tile::kRun) {
    if (column >= extent.columns) break;
    // All reads of a group before its first write, so that their latencies overlap. Reads and writes of a thread meet only in its own elements.
    const Run<Tile::kRun> bias = bias_run<Tile::kRun>(parameters, column);
    Run<Tile::kRun> residual[Tile::kRowTiles * 2] = {};
    GRIDPOINT_UNROLL
    for (uint32_t half = 0; half < Tile::kRowTiles * 2; ++half) {
      if (row + half * 8 < extent.rows) residual[half] = residual_run<Epilogue, Tile::kRun>(parameters, row + half * 8, column);
    }
    GRIDPOINT_UNROLL
    for (uint32_t half = 0; half < Tile::kRowTiles * 2; ++half) {
      if (row + half * 8 < extent.rows) {
        float values[Tile::kRun];
        GRIDPOINT_UNROLL
        for (int i = 0; i < Tile::kRun; ++i) values[i] = sums[half / 2][group * Tile::kGroup + i / 2][half % 2 * 2 + i % 2];
        finish_run<Epilogue, Tile::kRun>(parameters, row + half * 8, column, values, about[half], bias, residual[half]);
      }
    }
  }
}

// ---- the kernel ---------------------------------------------------------------------------------------------------------------

template <int M, int N>
GRIDPOINT_DEVICE void clear(float (&sums)[M][N][4]) {
  GRIDPOINT_UNROLL
  for (int m = 0; m < M; ++m) {
    GRIDPOINT_UNROLL
    for (int n = 0; n < N; ++n) {
      GRIDPOINT_UNROLL
      for (int i = 0; i < 4; ++i) sums[m][n][i] = 0.0f;
    }
  }
}

template <int M, int N>
GRIDPOINT_DEVICE void add(float (&total)[M][N][4], const float (&sums)[M][N][4]) {
  GRIDPOINT_UNROLL
  for (int m = 0; m < M; ++m) {
    GRIDPOINT_UNROLL
    for (int n = 0; n < N; ++n) {
      GRIDPOINT_UNROLL
      for (int i = 0; i < 4; ++i) total[m][n][i] += sums[m][n][i];
    }
  }
}

template <class Tile>
struct alignas(16) Ring {
  unsigned char bytes[Tile::kSharedBytes];
};

template <class Tile, class Epilogue>
GRIDPOINT_DEVICE void multiply(const GemmParameters& parameters) {
  // At once: the next kernel's blocks begin where this grid leaves room or its blocks end. They wait by themselves.
  grid_launch_dependents();
  const Extent extent = extent_of<Tile>(parameters);
  if (block_index() >= extent.tiles) {
    grid_dependency_wait();
    return;
  }
  const uint32_t ring = shared_address(&shared<Ring<Tile>>());

  // Fill all stages but one. Weights need no kernel before this one, so they start before the wait; a thread's groups complete in
  // order, so the first group closed after it also covers them.
  Loader loader;
  enter_tile<Tile>(loader, parameters, extent, block_index());
  Loader ahead = loader;
  for (uint32_t stage = 0; stage + 1 < Tile::kStages; ++stage) {
    load_weights<Tile>(ahead, extent, ring + stage * Tile::kStageBytes);
    advance<Tile>(ahead, parameters, extent);
  }
  grid_dependency_wait();
  for (uint32_t stage = 0; stage + 1 < Tile::kStages; ++stage) {
    load_activations<Tile>(loader, extent, ring + stage * Tile::kStageBytes);
    copy_async_commit();
    advance<Tile>(loader, parameters, extent);
  }

  const LaneRows rows = lane_rows<Tile>();
  uint32_t read_address = ring;
  uint32_t write_address = ring + (Tile::kStages - 1) * Tile::kStageBytes;
  for (uint32_t tile = block_index(); tile < extent.tiles; tile += grid_blocks()) {
    const Corner corner = corner_of<Tile>(extent, tile);
    const uint32_t warp_row = corner.row + warp_index() / Tile::kWarpsAcross * Tile::kWarpRows;
    const uint32_t warp_column = corner.column + warp_index() % Tile::kWarpsAcross * Tile::kWarpColumns;
    const bool active = warp_row < extent.rows && warp_column < extent.columns;

    float sums[Tile::kRowTiles][Tile::kColumnTiles][4];
    float total[Tile::kSegmented ? Tile::kRowTiles : 1][Tile::kColumnTiles][4];
    clear(sums);
    clear(total);
    uint32_t segment_left = extent.segment_tiles;

    for (uint32_t k_tile = 0; k_tile < extent.k_tiles; ++k_tile) {
      // The stage to read is complete for this thread, and after the barrier for all; the barrier also says that all warps are done
      // with the stage read in the turn before, which is the one to fill.
      copy_async_wait<Tile::kStages - 2>();
      block_barrier();
      load_weights<Tile>(loader, extent, write_address);
      load_activations<Tile>(loader, extent, write_address);
      copy_async_commit();
      advance<Tile>(loader, parameters, extent);
      if (active) multiply_stage<typename Epilogue::Element, Tile>(sums, rows, read_address);
      if constexpr (Tile::kSegmented) {
        if (--segment_left == 0) {
          add(total, sums);
          clear(sums);
          segment_left = extent.segment_tiles;
        }
      }
      write_address = read_address;
      read_address = read_address + Tile::kStageBytes == ring + Tile::kSharedBytes ? ring : read_address + Tile::kStageBytes;
    }
    // What is left of the last segment; zeros where it was whole.
    if constexpr (Tile::kSegmented) add(sums, total);
    if (active) finish_tile<Tile, Epilogue>(parameters, extent, warp_row, warp_column, sums);
  }
}

}  // namespace
}  // namespace gridpoint

// The number of blocks bounds registers so that they allow as many as shared memory does.
#define GEMM_INSTANCE(X, name, blocks, Tile, Element, Kind) \
  X(name, GemmParameters, GRIDPOINT_GEMM_THREADS, blocks, gridpoint::multiply<gridpoint::Tile, gridpoint::Epilogue<gridpoint::Element, gridpoint::EpilogueKind::Kind>>)
#define GEMM_EPILOGUES(X, tile, Tile, blocks, Element, suffix)                          \
  GEMM_INSTANCE(X, gemm_##tile##_logits##suffix, blocks, Tile, Element, kLogits)        \
  GEMM_INSTANCE(X, gemm_##tile##_residual##suffix, blocks, Tile, Element, kResidual)    \
  GEMM_INSTANCE(X, gemm_##tile##_swiglu##suffix, blocks, Tile, Element, kSwiGlu)        \
  GEMM_INSTANCE(X, gemm_##tile##_rotary##suffix, blocks, Tile, Element, kRotary)
#define GEMM_ELEMENTS(X, tile, Tile, blocks)         \
  GEMM_EPILOGUES(X, tile, Tile, blocks, Bf16, )      \
  GEMM_EPILOGUES(X, tile, Tile, blocks, F16, _f16)

#define GEMM_KERNELS(X)                     \
  GEMM_ELEMENTS(X, 64x64, Tile64x64, 3)     \
  GEMM_ELEMENTS(X, 128x128, Tile128x128, 2)

GRIDPOINT_MODULE(gemm, GEMM_KERNELS)
