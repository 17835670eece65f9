// Shared memory of attention_hopper.cu: where queries, keys and values lie, the ring that they pass through, and the items under way.
//
// A matrix of R rows of d elements lies as tensor maps and wgmma want it: column blocks one after another, each R rows of one swizzle span
// (128 bytes, 64 where d is no multiple of 64), the 16-byte chunks of a row exchanged by the row's number within the pattern.
#pragma once
#include <stddef.h>

#include "attention.cuh"

namespace gridpoint {
namespace hopper {

constexpr uint32_t kGroupThreads = 128;
constexpr uint32_t kThreads = GRIDPOINT_ATTENTION_HOPPER_THREADS;
constexpr uint32_t kConsumerWarps = 8;
constexpr uint32_t kConsumerThreads = kConsumerWarps * kWarpThreads;
// Rows of one wgmma.
constexpr uint32_t kGroupRows = 64;
// Batches of items under way, each with its queries.
constexpr uint32_t kBatches = 2;
// What a batch's count says beside the number of decode-like items.
constexpr uint32_t kNothing = 0;
constexpr uint32_t kOneTile = 0xffffffffu;

static_assert(kThreads == kGroupThreads + kConsumerThreads, "a warpgroup loads, two compute");

// Sizes of one head dimension.
template <uint32_t HeadDim>
struct Sizes {
  static_assert(HeadDim == 64 || HeadDim == 96 || HeadDim == 128, "other heads have other shares of registers and shared memory");
  static constexpr uint32_t kSpan = HeadDim % 64 == 0 ? 128 : 64;
  static constexpr uint32_t kSwizzle = HeadDim % 64 == 0 ? kSwizzle128 : kSwizzle64;
  static constexpr uint32_t kRowVectors = HeadDim / kVector;
  static constexpr uint32_t kColumns = HeadDim / 8;
  static constexpr uint32_t kTileRows = GRIDPOINT_ATTENTION_HOPPER_TILE_ROWS;
  static constexpr uint32_t kQueryBytes = kTileRows * HeadDim * 2;
  // What the chunks before have come to, in float32.
  static constexpr uint32_t kTotalBytes = kTileRows * HeadDim * 4;
  static constexpr uint32_t kStageBytes = kPage * HeadDim * 2;
  static constexpr uint32_t kStages = HeadDim == 64 ? 18 : HeadDim == 96 ? 10 : 6;
  // Pages of decode-like items that are under way, as keys and values together.
  static constexpr uint32_t kPairs = kStages / 2;
  // Bytes of an item's 16 rows of queries: those of all consumer warps fill a tile's.
  static constexpr uint32_t kItemQueryBytes = kWarpRows * HeadDim * 2;
  static_assert(kTileRows == 2 * kGroupRows && kTileRows == kConsumerWarps * kWarpRows, "two warpgroups share a tile, and each warp has its items");
  static_assert(kStages % 2 == 0, "keys and values take stages in turn");
};

// Byte offset of 16-byte chunk `chunk` of row `row` in a matrix of `Rows` rows.
template <uint32_t HeadDim, uint32_t Rows>
GRIDPOINT_DEVICE uint32_t place(uint32_t row, uint32_t chunk) {
  constexpr uint32_t kSpan = Sizes<HeadDim>::kSpan;
  constexpr uint32_t kChunks = kSpan / 16;
  const uint32_t pattern = kSpan == 128 ? row & 7u : row >> 1 & 3u;
  return chunk / kChunks * (Rows * kSpan) + row * kSpan + ((chunk % kChunks ^ pattern) << 4);
}

// A 16-byte chunk of a matrix, by row and by chunk of the row.
struct Chunk {
  uint32_t row;
  uint32_t chunk;
};

// The i-th chunk of a matrix of `Rows` rows, column block by column block: eight threads in a row have the 128 bytes behind one another that
// shared memory serves at once, rows of a block in turn.
template <uint32_t HeadDim, uint32_t Rows>
GRIDPOINT_DEVICE Chunk chunk_at(uint32_t i) {
  constexpr uint32_t kChunks = Sizes<HeadDim>::kSpan / 16;
  return {i / kChunks % Rows, i / (kChunks * Rows) * kChunks + i % kChunks};
}

// One item and key-value head, as the scheduling warp hands it to the others.
struct Item {
  Tile tile;
  AttentionWork work;
};

// What lies in front of the tiles. Everything below the ring's stages is handed on by mbarriers. A stage is emptied for the streaming warp alone,
// which waits for all stages in turn. It is filled for whoever reads it: for both warpgroups, or for one warp. Since whoever waits by parity
// must see every phase, these have mbarriers of their own, as many as can be under way: the n-th fill for a reader tells the
// n % kStages-th (of a warp's pages, the n % kPairs-th).
template <uint32_t HeadDim>
struct alignas(16) Control {
  uint64_t empty[Sizes<HeadDim>::kStages];
  uint64_t tile_full[Sizes<HeadDim>::kStages];
  uint64_t page_full[kConsumerWarps][Sizes<HeadDim>::kPairs];
  uint64_t batch_full[kBatches];
  uint64_t batch_empty[kBatches];
  uint64_t query_full[kBatches];
  Item items[kBatches][kConsumerWarps];
  // kNothing: the end; kOneTile; or how many decode-like items.
  uint32_t count[kBatches];
  // By item: its warp was the last to arrive and the block merges its parts.
  uint32_t last[kBatches][kConsumerWarps];
};

constexpr uint32_t kTileAlignment = 1024;

template <uint32_t HeadDim>
constexpr uint32_t shared_bytes() {
  using Size = Sizes<HeadDim>;
  return sizeof(Control<HeadDim>) + kTileAlignment + kBatches * Size::kQueryBytes + Size::kTotalBytes + Size::kStages * Size::kStageBytes;
}

// Shared memory as addresses: of what lies in front, and of the queries, behind which stages and totals lie.
template <uint32_t HeadDim>
struct Memory {
  using Front = Control<HeadDim>;
  using Size = Sizes<HeadDim>;
  uint32_t control;
  uint32_t queries;

