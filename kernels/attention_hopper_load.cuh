// The loading warpgroup of attention_hopper.cu: one warp makes batches of items, one streams pages, two gather queries.
#pragma once
#include "attention_hopper_memory.cuh"

#ifdef GRIDPOINT_WARPGROUPS

namespace gridpoint {
namespace hopper {

// ---- batches ------------------------------------------------------------------------------------------------------------------

// The index-th item and head of the list, heads fastest.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE Item item_at(const AttentionParameters& parameters, uint32_t index) {
  const AttentionWork* work = reinterpret_cast<const AttentionWork*>(parameters.list + 1) + index / parameters.kv_heads;
  const Vector16 place = load16(work);
  const Vector16 parts = load16(&work->first_partial);
  Item item;
  item.work = {place.word[0], place.word[1], place.word[2], place.word[3], parts.word[0], parts.word[1], parts.word[2], parts.word[3]};
  item.tile = tile_of<Sizes<HeadDim>::kTileRows>(parameters, item.work, index % parameters.kv_heads);
  // A tile without keys walks no page; nobody asks for its rows.
  item.tile.end_page = maximum(item.tile.end_page, item.tile.first_page);
  return item;
}

// The index that the block takes in its `round`-th turn: up and down through the blocks, so that costs that fall along the list even out.
GRIDPOINT_DEVICE uint32_t walk(uint32_t round) {
  const uint32_t place = round % 2 == 0 ? block_index() : grid_blocks() - 1 - block_index();
  return round * grid_blocks() + place;
}

// Hands the next batch on: lanes below `items` bring an index.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void hand_on(const AttentionParameters& parameters, const Memory<HeadDim>& memory, uint32_t& turn, uint32_t count, uint32_t items,
                              uint32_t index) {
  const uint32_t buffer = turn % kBatches;
  Item item = {};
  if (lane_index() < items) item = item_at<HeadDim>(parameters, index);
  mbarrier_wait(memory.batch_empty(buffer), batch_parity(turn) ^ 1);
  if (lane_index() < items) shared<Control<HeadDim>>().items[buffer][lane_index()] = item;
  if (lane_index() == 0) shared<Control<HeadDim>>().count[buffer] = count;
  warp_barrier();
  if (lane_index() == 0) mbarrier_arrive(memory.batch_full(buffer));
  ++turn;
}

// Tiles bound the tensor cores and decode-like items the memory: odd blocks begin with the latter, so that both are busy.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void make_batches(const AttentionParameters& parameters, const Memory<HeadDim>& memory) {
  const uint32_t tiles = parameters.list->reserved[1] * parameters.kv_heads;
  const uint32_t splits = parameters.list->count * parameters.kv_heads - tiles;
  uint32_t turn = 0;
  for (uint32_t phase = 0; phase < 2; ++phase) {
    if (phase == block_index() % 2) {
      for (uint32_t round = 0; walk(round) < tiles; ++round) hand_on<HeadDim>(parameters, memory, turn, kOneTile, 1, walk(round));
      continue;
    }
    for (uint32_t round = 0; walk(round) < splits; round += kConsumerWarps) {
      const uint32_t index = walk(round + lane_index());
      const uint32_t items = population_count(ballot(lane_index() < kConsumerWarps && index < splits));
      hand_on<HeadDim>(parameters, memory, turn, items, items, tiles + index);
    }
  }
  hand_on<HeadDim>(parameters, memory, turn, kNothing, 0, 0);
}

// ---- pages --------------------------------------------------------------------------------------------------------------------

// Pages of a tile that its limit does not cut, counted from its first.
GRIDPOINT_DEVICE uint32_t whole_pages(const Tile& tile) { return minimum(tile.end_page, tile.limit / kPage) - tile.first_page; }

// Copies of a warp that are under way by cp.async, and the mbarrier that is told once they are there; 0 for none.
struct Gathered {
  uint32_t told;
};

// Waits for what was gathered and tells of it.
GRIDPOINT_DEVICE void tell(Gathered& gathered) {
  if (gathered.told == 0) return;
  copy_async_commit();
  copy_async_wait<0>();
  // wgmma reads it through the asynchronous proxy.
  fence_proxy_async();
  warp_barrier();
  if (lane_index() == 0) mbarrier_arrive(gathered.told);
  gathered.told = 0;
}

// The streaming warp's place in the ring and in the queues of those who read.
struct Streamed {
  uint32_t position;
  uint32_t tile_fills;
  // Of lane w: pages for consumer warp w.
  uint32_t pages;
  Gathered gathered;
};

// Waits until what was `position - kStages`-th in the ring has been read.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void wait_empty(const Memory<HeadDim>& memory, Gathered& gathered, uint32_t position) {
  const uint32_t empty = memory.empty(position);
  const uint32_t parity = memory.empty_parity(position);
  // Whoever empties the stage may wait for what was gathered before.
  if (gathered.told != 0 && !all_lanes(mbarrier_test_wait(empty, parity))) tell(gathered);
  mbarrier_wait(empty, parity);
  // A lane whose copy fills the stage lets its next phase end: one that had not waited yet would miss this one.
  warp_barrier();
}

