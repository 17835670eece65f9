// Products of many rows on Hopper: output = epilogue(activations x weights^T) (epilogue.cuh), bf16 or float16 in, float32 accumulation, by
// wgmma on tiles that tensor copies bring. Without code on anything but sm_90a and the simulated device; gemm.cu takes what this does not.
//
// Shapes: activations [rows, K], weights [N, K], bias [N], residual and output [rows, N] (swiglu: [rows, N / 2]). K is a multiple of 8; N is
// any for logits, whole heads for rotary, a multiple of 8 for residual and of 16 for swiglu, whose outputs leave by tensor
// copies; matrices are 16-byte aligned. residual may be the same buffer as output: a tile is read before it is written, by one block.
//
// A block has one warp that loads (of a warpgroup that gives its registers away) and two warpgroups that multiply 64 rows each. Between
// them lie a ring of stages of 64 values of k, each with an mbarrier `full`, which counts bytes, and one `empty`, which counts warpgroups.
// Blocks walk output tiles below live row tiles x column tiles with the grid as stride, whatever its size; the loading warp runs ahead of the
// others by the whole ring, into the next tile too, so that its loads fly during an epilogue. A warpgroup has the wgmmas of one stage
// under way while it waits for the next, and returns a stage when those of the one after have been issued. Finished tiles go through shared
// memory (stmatrix, swizzled as the tensor map says) and leave by tensor stores that run beside the next tile. The residual comes into that
// same memory by tensor loads while the tile is multiplied. Structure: CUTLASS's persistent cooperative kernels, fast.cu (pranjalssh) kernel
// 12, DeepGEMM.
//
// Clusters of two blocks take neighbouring tiles, of rows or of columns (TensorGemmParameters::cluster), and each loads half of the operand
// that they share for both (multicast). A pair's second tile may lie outside the output: then its block loads its half all the same and
// multiplies nothing. Clusters of one block work alike, without multicast. What it is for: a tile of 128x256 takes 48 KB for 1024 clocks of
// the tensor cores, 47 bytes a clock; 132 of them would ask the second cache for 10 TB/s at 1.7 GHz. A pair that shares the 256
// columns takes 32 KB a block.
//
// Live rows. Rows past them may hold anything and may never have been written. Maps of activations, residual and output are ragged: three
// dimensions (column, row, row again) over base - R rows, R being the capacity. The box of rows from r on is at row R - live + r of
// the second dimension, which ends at R, and at row `live` of the third, which moves the address on to r: so the copy itself ends at the
// last live row. It loads zeros for those behind, without reading them, and stores nothing there. (Triton's ragged descriptors and QuACK do
// so.) Partial tiles need no code of their own, padding costs no bytes, and what lies in it cannot reach anything. Boxes of a few rows
// would load up to seven dead ones and 8 to 16 instructions a stage. A warpgroup whose rows are all dead multiplies nothing.
//
// Tile order, as in gemm.cu: groups of 16 row tiles; inside a group rows run fastest. With few rows, weights are read once. With many, 132
// tiles of 128x256 in flight are 16 x 8, 2048 x 2112 elements: the square that reads least, and the weights come from device memory
// once for each group while its activations stay in the second cache (K = 4096: 17 MB).
//
// Numbers: those of gemm.cu, bit for bit: each segment of K from zero over ascending steps of 16, segments added in order. wgmma and mma
// perform the same operation on a step on Hopper (MMA-Sim, arXiv 2511.10909) and on the simulated device. Tiles of up to 128 columns have registers
// for a second set of sums, 192 and 256 take one segment only (`segment` of at least K).
//
// Launch contract: GRIDPOINT_GEMM_HOPPER_THREADS threads, all shared memory of a multiprocessor, so one block each; clusters of 1 or 2.
// Boxes of the maps, all elements x rows: activations 64 x 64, weights 64 x columns / 2, both with 128-byte swizzle; output and residual 64 x 64
// with it, or, for swiglu of 64 or 192 columns, 32 x 64 with 64-byte swizzle. Before griddepcontrol.wait the step's header,
// the maps and the first stages of weights are read; every thread waits, also without a tile.
//
//   columns  stages (swiglu; logits, rotary)  stage bytes  output bytes  registers of a multiplying thread
//        64   8 (8; 8)                              24576         16384    32 + 32 sums
//       128   6 (6; 7)                              32768         32768    64 + 64
//       192   4 (5; 5)                              40960         49152    96
//       256   3 (4; 4)                              49152         65536   128
//
// What bounds it, by arithmetic: wgmma m64nNk16 takes N / 2 clocks and reads (64 + N) * 32 bytes of shared memory, which has 128 bytes a
// clock; loads write (128 + N) * 128 bytes a stage of 4 N clocks. Together a clock: N = 256: 80 + 48 = 128 bytes, just the limit; 192: 85 + 53,
// 92 % of the tensor cores' rate; 128: 96 + 64, 80 %; 64: 128 + 96, 57 %. 256 rows x 128 columns would read 96 + 48, 89 %, and is not made.
#include "epilogue.cuh"