  GRIDPOINT_DEVICE_MEMBER uint32_t batch_full(uint32_t buffer) const { return control + offsetof(Front, batch_full) + buffer * 8; }
  GRIDPOINT_DEVICE_MEMBER uint32_t batch_empty(uint32_t buffer) const { return control + offsetof(Front, batch_empty) + buffer * 8; }
  GRIDPOINT_DEVICE_MEMBER uint32_t query_full(uint32_t buffer) const { return control + offsetof(Front, query_full) + buffer * 8; }
  GRIDPOINT_DEVICE_MEMBER uint32_t query(uint32_t buffer) const { return queries + buffer * Size::kQueryBytes; }
  // The stage that holds what is `position`-th in the ring, and the mbarrier and parity that say it is empty.
  GRIDPOINT_DEVICE_MEMBER uint32_t stage(uint32_t position) const {
    return queries + kBatches * Size::kQueryBytes + position % Size::kStages * Size::kStageBytes;
  }
  GRIDPOINT_DEVICE_MEMBER uint32_t empty(uint32_t position) const {
    return control + offsetof(Front, empty) + position % Size::kStages * 8;
  }
  GRIDPOINT_DEVICE_MEMBER uint32_t empty_parity(uint32_t position) const { return (position / Size::kStages & 1u) ^ 1u; }
  // Those of the n-th fill for tiles, and of the n-th page for a warp.
  GRIDPOINT_DEVICE_MEMBER uint32_t tile_full(uint32_t n) const { return control + offsetof(Front, tile_full) + n % Size::kStages * 8; }
  GRIDPOINT_DEVICE_MEMBER uint32_t tile_parity(uint32_t n) const { return n / Size::kStages & 1u; }
  GRIDPOINT_DEVICE_MEMBER uint32_t page_full(uint32_t warp, uint32_t n) const {
    return control + offsetof(Front, page_full) + (warp * Size::kPairs + n % Size::kPairs) * 8;
  }
  GRIDPOINT_DEVICE_MEMBER uint32_t page_parity(uint32_t n) const { return n / Size::kPairs & 1u; }
  // 16 bytes of a consumer thread for each column tile.
  GRIDPOINT_DEVICE_MEMBER uint32_t totals() const {
    return queries + kBatches * Size::kQueryBytes + Size::kStages * Size::kStageBytes + (thread_index() - kGroupThreads) * 16;
  }
};

template <uint32_t HeadDim>
GRIDPOINT_DEVICE Memory<HeadDim> memory_of_block() {
  const uint32_t control = shared_address(&shared<Control<HeadDim>>());
  return {control, (control + static_cast<uint32_t>(sizeof(Control<HeadDim>)) + kTileAlignment - 1) / kTileAlignment * kTileAlignment};
}

// The parity of a batch's turn at its place.
GRIDPOINT_DEVICE uint32_t batch_parity(uint32_t turn) { return turn / kBatches & 1u; }

// Pages of the batch's decode-like items, by lane.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE uint32_t item_pages(const Control<HeadDim>& control, uint32_t buffer, uint32_t count) {
  if (lane_index() >= count) return 0;
  const Tile& tile = control.items[buffer][lane_index()].tile;
  return tile.end_page - tile.first_page;
}

// How many items below `item` a mask of items holds: their keys and values stand in the ring before those of `item`.
GRIDPOINT_DEVICE uint32_t rank_in(uint32_t mask, uint32_t item) { return population_count(mask & ((1u << item) - 1u)); }

}  // namespace hopper
}  // namespace gridpoint