// Starts the tensor copy of a page of keys (0) or values (1) into the stage at `position`.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void start_whole(const AttentionTensorParameters& parameters, const Memory<HeadDim>& memory, uint32_t position, uint32_t which,
                                  int32_t page_id, uint32_t kv_head, uint32_t full) {
  const int32_t row = (page_id * static_cast<int32_t>(parameters.attention.kv_heads) + static_cast<int32_t>(kv_head)) * static_cast<int32_t>(kPage);
  const int32_t from[3] = {0, row, 0};
  tensor_load(memory.stage(position), &parameters.maps[which], from, full);
}

// Starts the copy of the page that a limit cuts: tokens behind it become zeros, so that what lies there is never read and cannot reach the
// output.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void start_cut(const AttentionParameters& parameters, const Memory<HeadDim>& memory, uint32_t position, uint32_t which, const Tile& tile) {
  constexpr uint32_t kRowVectors = Sizes<HeadDim>::kRowVectors;
  const uint32_t page = tile.end_page - 1;
  const uint64_t page_id = static_cast<uint64_t>(page_table(parameters, tile)[page]);
  const uint16_t* cache = which == 0 ? parameters.key_cache : parameters.value_cache;
  const uint16_t* source = cache + (page_id * parameters.kv_heads + tile.kv_head) * (kPage * HeadDim);
  const uint32_t tokens = tile.limit - page * kPage;
  const uint32_t target = memory.stage(position);
  for (uint32_t i = lane_index(); i < kPage * kRowVectors; i += kWarpThreads) {
    const Chunk at = chunk_at<HeadDim, kPage>(i);
    const bool live = at.row < tokens;
    copy_async16(target + place<HeadDim, kPage>(at.row, at.chunk), live ? source + at.row * HeadDim + at.chunk * kVector : source, live ? 16 : 0);
  }
}

template <uint32_t HeadDim>
GRIDPOINT_DEVICE void stream_tile(const AttentionTensorParameters& parameters, const Memory<HeadDim>& memory, uint32_t buffer, Streamed& streamed) {
  const Tile& tile = shared<Control<HeadDim>>().items[buffer][0].tile;
  const int32_t* pages = page_table(parameters.attention, tile);
  const uint32_t kv_head = tile.kv_head;
  const uint32_t end = tile.end_page;
  const uint32_t whole = whole_pages(tile);
  uint32_t ids = 0;
  for (uint32_t page = 0; page < end; ++page) {
    if (page % kWarpThreads == 0) ids = page + lane_index() < whole ? static_cast<uint32_t>(pages[page + lane_index()]) : 0;
    const int32_t id = static_cast<int32_t>(shuffle_index(ids, page % kWarpThreads));
    GRIDPOINT_UNROLL
    for (uint32_t which = 0; which < 2; ++which) {
      const uint32_t full = memory.tile_full(streamed.tile_fills);
      wait_empty(memory, streamed.gathered, streamed.position);
      if (page < whole) {
        if (lane_index() == 0) {
          mbarrier_arrive_expect(full, Sizes<HeadDim>::kStageBytes);
          start_whole<HeadDim>(parameters, memory, streamed.position, which, id, kv_head, full);
        }
      } else {
        tell(streamed.gathered);
        start_cut<HeadDim>(parameters.attention, memory, streamed.position, which, tile);
        streamed.gathered.told = full;
      }
      ++streamed.position;
      ++streamed.tile_fills;
    }
  }
}