namespace gridpoint {
namespace {

#ifdef GRIDPOINT_WARPGROUPS

// Values of k in a stage: 128 bytes, the span of the swizzle.
constexpr uint32_t kDepth = 64;
constexpr uint32_t kSpanBytes = kDepth * 2;
constexpr uint32_t kTileRows = 128;
constexpr uint32_t kGroupThreads = 128;
constexpr uint32_t kConsumers = 2;
constexpr uint32_t kConsumerRows = kTileRows / kConsumers;
// Row tiles that share a pass over the weights.
constexpr uint32_t kGroupTiles = 16;
// The most blocks of a cluster.
constexpr uint32_t kPair = 2;
constexpr uint32_t kMostStages = 8;
// What 128-byte swizzled tiles and matrix descriptors are aligned to.
constexpr uint32_t kAlignment = 1024;
constexpr uint32_t kBarrierBytes = 256;
constexpr uint32_t kProducerRegisters = 40;
constexpr uint32_t kConsumerRegisters = 232;
static_assert(GRIDPOINT_GEMM_HOPPER_THREADS == (kConsumers + 1) * kGroupThreads, "the launch has exactly these warpgroups");

// Shared memory of a kernel from the first multiple of kAlignment on: stages (activations, then weights), the output, mbarriers.
template <uint32_t Columns, class EpilogueType>
struct Layout {
  using Epilogue = EpilogueType;
  static constexpr EpilogueKind kKind = Epilogue::kKind;
  static constexpr uint32_t kColumns = Columns;
  static constexpr uint32_t kSums = Columns / 2;
  // Whether a second set of sums fits the registers, so that K can be cut into segments.
  static constexpr bool kSegmented = Columns <= 128;
  static constexpr uint32_t kActivationBytes = kTileRows * kSpanBytes;
  static constexpr uint32_t kWeightBytes = Columns * kSpanBytes;
  static constexpr uint32_t kStageBytes = kActivationBytes + kWeightBytes;
  // Whether tensor stores take the output, in boxes of so many columns.
  static constexpr bool kTensorStores = kKind == EpilogueKind::kResidual || kKind == EpilogueKind::kSwiGlu;
  static constexpr uint32_t kOutputColumns = kKind == EpilogueKind::kSwiGlu ? Columns / 2 : Columns;
  static constexpr uint32_t kBoxColumns = kOutputColumns % 64 == 0 ? 64 : 32;
  static constexpr uint32_t kBoxRowBytes = kBoxColumns * 2;
  static constexpr uint32_t kBoxBytes = kConsumerRows * kBoxRowBytes;
  static constexpr uint32_t kBoxes = kOutputColumns / kBoxColumns;
  static constexpr uint32_t kOutputBytes = kTensorStores ? kConsumers * kBoxes * kBoxBytes : 0;
  static constexpr uint32_t kRoom = (GRIDPOINT_GEMM_HOPPER_SHARED_BYTES - kAlignment - kBarrierBytes - kOutputBytes) / kStageBytes;
  static constexpr uint32_t kStages = kRoom < kMostStages ? kRoom : kMostStages;
  static constexpr uint32_t kStartOutput = kStages * kStageBytes;
  static constexpr uint32_t kStartFull = kStartOutput + kOutputBytes;
  static constexpr uint32_t kStartEmpty = kStartFull + kMostStages * 8;
  static constexpr uint32_t kStartResidual = kStartEmpty + kMostStages * 8;

