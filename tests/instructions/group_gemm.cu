// A product in the shape of fast Hopper kernels, for tests/cases/warpgroups.rs: c[m, n] = a[m, k] x b[n, k]^T in bfloat16.
//
// Clusters of two blocks share a tile of b: each loads half of it for both. In a block one warpgroup issues tensor loads into a ring of
// stages, two multiply 64 rows each by wgmma and store their part of c by stmatrix and a tensor store, which runs beside the next tile.
// The structure is fast.cu's (pranjalssh), kernel 12; blocks walk tiles in plain order. Not part of the program.
#include "parameters.h"

namespace gridpoint {

#ifdef GRIDPOINT_WARPGROUPS

constexpr uint32_t kTileRows = 128;
constexpr uint32_t kTileColumns = 128;
constexpr uint32_t kTileDepth = 64;
constexpr uint32_t kStages = 3;
constexpr uint32_t kClusterBlocks = 2;
constexpr uint32_t kConsumers = 2;
constexpr uint32_t kGroupThreads = 128;
constexpr uint32_t kStageBytesA = kTileRows * kTileDepth * 2;
constexpr uint32_t kStageBytesB = kTileColumns * kTileDepth * 2;
constexpr uint32_t kOutputBytes = kTileRows * kTileColumns * 2;
// Shared memory from the first multiple of 1024 on: stages of a, stages of b, the output, full and empty mbarriers.
constexpr uint32_t kStartB = kStages * kStageBytesA;
constexpr uint32_t kStartOutput = kStartB + kStages * kStageBytesB;
constexpr uint32_t kStartFull = kStartOutput + kOutputBytes;
constexpr uint32_t kStartEmpty = kStartFull + kStages * 8;

struct alignas(16) SharedBytes {
  unsigned char bytes[16];
};

// A place in the ring of stages and the parity of its turn.
struct Turn {
  uint32_t stage = 0;
  uint32_t parity = 0;
};

GRIDPOINT_DEVICE void advance(Turn& turn) {
  if (++turn.stage == kStages) {
    turn.stage = 0;
    turn.parity ^= 1;
  }
}

// What all blocks of a cluster agree on: tiles in order, columns slowest, and how many steps through k.
struct Walk {
  uint32_t row_tiles;
  uint32_t tiles;
  uint32_t steps;
};

GRIDPOINT_DEVICE Walk walk(const InstructionParameters& parameters) {
  const uint32_t m = parameters.numbers[0], n = parameters.numbers[1], k = parameters.numbers[2];
  const uint32_t row_tiles = (m + kTileRows * kClusterBlocks - 1) / (kTileRows * kClusterBlocks);
  return {row_tiles, row_tiles * ((n + kTileColumns - 1) / kTileColumns), (k + kTileDepth - 1) / kTileDepth};
}

GRIDPOINT_DEVICE void produce(const InstructionParameters& parameters, uint32_t start, const Walk& plan) {
  const uint32_t rank = cluster_rank();
  Turn turn;
  for (uint32_t tile = block_index() / kClusterBlocks; tile < plan.tiles; tile += grid_blocks() / kClusterBlocks) {
    const int32_t row = static_cast<int32_t>((tile % plan.row_tiles * kClusterBlocks + rank) * kTileRows);
    const int32_t column = static_cast<int32_t>(tile / plan.row_tiles * kTileColumns + rank * (kTileColumns / kClusterBlocks));
    for (uint32_t step = 0; step < plan.steps; ++step) {
      const uint32_t full = start + kStartFull + turn.stage * 8;
      mbarrier_wait_cluster(start + kStartEmpty + turn.stage * 8, turn.parity ^ 1);
      mbarrier_arrive_expect(full, kStageBytesA + kStageBytesB);
      const int32_t depth = static_cast<int32_t>(step * kTileDepth);
      const int32_t from_a[2] = {depth, row}, from_b[2] = {depth, column};
      tensor_load(start + turn.stage * kStageBytesA, &parameters.maps[0], from_a, full);
      tensor_load_multicast(start + kStartB + turn.stage * kStageBytesB + rank * (kStageBytesB / kClusterBlocks), &parameters.maps[1], from_b,
                            full, static_cast<uint16_t>((1u << kClusterBlocks) - 1));
      advance(turn);
    }
  }
}

// Tells the producers of both blocks that a stage has been read.
GRIDPOINT_DEVICE void release(uint32_t start, uint32_t stage) {
  if (thread_index() % kGroupThreads < kClusterBlocks) {
    mbarrier_arrive_cluster(map_shared(start + kStartEmpty + stage * 8, thread_index() % kGroupThreads));
  }
}

GRIDPOINT_DEVICE void consume(const InstructionParameters& parameters, uint32_t start, const Walk& plan) {
  constexpr uint32_t kRows = kTileRows / kConsumers, kHalves = kTileColumns / 64, kHalfBytes = kRows * 128;
  const uint32_t consumer = thread_index() / kGroupThreads - 1, lane = lane_index(), warp = warp_index() % 4, rank = cluster_rank();
  const uint32_t output = start + kStartOutput + consumer * kHalves * kHalfBytes;
  const bool leader = thread_index() % kGroupThreads == 0;
  Turn turn;
  for (uint32_t tile = block_index() / kClusterBlocks; tile < plan.tiles; tile += grid_blocks() / kClusterBlocks) {
    float sums[kTileColumns / 2];
    for (uint32_t i = 0; i < kTileColumns / 2; ++i) sums[i] = 0.0f;
    for (uint32_t step = 0; step < plan.steps; ++step) {
      mbarrier_wait_cluster(start + kStartFull + turn.stage * 8, turn.parity);
      wgmma_fence();
      GRIDPOINT_UNROLL
      for (uint32_t k = 0; k < kTileDepth / 16; ++k) {
        const uint32_t a = start + turn.stage * kStageBytesA + consumer * kRows * 128 + k * 32;
        const uint32_t b = start + kStartB + turn.stage * kStageBytesB + k * 32;
        wgmma<kTileColumns, kBf16>(sums, matrix_descriptor(a, 16, 1024, kSwizzle128), matrix_descriptor(b, 16, 1024, kSwizzle128), true);
      }
      wgmma_commit();
      // The step before has been multiplied when at most this one is under way.
      wgmma_wait<1>();
      if (step > 0) release(start, (turn.stage + kStages - 1) % kStages);
      advance(turn);
    }
    wgmma_wait<0>();
    wgmma_hold(sums);
    if (plan.steps > 0) release(start, (turn.stage + kStages - 1) % kStages);

    // The store of the tile before has to have read the output.
    if (leader) bulk_wait_read<0>();
    named_barrier_sync(1 + consumer, kGroupThreads);
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kTileColumns / 16; ++i) {
      const uint32_t fragment[4] = {pack_bf16(sums[i * 8], sums[i * 8 + 1]), pack_bf16(sums[i * 8 + 2], sums[i * 8 + 3]),
                                    pack_bf16(sums[i * 8 + 4], sums[i * 8 + 5]), pack_bf16(sums[i * 8 + 6], sums[i * 8 + 7])};
      // Matrices: upper and lower eight rows of the left eight columns, then of the right eight.
      const uint32_t row = warp * 16 + lane % 16, chunk = i % 4 * 2 + lane / 16;
      store_matrix_x4(output + i / 4 * kHalfBytes + row * 128 + ((chunk ^ (row & 7)) << 4), fragment);
    }
    fence_proxy_async();
    named_barrier_sync(1 + consumer, kGroupThreads);
    if (leader) {
      const int32_t row = static_cast<int32_t>((tile % plan.row_tiles * kClusterBlocks + rank) * kTileRows + consumer * kRows);
      for (uint32_t half = 0; half < kHalves; ++half) {
        const int32_t to[2] = {static_cast<int32_t>(tile / plan.row_tiles * kTileColumns + half * 64), row};
        tensor_store(&parameters.maps[2], to, output + half * kHalfBytes);
      }
      bulk_commit();
    }
  }
  if (leader) bulk_wait<0>();
}

#endif

GRIDPOINT_DEVICE void group_gemm(const InstructionParameters& parameters) {
#ifdef GRIDPOINT_WARPGROUPS
  const uint32_t start = (shared_address(&shared<SharedBytes>()) + 1023) / 1024 * 1024;
  const Walk plan = walk(parameters);
  if (thread_index() == 0) {
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      mbarrier_init(start + kStartFull + stage * 8, 1);
      mbarrier_init(start + kStartEmpty + stage * 8, kConsumers * kClusterBlocks);
    }
    fence_mbarrier_init();
  }
  cluster_barrier();
  if (thread_index() < kGroupThreads) {
    registers_decrease<40>();
    if (thread_index() == 0) produce(parameters, start, plan);
    warp_barrier();
  } else {
    registers_increase<232>();
    consume(parameters, start, plan);
  }
  // The other block may still write here and arrive at our mbarriers.
  cluster_barrier();
#else
  (void)parameters;
#endif
}

}  // namespace gridpoint

#define GROUP_GEMM_KERNELS(X) X(group_gemm, InstructionParameters, 384, 1, gridpoint::group_gemm)

GRIDPOINT_MODULE(group_gemm, GROUP_GEMM_KERNELS)