template <uint32_t HeadDim>
GRIDPOINT_DEVICE void stream_items(const AttentionTensorParameters& parameters, const Memory<HeadDim>& memory, uint32_t buffer, uint32_t count,
                                   Streamed& streamed) {
  const Control<HeadDim>& control = shared<Control<HeadDim>>();
  const uint32_t pages = item_pages(control, buffer, count);
  const uint32_t whole = lane_index() < count ? whole_pages(control.items[buffer][lane_index()].tile) : 0;
  // Four lanes hold the numbers of an item's pages, two each.
  static_assert(kConsumerWarps * 4 == kWarpThreads && kChunkPages == 8, "a warp holds the page numbers of a batch");
  const uint32_t owner = lane_index() / 4;
  const uint32_t owner_whole = shuffle_index(whole, owner);
  uint32_t ids[2] = {0, 0};
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t page = lane_index() % 4 * 2 + i;
    if (page >= owner_whole) continue;
    const Tile& tile = control.items[buffer][owner].tile;
    ids[i] = static_cast<uint32_t>(page_table(parameters.attention, tile)[tile.first_page + page]);
  }
  for (uint32_t step = 0; step < kChunkPages; ++step) {
    const uint32_t mask = ballot(pages > step);
    const uint32_t whole_mask = ballot(whole > step);
    for (uint32_t i = 0; i < count; ++i) {
      const int32_t id = static_cast<int32_t>(shuffle_index(step % 2 == 0 ? ids[0] : ids[1], i * 4 + step / 2));
      const uint32_t full = memory.page_full(i, shuffle_index(streamed.pages, i));
      if ((mask >> i & 1u) == 0) continue;
      const Tile& tile = control.items[buffer][i].tile;
      wait_empty(memory, streamed.gathered, streamed.position);
      wait_empty(memory, streamed.gathered, streamed.position + 1);
      if ((whole_mask >> i & 1u) != 0) {
        if (lane_index() == 0) {
          mbarrier_arrive_expect(full, 2 * Sizes<HeadDim>::kStageBytes);
          GRIDPOINT_UNROLL
          for (uint32_t which = 0; which < 2; ++which) {
            start_whole<HeadDim>(parameters, memory, streamed.position + which, which, id, tile.kv_head, full);
          }
        }
      } else {
        tell(streamed.gathered);
        GRIDPOINT_UNROLL
        for (uint32_t which = 0; which < 2; ++which) start_cut<HeadDim>(parameters.attention, memory, streamed.position + which, which, tile);
        streamed.gathered.told = full;
      }
      streamed.position += 2;
      if (lane_index() == i) ++streamed.pages;
    }
  }
}

template <uint32_t HeadDim>
GRIDPOINT_DEVICE void stream(const AttentionTensorParameters& parameters, const Memory<HeadDim>& memory) {
  Streamed streamed = {0, 0, 0, {0}};
  for (uint32_t turn = 0;; ++turn) {
    const uint32_t buffer = turn % kBatches;
    // The batch may come only after what was gathered has been used.
    if (streamed.gathered.told != 0 && !all_lanes(mbarrier_test_wait(memory.batch_full(buffer), batch_parity(turn)))) tell(streamed.gathered);
    mbarrier_wait(memory.batch_full(buffer), batch_parity(turn));
    const uint32_t count = shared<Control<HeadDim>>().count[buffer];
    if (count == kNothing) {
      tell(streamed.gathered);
      return;
    }
    if (count == kOneTile) {
      stream_tile<HeadDim>(parameters, memory, buffer, streamed);
    } else {
      stream_items<HeadDim>(parameters, memory, buffer, count, streamed);
    }
    warp_barrier();
    if (lane_index() == 0) mbarrier_arrive(memory.batch_empty(buffer));
  }
}

// ---- queries ------------------------------------------------------------------------------------------------------------------

// Starts the copy of half of the `Rows` rows from `first` on of an item's queries; rows behind the live ones become zeros.
template <uint32_t HeadDim, uint32_t Rows>
GRIDPOINT_DEVICE void gather_rows(const AttentionParameters& parameters, const Tile& tile, uint32_t target, uint32_t first, uint32_t half) {
  for (uint32_t i = lane_index(); i < Rows / 2 * Sizes<HeadDim>::kRowVectors; i += kWarpThreads) {
    const Chunk at = chunk_at<HeadDim, Rows / 2>(i);
    const uint32_t row = half * (Rows / 2) + at.row;
    const bool live = first + row < tile.live_rows;
    const uint16_t* source = parameters.queries + (live ? row_offset<HeadDim>(tile, first + row, parameters.query_pitch) + at.chunk * kVector : 0);
    copy_async16(target + place<HeadDim, Rows>(row, at.chunk), source, live ? 16 : 0);
  }
}

// `half`: which half of the queries' rows this warp gathers.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void gather(const AttentionParameters& parameters, const Memory<HeadDim>& memory, uint32_t half) {
  const Control<HeadDim>& control = shared<Control<HeadDim>>();
  for (uint32_t turn = 0;; ++turn) {
    const uint32_t buffer = turn % kBatches;
    mbarrier_wait(memory.batch_full(buffer), batch_parity(turn));
    const uint32_t count = control.count[buffer];
    if (count == kNothing) return;
    if (count == kOneTile) {
      const Tile& tile = control.items[buffer][0].tile;
      for (uint32_t first = 0; first < tile.live_rows; first += kGroupRows) {
        gather_rows<HeadDim, kGroupRows>(parameters, tile, memory.query(buffer) + first * (HeadDim * 2), first, half);
      }
    } else {
      for (uint32_t i = 0; i < count; ++i) {
        gather_rows<HeadDim, kWarpRows>(parameters, control.items[buffer][i].tile, memory.query(buffer) + i * Sizes<HeadDim>::kItemQueryBytes, 0, half);
      }
    }
    Gathered gathered = {memory.query_full(buffer)};
    tell(gathered);
    // The item has been read; the queries' place is given back by those who use them.
    if (lane_index() == 0) mbarrier_arrive(memory.batch_empty(buffer));
  }
}

}  // namespace hopper
}  // namespace gridpoint

#endif