  static_assert(Columns % 64 == 0 && Columns <= 256, "half the columns are whole groups of swizzled rows, and one wgmma has 256 at most");
  static_assert(kStages >= 3, "one stage is multiplied, one returned, one loaded");
  static_assert(kStartResidual + kConsumers * 8 <= kStartFull + kBarrierBytes, "the mbarriers fit");
};

struct alignas(16) SharedBytes {
  unsigned char bytes[16];
};

// ---- the walk over tiles ------------------------------------------------------------------------------------------------------

// What a launch covers and which part is this block's; the same in all threads, and but for `rank` in all blocks.
struct Walk {
  uint32_t rows;  // live rows
  uint32_t steps;  // stages of k
  uint32_t segment_steps;
  uint32_t pair_rows;  // row tiles and column tiles of a cluster's step through the output
  uint32_t pair_columns;
  uint32_t row_pairs;
  uint32_t column_pairs;
  uint32_t pairs;
  uint32_t blocks;  // of a cluster
  uint32_t rank;
};

// First row and column of an output tile.
struct Corner {
  uint32_t row;
  uint32_t column;
};

template <class Layout>
GRIDPOINT_DEVICE Walk walk_of(const TensorGemmParameters& parameters) {
  Walk walk;
  walk.rows = live_rows(parameters.gemm.step, parameters.gemm.rows);
  walk.steps = ceiling_divide(parameters.gemm.k, kDepth);
  walk.segment_steps = ceiling_divide(parameters.gemm.segment, kDepth);
  walk.blocks = cluster_blocks();
  walk.rank = cluster_rank();
  walk.pair_rows = parameters.cluster == GRIDPOINT_CLUSTER_ROWS ? walk.blocks : 1;
  walk.pair_columns = walk.blocks / walk.pair_rows;
  walk.row_pairs = ceiling_divide(walk.rows, kTileRows * walk.pair_rows);
  walk.column_pairs = ceiling_divide(parameters.gemm.n, Layout::kColumns * walk.pair_columns);
  walk.pairs = walk.row_pairs * walk.column_pairs;
  return walk;
}

template <class Layout>
GRIDPOINT_DEVICE Corner corner_of(const Walk& walk, uint32_t pair) {
  const uint32_t height_of_group = kGroupTiles / walk.pair_rows;
  const uint32_t first = pair / (height_of_group * walk.column_pairs) * height_of_group;
  const uint32_t height = minimum(height_of_group, walk.row_pairs - first);
  const uint32_t place = pair % (height_of_group * walk.column_pairs);
  const uint32_t row_rank = walk.pair_rows > 1 ? walk.rank : 0;
  const uint32_t column_rank = walk.rank - row_rank;
  return Corner{((first + place % height) * walk.pair_rows + row_rank) * kTileRows,
                (place / height * walk.pair_columns + column_rank) * Layout::kColumns};
}

// The clusters' first pair and their stride.
GRIDPOINT_DEVICE uint32_t first_pair(const Walk& walk) { return block_index() / walk.blocks; }
GRIDPOINT_DEVICE uint32_t pair_stride(const Walk& walk) { return grid_blocks() / walk.blocks; }

// A place in the ring and the parity of its turn.
struct Turn {
  uint32_t stage;
  uint32_t parity;
};

template <class Layout>
GRIDPOINT_DEVICE void advance(Turn& turn) {
  if (++turn.stage == Layout::kStages) {
    turn.stage = 0;
    turn.parity ^= 1;
  }
}

// ---- loading ------------------------------------------------------------------------------------------------------------------

// Coordinates in a ragged map of the box whose first row is `row`.
struct Ragged {
  int32_t row;
  int32_t live;
};

GRIDPOINT_DEVICE Ragged ragged(const TensorGemmParameters& parameters, const Walk& walk, uint32_t row) {
  return Ragged{static_cast<int32_t>(parameters.row_capacity - walk.rows + row), static_cast<int32_t>(walk.rows)};
}

template <class Layout>
GRIDPOINT_DEVICE void load_activations(const TensorGemmParameters& parameters, uint32_t start, const Walk& walk, const Corner& corner, uint32_t step,
                                       uint32_t stage) {
  const TensorMap* map = &parameters.maps[GRIDPOINT_MAP_ACTIVATIONS];
  const uint32_t full = start + Layout::kStartFull + stage * 8;
  const uint32_t target = start + stage * Layout::kStageBytes;
  constexpr uint32_t kHalfBytes = Layout::kActivationBytes / kPair;
  for (uint32_t half = 0; half < kPair; ++half) {
    const Ragged from = ragged(parameters, walk, corner.row + half * (kTileRows / kPair));
    const int32_t place[3] = {static_cast<int32_t>(step * kDepth), from.row, from.live};
    if (walk.pair_columns == 1) {
      tensor_load(target + half * kHalfBytes, map, place, full);
    } else if (half == walk.rank) {
      tensor_load_multicast(target + half * kHalfBytes, map, place, full, static_cast<uint16_t>((1u << kPair) - 1));
    }
  }
}

template <class Layout>
GRIDPOINT_DEVICE void load_weights(const TensorGemmParameters& parameters, uint32_t start, const Walk& walk, const Corner& corner, uint32_t step,
                                   uint32_t stage) {
  const TensorMap* map = &parameters.maps[GRIDPOINT_MAP_WEIGHTS];
  const uint32_t full = start + Layout::kStartFull + stage * 8;
  const uint32_t target = start + stage * Layout::kStageBytes + Layout::kActivationBytes;
  constexpr uint32_t kHalfBytes = Layout::kWeightBytes / kPair;
  for (uint32_t half = 0; half < kPair; ++half) {
    const int32_t place[2] = {static_cast<int32_t>(step * kDepth), static_cast<int32_t>(corner.column + half * (Layout::kColumns / kPair))};
    if (walk.pair_rows == 1) {
      tensor_load(target + half * kHalfBytes, map, place, full);
    } else if (half == walk.rank) {
      tensor_load_multicast(target + half * kHalfBytes, map, place, full, static_cast<uint16_t>((1u << kPair) - 1));
    }
  }
}

// One thread.
template <class Layout>
GRIDPOINT_DEVICE void produce(const TensorGemmParameters& parameters, uint32_t start, const Walk& walk) {
  const uint32_t first = first_pair(walk);
  if (first >= walk.pairs) {
    grid_dependency_wait();
    return;
  }
  // The ring is empty. Weights need no kernel before this one and fill it first.
  Corner corner = corner_of<Layout>(walk, first);
  const uint32_t early = minimum(Layout::kStages, walk.steps);
  for (uint32_t step = 0; step < early; ++step) {
    mbarrier_arrive_expect(start + Layout::kStartFull + step * 8, Layout::kStageBytes);
    load_weights<Layout>(parameters, start, walk, corner, step, step);
  }
  grid_dependency_wait();
  Turn turn = {0, 0};
  for (uint32_t step = 0; step < early; ++step) {
    load_activations<Layout>(parameters, start, walk, corner, step, step);
    advance<Layout>(turn);
  }
  uint32_t step = early;
  for (uint32_t pair = first;;) {
    for (; step < walk.steps; ++step) {
      // Both blocks' warpgroups have to be done with the stage, since half of an operand goes to both.
      mbarrier_wait(start + Layout::kStartEmpty + turn.stage * 8, turn.parity ^ 1);
      mbarrier_arrive_expect(start + Layout::kStartFull + turn.stage * 8, Layout::kStageBytes);
      load_weights<Layout>(parameters, start, walk, corner, step, turn.stage);
      load_activations<Layout>(parameters, start, walk, corner, step, turn.stage);
      advance<Layout>(turn);
    }
    pair += pair_stride(walk);
    if (pair >= walk.pairs) break;
    corner = corner_of<Layout>(walk, pair);
    step = 0;
  }
}

// ---- multiplying --------------------------------------------------------------------------------------------------------------

// What a multiplying warpgroup knows of itself.
struct Consumer {
  uint32_t index;
  uint32_t output;  // shared address of its part of the output
  bool leader;      // the thread that issues its tensor copies
};

// Tells the loading threads of all blocks of the cluster that a stage has been read. Neither this nor the waits for it need cluster scope:
// the stage was read by wgmmas that are complete and is written by tensor copies.
template <class Layout>
GRIDPOINT_DEVICE void release(uint32_t start, const Walk& walk, uint32_t stage) {
  const uint32_t thread = thread_index() % kGroupThreads;
  if (thread < walk.blocks) mbarrier_return_cluster(map_shared(start + Layout::kStartEmpty + stage * 8, thread));
}

template <class Layout>
GRIDPOINT_DEVICE uint32_t stage_before(uint32_t stage) {
  return stage == 0 ? Layout::kStages - 1 : stage - 1;
}

// A stage's four steps of 16 on the sums, or instead of them where `fresh`.
template <class Layout>
GRIDPOINT_DEVICE void multiply_stage(float (&sums)[Layout::kSums], uint32_t start, uint32_t consumer, uint32_t stage, bool fresh) {
  const uint32_t activations = start + stage * Layout::kStageBytes + consumer * kConsumerRows * kSpanBytes;
  const uint32_t weights = start + stage * Layout::kStageBytes + Layout::kActivationBytes;
  const uint64_t a = matrix_descriptor(activations, 16, 8 * kSpanBytes, kSwizzle128);
  const uint64_t b = matrix_descriptor(weights, 16, 8 * kSpanBytes, kSwizzle128);
  wgmma_fence();
  GRIDPOINT_UNROLL
  for (uint32_t step = 0; step < kDepth / 16; ++step) {
    // Sixteen values are 32 bytes, two units of a descriptor's address.
    wgmma<Layout::kColumns, Layout::Epilogue::Element::kWgmma>(sums, a + step * 2, b + step * 2, step > 0 || !fresh);
  }
  wgmma_commit();
}

// A warpgroup without live rows or columns returns a tile's stages as they come. Only the threads that return them watch them: nothing would
// keep a stage from being filled twice behind the back of another, which would then wait for the wrong turn.
template <class Layout>
GRIDPOINT_DEVICE void pass_tile(uint32_t start, const Walk& walk, const Consumer& me, Turn& turn) {
  const bool returns = thread_index() % kGroupThreads < walk.blocks;
  for (uint32_t step = 0; step < walk.steps; ++step) {
    if (returns) {
      mbarrier_wait(start + Layout::kStartFull + turn.stage * 8, turn.parity);
      release<Layout>(start, walk, turn.stage);
    }
    advance<Layout>(turn);
  }
  named_barrier_sync(1 + me.index, kGroupThreads);
}

// Starts the loads of a tile's residual, once the tensor stores of the tile before have read the memory that it comes to.
template <class Layout>
GRIDPOINT_DEVICE void load_residual(const TensorGemmParameters& parameters, uint32_t start, const Walk& walk, const Consumer& me, const Corner& corner) {
  bulk_wait_read<0>();
  const uint32_t loaded = start + Layout::kStartResidual + me.index * 8;
  mbarrier_arrive_expect(loaded, Layout::kBoxes * Layout::kBoxBytes);
  const Ragged from = ragged(parameters, walk, corner.row + me.index * kConsumerRows);
  for (uint32_t box = 0; box < Layout::kBoxes; ++box) {
    const int32_t place[3] = {static_cast<int32_t>(corner.column + box * Layout::kBoxColumns), from.row, from.live};
    tensor_load(me.output + box * Layout::kBoxBytes, &parameters.maps[GRIDPOINT_MAP_RESIDUAL], place, loaded);
  }
}

// The sums of a tile's 64 rows.
template <class Layout>
GRIDPOINT_DEVICE void multiply_tile(float (&sums)[Layout::kSums], const TensorGemmParameters& parameters, uint32_t start, const Walk& walk,
                                    const Consumer& me, const Corner& corner, Turn& turn) {
  float total[Layout::kSegmented ? Layout::kSums : 1];
  uint32_t segment_left = walk.segment_steps;
  bool fresh = true, summed = false;
  for (uint32_t step = 0; step < walk.steps; ++step) {
    mbarrier_wait(start + Layout::kStartFull + turn.stage * 8, turn.parity);
    multiply_stage<Layout>(sums, start, me.index, turn.stage, fresh);
    // The stage before has been multiplied when at most this one is under way.
    wgmma_wait<1>();
    if (!fresh) release<Layout>(start, walk, stage_before<Layout>(turn.stage));
    fresh = false;
    // Not before the first wgmmas: the wait for the stores of the tile before is then short.
    if constexpr (Layout::kKind == EpilogueKind::kResidual) {
      if (step == 0 && me.leader) load_residual<Layout>(parameters, start, walk, me, corner);
    }
    if constexpr (Layout::kSegmented) {
      if (--segment_left == 0 && step + 1 < walk.steps) {
        wgmma_wait<0>();
        wgmma_hold(sums);
        release<Layout>(start, walk, turn.stage);
        GRIDPOINT_UNROLL
        for (uint32_t i = 0; i < Layout::kSums; ++i) total[i] = summed ? total[i] + sums[i] : sums[i];
        segment_left = walk.segment_steps;
        fresh = summed = true;
      }
    }
    advance<Layout>(turn);
  }
  wgmma_wait<0>();
  wgmma_hold(sums);
  release<Layout>(start, walk, stage_before<Layout>(turn.stage));
  if constexpr (Layout::kSegmented) {
    if (summed) {
      GRIDPOINT_UNROLL
      for (uint32_t i = 0; i < Layout::kSums; ++i) sums[i] += total[i];
    }
  }
}

// ---- the end of a tile --------------------------------------------------------------------------------------------------------

// What a thread's two rows bring along, read before the tile is multiplied; the thread holds rows lane / 4 and lane / 4 + 8 of its warp's sixteen.
template <class Layout>
GRIDPOINT_DEVICE void read_rows(EpilogueRow (&about)[2], const TensorGemmParameters& parameters, const Walk& walk, uint32_t row) {
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    about[half] = EpilogueRow{1.0f, 0, -1};
    if (row + half * 8 < walk.rows) about[half] = epilogue_row<typename Layout::Epilogue>(parameters.gemm, row + half * 8);
  }
}

// The bias of two columns, zeros past N.
GRIDPOINT_DEVICE Run<2> bias_of(const GemmParameters& parameters, uint32_t column) {
  Run<2> bias = {};
  if (parameters.bias != nullptr && column < parameters.n) bias = load_run<2>(parameters.bias + column, parameters.n - column);
  return bias;
}

// Logits leave by registers: two columns of a row a thread, four threads side by side, a sector of 32 bytes.
template <class Layout>
GRIDPOINT_DEVICE void store_logits(const GemmParameters& parameters, const Walk& walk, const Corner& corner, uint32_t row,
                                   const float (&sums)[Layout::kSums], const EpilogueRow (&about)[2]) {
  using Element = typename Layout::Epilogue::Element;
  const uint32_t first = corner.column + lane_index() % 4 * 2;
  float* targets[2];
  bool whole[2];
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    targets[half] = static_cast<float*>(parameters.output) + static_cast<uint64_t>(row + half * 8) * parameters.n + first;
    whole[half] = aligned(targets[half], 8);
  }
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < Layout::kColumns / 8; ++i) {
    const uint32_t column = first + i * 8;
    if (column >= parameters.n) break;
    const Run<2> bias = bias_of(parameters, column);
    GRIDPOINT_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
      if (row + half * 8 >= walk.rows) continue;
      float values[2] = {sums[i * 4 + half * 2], sums[i * 4 + half * 2 + 1]};
      scale_and_shift<Element, 2>(values, about[half].scale, bias);
      float* target = targets[half] + i * 8;
      if (whole[half] && column + 1 < parameters.n) {
        store8(target, Vector8{{float_bits(values[0]), float_bits(values[1])}});
      } else {
        target[0] = values[0];
        if (column + 1 < parameters.n) target[1] = values[1];
      }
    }
  }
}

// Rotated heads leave by registers too. Heads are multiples of eight columns, so eight columns of the product are those of one head: what
// finish_rotary works out for each run is kept from one eight to the next here.
template <class Layout>
GRIDPOINT_DEVICE void store_heads(const GemmParameters& parameters, const Walk& walk, const Corner& corner, uint32_t row,
                                  const float (&sums)[Layout::kSums], const EpilogueRow (&about)[2]) {
  using Element = typename Layout::Epilogue::Element;
  const uint32_t lane_column = lane_index() % 4 * 2;
  const uint32_t head_dim = parameters.head_dim;
  const uint32_t page_elements = GRIDPOINT_PAGE_TOKENS * head_dim;
  const float* angles[2];
  uint16_t* queries[2];
  // Element of the caches where a slot's first key-value head lies.
  uint64_t slots[2];
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    angles[half] = parameters.rotary + static_cast<uint64_t>(static_cast<uint32_t>(about[half].position)) * head_dim + lane_column;
    queries[half] = static_cast<uint16_t*>(parameters.output) +
                    static_cast<uint64_t>(row + half * 8) * (parameters.query_heads * head_dim) + corner.column + lane_column;
    const uint32_t slot = static_cast<uint32_t>(about[half].slot);
    slots[half] = static_cast<uint64_t>(slot / GRIDPOINT_PAGE_TOKENS) * parameters.kv_heads * page_elements +
                  static_cast<uint64_t>(slot % GRIDPOINT_PAGE_TOKENS) * head_dim + lane_column;
  }
  uint32_t head = corner.column / head_dim;
  uint32_t place = corner.column % head_dim;
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < Layout::kColumns / 8; ++i) {
    if (corner.column + i * 8 >= parameters.n) break;
    const bool is_query = head < parameters.query_heads;
    const bool is_value = head >= parameters.query_heads + parameters.kv_heads;
    uint16_t* cache = is_value ? parameters.value_cache : parameters.key_cache;
    const uint64_t in_cache = static_cast<uint64_t>(head - parameters.query_heads - (is_value ? parameters.kv_heads : 0)) * page_elements + place;
    const Run<2> bias = bias_of(parameters, corner.column + i * 8 + lane_column);
    GRIDPOINT_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
      if (row + half * 8 >= walk.rows || (!is_query && about[half].slot < 0)) continue;
      float values[2] = {sums[i * 4 + half * 2], sums[i * 4 + half * 2 + 1]};
      scale_and_shift<Element, 2>(values, about[half].scale, bias);
      if (!is_value) rotate<2>(values, angles[half] + place);
      uint16_t* target = is_query ? queries[half] + i * 8 : cache + slots[half] + in_cache;
      *reinterpret_cast<uint32_t*>(target) = Element::pack(values[0], values[1]);
    }
    place += 8;
    if (place == head_dim) {
      place = 0;
      ++head;
    }
  }
}

// Shared address of this lane's row of matrix `lane / 8` of the output's columns [16 * group, 16 * group + 16), for stmatrix and ldmatrix:
// upper and lower eight rows of the left eight columns, then of the right ones.
template <class Layout>
GRIDPOINT_DEVICE uint32_t matrix_address(const Consumer& me, uint32_t group) {
  const uint32_t row = warp_index() % 4 * 16 + lane_index() % 16;
  const uint32_t key = Layout::kBoxRowBytes == 128 ? row % 8 : row / 2 % 4;
  const uint32_t chunk = group * 16 % Layout::kBoxColumns / 8 + lane_index() / 16;
  return me.output + group * 16 / Layout::kBoxColumns * Layout::kBoxBytes + row * Layout::kBoxRowBytes + ((chunk ^ key) << 4);
}

// Columns 16 * group on of outputs with a residual, as the fragment of stmatrix; `fragment` holds the residual's.
template <class Layout>
GRIDPOINT_DEVICE void finish_group(uint32_t (&fragment)[4], const GemmParameters& parameters, uint32_t column, uint32_t group,
                                   const float (&sums)[Layout::kSums], const EpilogueRow (&about)[2]) {
  using Element = typename Layout::Epilogue::Element;
  GRIDPOINT_UNROLL
  for (uint32_t side = 0; side < 2; ++side) {
    const Run<2> bias = bias_of(parameters, column + group * 16 + side * 8 + lane_index() % 4 * 2);
    GRIDPOINT_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t place = (group * 2 + side) * 4 + half * 2;
      float values[2] = {sums[place], sums[place + 1]};
      scale_and_shift<Element, 2>(values, about[half].scale, bias);
      add_residual<Element, 2>(values, Run<2>{{fragment[side * 2 + half]}});
      fragment[side * 2 + half] = Element::pack(values[0], values[1]);
    }
  }
}

// As finish_group for swiglu: 16 columns come of 32 sums. A thread's columns of eight are t and t + 4 in its quad, and stmatrix wants 2 t
// and 2 t + 1: they come from two threads of the quad.
template <class Layout>
GRIDPOINT_DEVICE void finish_gated_group(uint32_t (&fragment)[4], const GemmParameters& parameters, uint32_t column, uint32_t group,
                                         const float (&sums)[Layout::kSums], const EpilogueRow (&about)[2]) {
  using Element = typename Layout::Epilogue::Element;
  const uint32_t quad = lane_index() / 4 * 4, place_in_quad = lane_index() % 4;
  const uint32_t first_lane = quad + place_in_quad * 2 % 4;
  GRIDPOINT_UNROLL
  for (uint32_t side = 0; side < 2; ++side) {
    float results[2][2];
    GRIDPOINT_UNROLL
    for (uint32_t part = 0; part < 2; ++part) {
      const uint32_t tile = group * 4 + side * 2 + part;
      const Run<2> bias = bias_of(parameters, column + tile * 8 + place_in_quad * 2);
      GRIDPOINT_UNROLL
      for (uint32_t half = 0; half < 2; ++half) {
        float values[2] = {sums[tile * 4 + half * 2], sums[tile * 4 + half * 2 + 1]};
        scale_and_shift<Element, 2>(values, about[half].scale, bias);
        results[half][part] = gated(values[0], values[1]);
      }
    }
    GRIDPOINT_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t own = Element::pack(results[half][0], results[half][1]);
      const uint32_t even = shuffle_index(own, first_lane);
      const uint32_t odd = shuffle_index(own, first_lane + 1);
      fragment[side * 2 + half] = place_in_quad < 2 ? (even & 0xffffu) | odd << 16 : even >> 16 | (odd & 0xffff0000u);
    }
  }
}

// Stores through shared memory by tensor copies.
template <class Layout>
GRIDPOINT_DEVICE void store_boxes(const TensorGemmParameters& parameters, uint32_t start, const Walk& walk, const Consumer& me, const Corner& corner,
                                  uint32_t tile_parity, const float (&sums)[Layout::kSums], const EpilogueRow (&about)[2]) {
  if constexpr (Layout::kKind == EpilogueKind::kResidual) {
    // The residual has come, so the stores of the tile before have read this memory.
    mbarrier_wait(start + Layout::kStartResidual + me.index * 8, tile_parity);
  } else {
    if (me.leader) bulk_wait_read<0>();
    named_barrier_sync(1 + me.index, kGroupThreads);
  }
  GRIDPOINT_UNROLL
  for (uint32_t group = 0; group < Layout::kOutputColumns / 16; ++group) {
    const uint32_t address = matrix_address<Layout>(me, group);
    uint32_t fragment[4];
    if constexpr (Layout::kKind == EpilogueKind::kSwiGlu) {
      finish_gated_group<Layout>(fragment, parameters.gemm, corner.column, group, sums, about);
    } else {
      load_matrix_x4(fragment, address);
      finish_group<Layout>(fragment, parameters.gemm, corner.column, group, sums, about);
    }
    store_matrix_x4(address, fragment);
  }
  fence_proxy_async();
  named_barrier_sync(1 + me.index, kGroupThreads);
  if (!me.leader) return;
  constexpr uint32_t kRatio = Layout::kColumns / Layout::kOutputColumns;
  const Ragged to = ragged(parameters, walk, corner.row + me.index * kConsumerRows);
  for (uint32_t box = 0; box < Layout::kBoxes; ++box) {
    const int32_t place[3] = {static_cast<int32_t>(corner.column / kRatio + box * Layout::kBoxColumns), to.row, to.live};
    tensor_store(&parameters.maps[GRIDPOINT_MAP_OUTPUT], place, me.output + box * Layout::kBoxBytes);
  }
  bulk_commit();
}

template <class Layout>
GRIDPOINT_DEVICE void consume(const TensorGemmParameters& parameters, uint32_t start, const Walk& walk) {
  Consumer me;
  me.index = thread_index() / kGroupThreads - 1;
  me.output = start + Layout::kStartOutput + me.index * (Layout::kBoxes * Layout::kBoxBytes);
  me.leader = thread_index() % kGroupThreads == 0;
  Turn turn = {0, 0};
  // Tiles that this warpgroup finished, by their parity.
  uint32_t tile_parity = 0;
  // Scales, the residual and the output are other kernels' until here.
  grid_dependency_wait();
  for (uint32_t pair = first_pair(walk); pair < walk.pairs; pair += pair_stride(walk)) {
    const Corner corner = corner_of<Layout>(walk, pair);
    const uint32_t group_row = corner.row + me.index * kConsumerRows;
    if (group_row >= walk.rows || corner.column >= parameters.gemm.n) {
      pass_tile<Layout>(start, walk, me, turn);
      continue;
    }
    const uint32_t row = group_row + warp_index() % 4 * 16 + lane_index() / 4;
    EpilogueRow about[2];
    read_rows<Layout>(about, parameters, walk, row);
    float sums[Layout::kSums];
    multiply_tile<Layout>(sums, parameters, start, walk, me, corner, turn);
    if constexpr (Layout::kTensorStores) {
      store_boxes<Layout>(parameters, start, walk, me, corner, tile_parity, sums, about);
      tile_parity ^= 1;
    } else if constexpr (Layout::kKind == EpilogueKind::kRotary) {
      store_heads<Layout>(parameters.gemm, walk, corner, row, sums, about);
    } else {
      store_logits<Layout>(parameters.gemm, walk, corner, row, sums, about);
    }
  }
  if (Layout::kTensorStores && me.leader) bulk_wait<0>();
}

#endif

template <uint32_t Columns, class Epilogue>
GRIDPOINT_DEVICE void multiply(const TensorGemmParameters& parameters) {
  // At once, as every kernel: the next one's blocks begin when all of this grid's are resident or gone, and wait by themselves. Each of
  // these takes a multiprocessor whole, so what is gained is the next launch, and its first weights where blocks run out of tiles.
  grid_launch_dependents();
#ifdef GRIDPOINT_WARPGROUPS
  using Kernel = Layout<Columns, Epilogue>;
  const uint32_t start = (shared_address(&shared<SharedBytes>()) + kAlignment - 1) / kAlignment * kAlignment;
  const Walk walk = walk_of<Kernel>(parameters);
  if (thread_index() == 0) {
    tensor_map_prefetch(&parameters.maps[GRIDPOINT_MAP_WEIGHTS]);
    tensor_map_prefetch(&parameters.maps[GRIDPOINT_MAP_ACTIVATIONS]);
    if (Kernel::kTensorStores) tensor_map_prefetch(&parameters.maps[GRIDPOINT_MAP_OUTPUT]);
    if (Kernel::kKind == EpilogueKind::kResidual) tensor_map_prefetch(&parameters.maps[GRIDPOINT_MAP_RESIDUAL]);
    for (uint32_t stage = 0; stage < Kernel::kStages; ++stage) {
      mbarrier_init(start + Kernel::kStartFull + stage * 8, 1);
      mbarrier_init(start + Kernel::kStartEmpty + stage * 8, kConsumers * walk.blocks);
    }
    for (uint32_t consumer = 0; consumer < kConsumers; ++consumer) mbarrier_init(start + Kernel::kStartResidual + consumer * 8, 1);
    fence_mbarrier_init();
  }
  // Neither block copies into the other or arrives there before its mbarriers are ready.
  cluster_barrier();
  if (thread_index() < kGroupThreads) {
    registers_decrease<kProducerRegisters>();
    if (thread_index() == 0) {
      produce<Kernel>(parameters, start, walk);
    } else {
      grid_dependency_wait();
    }
    warp_barrier();
  } else {
    registers_increase<kConsumerRegisters>();
    consume<Kernel>(parameters, start, walk);
  }
  // The other block may still copy into this one and arrive at its mbarriers.
  cluster_barrier();
#else
  (void)parameters;
  grid_dependency_wait();
#endif
}

}  // namespace
}  // namespace gridpoint

#define GEMM_HOPPER_INSTANCE(X, name, columns, Element, Kind) \
  X(name, TensorGemmParameters, GRIDPOINT_GEMM_HOPPER_THREADS, 1, gridpoint::multiply<columns, gridpoint::Epilogue<gridpoint::Element, gridpoint::EpilogueKind::Kind>>)
#define GEMM_HOPPER_EPILOGUES(X, columns, Element, suffix)                                            \
  GEMM_HOPPER_INSTANCE(X, gemm_hopper_128x##columns##_logits##suffix, columns, Element, kLogits)      \
  GEMM_HOPPER_INSTANCE(X, gemm_hopper_128x##columns##_residual##suffix, columns, Element, kResidual)  \
  GEMM_HOPPER_INSTANCE(X, gemm_hopper_128x##columns##_swiglu##suffix, columns, Element, kSwiGlu)      \
  GEMM_HOPPER_INSTANCE(X, gemm_hopper_128x##columns##_rotary##suffix, columns, Element, kRotary)
#define GEMM_HOPPER_ELEMENTS(X, columns)           \
  GEMM_HOPPER_EPILOGUES(X, columns, Bf16, )        \
  GEMM_HOPPER_EPILOGUES(X, columns, F16, _f16)

#define GEMM_HOPPER_KERNELS(X) \
  GEMM_HOPPER_ELEMENTS(X, 64)  \
  GEMM_HOPPER_ELEMENTS(X, 128) \
  GEMM_HOPPER_ELEMENTS(X, 192) \
  GEMM_HOPPER_ELEMENTS(X, 256)

GRIDPOINT_MODULE(gemm_hopper, GEMM_HOPPER_KERNELS)
