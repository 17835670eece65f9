// The attention work list: lengths of a step's requests -> tiles of query rows against ranges of key-value chunks, longest first.
//
// What: one block of 256 threads reads query_starts and kv_lengths of the p + d real requests, once per step for all layers, writes
// the list that the persistent attention grid walks, and zeroes the arrival counters in use. Scheduling on the device once per step
// is FlashAttention-3's prepare step; chunks at fixed absolute positions are what keeps a row's bits independent of the batch.
//
// Work of a request with q query tokens and l > 0 tokens in the cache (query rows = q * group, row = token * group + head):
//   q * group <= 16 (decode-like): one item per 512-token chunk of [0, l). More than one chunk: the parts meet through partials
//     [first_partial, first_partial + parts) and one arrival counter; a single chunk writes its output directly.
//   otherwise: one item per tile of `tile_rows` query rows, over all chunks up to the causal limit of the tile's last row.
// q = 0 or l = 0: no work.
//
// Order: tiles, then decode-like items; among them by cost, the number of 64-token pages that the item walks, descending; equal costs by
// request, then by tile or chunk. reserved[1] of the list's head is the number of tiles.
// Costs are exact below 64 pages and fall into classes of 1/32 of their size above. It is a counting sort without ordered atomics:
// each of 8 warps takes an eighth of the items of a window of 1024 requests, counts them per class, and places them from the scanned
// counts, 32 at a time, the rank among equals by ballots. The same input gives the same list. (Across windows, equal costs lie by
// warp, then by request.)
//
// Capacities that the host must provide, with R requests, T tokens, S the longest sequence, N the pages of the pool:
//   counter_capacity >= R
//   partial_capacity >= min(R * ceil(S / 512), (N + 7 R) / 8)   (the second only if no page belongs to two requests)
//   capacity         >= T * group / tile_rows + R + partial_capacity   (divisions round down)
// A step that needs more is the host's fault and is refused whole: the list is written with count 0 and reserved = {1, items,
// partials needed}, and attention answers such a list with NaN in every live row, so that the fault is seen and no memory is hurt.
//
// Launch order: the first kernel of a step, launched without a programmatic dependency: it begins when the copy of the step block and the
// step before have ended. Every thread waits nevertheless, first of all. Dependents are let go at once: this is one block, and
// whatever of the next kernels fits the other multiprocessors can stand ready there.
#include "tile.cuh"

namespace gridpoint {
namespace {

constexpr uint32_t kScheduleThreads = GRIDPOINT_SCHEDULE_THREADS;
constexpr uint32_t kScheduleWarps = kScheduleThreads / kWarpThreads;
// Requests whose prefix sums lie in shared memory at once.
constexpr uint32_t kWindow = 1024;
constexpr uint32_t kWindowPerThread = kWindow / kScheduleThreads;
constexpr uint32_t kChunkPages = GRIDPOINT_CHUNK_TOKENS / GRIDPOINT_PAGE_TOKENS;
// Cost classes of tiles: 64 exact ones, then 32 for each doubling of a 32-bit cost. Below them those of decode-like items, whose cost is
// exact: at most a chunk's pages.
constexpr uint32_t kExactCosts = 64;
constexpr uint32_t kSplitClasses = kChunkPages + 1;
constexpr uint32_t kClasses = kSplitClasses + 896;

static_assert(sizeof(AttentionWork) == 32 && sizeof(AttentionWorkList) == 16, "items are written as two 16-byte vectors");

struct ScheduleShared {
  // Items of warp w in the class that is the c-th from the top: counts, then where the next one goes.
  uint32_t place[kClasses * kScheduleWarps];
  // Exclusive prefix sums over the window's requests.
  uint32_t items[kWindow + 1];
  uint32_t partials[kWindow + 1];
  uint32_t split_requests[kWindow + 1];
  uint32_t warp_values[kScheduleWarps];
  uint32_t tiles;
};
static_assert(sizeof(ScheduleShared) == GRIDPOINT_SCHEDULE_SHARED_BYTES, "the host launches with the bytes that the kernel uses");
static_assert(sizeof(ScheduleShared) <= 48 * 1024, "no launch attribute is needed");

GRIDPOINT_DEVICE uint32_t cost_class(uint32_t pages) {
  uint32_t doublings = 0;
  while ((pages >> doublings) >= kExactCosts) ++doublings;
  return doublings * (kExactCosts / 2) + (pages >> doublings);
}

// One request of the step, as the schedule sees it.
struct RequestWork {
  uint32_t query_length;
  uint32_t kv_length;
  uint32_t rows;
  bool split_allowed;
  uint32_t items;
};

GRIDPOINT_DEVICE RequestWork request_work(const ScheduleParameters& parameters, uint32_t request) {
  const StepHeader* step = parameters.step;
  const int32_t* query_starts = section<int32_t>(step, step->query_starts_offset);
  const int32_t kv_length = section<int32_t>(step, step->kv_lengths_offset)[request];
  const int32_t query_length = query_starts[request + 1] - query_starts[request];
  RequestWork work = {0, 0, 0, true, 0};
  if (query_length <= 0 || kv_length <= 0) return work;
  work.query_length = static_cast<uint32_t>(query_length);
  work.kv_length = static_cast<uint32_t>(kv_length);
  work.rows = work.query_length * parameters.group;
  work.split_allowed = work.rows <= GRIDPOINT_ATTENTION_SPLIT_ROWS;
  work.items = work.split_allowed ? ceiling_divide(work.kv_length, GRIDPOINT_CHUNK_TOKENS) : ceiling_divide(work.rows, parameters.tile_rows);
  return work;
}

// Tokens that the last row of a tile may see.
GRIDPOINT_DEVICE uint32_t tile_limit(const ScheduleParameters& parameters, const RequestWork& work, uint32_t tile) {
  const uint32_t last_row = minimum((tile + 1) * parameters.tile_rows, work.rows) - 1;
  const uint32_t after = work.query_length - 1 - last_row / parameters.group;
  return work.kv_length > after ? work.kv_length - after : 0;
}

// Pages that item `index` of a request walks.
GRIDPOINT_DEVICE uint32_t item_pages(const ScheduleParameters& parameters, const RequestWork& work, uint32_t index) {
  if (!work.split_allowed) return ceiling_divide(tile_limit(parameters, work, index), GRIDPOINT_PAGE_TOKENS);
  return minimum(ceiling_divide(work.kv_length, GRIDPOINT_PAGE_TOKENS) - index * kChunkPages, kChunkPages);
}

// The class of one item: greater ones come first.
GRIDPOINT_DEVICE uint32_t item_class(const ScheduleParameters& parameters, const RequestWork& work, uint32_t index) {
  const uint32_t pages = item_pages(parameters, work, index);
  return work.split_allowed ? pages : kSplitClasses + cost_class(pages);
}

// Exclusive sum over the block in thread order; `total` gets the sum of all. Every thread calls it.
GRIDPOINT_DEVICE uint32_t block_exclusive_sum(uint32_t value, uint32_t (&warp_values)[kScheduleWarps], uint32_t* total) {
  uint32_t inclusive = value;
  GRIDPOINT_UNROLL
  for (uint32_t delta = 1; delta < kWarpThreads; delta *= 2) {
    const uint32_t below = shuffle_up(inclusive, delta);
    if (lane_index() >= delta) inclusive += below;
  }
  if (lane_index() == kWarpThreads - 1) warp_values[warp_index()] = inclusive;
  block_barrier();
  uint32_t before = 0;
  uint32_t all = 0;
  GRIDPOINT_UNROLL
  for (uint32_t warp = 0; warp < kScheduleWarps; ++warp) {
    if (warp == warp_index()) before = all;
    all += warp_values[warp];
  }
  block_barrier();
  *total = all;
  return before + inclusive - value;
}

GRIDPOINT_DEVICE uint32_t block_maximum(uint32_t value, uint32_t (&warp_values)[kScheduleWarps]) {
  GRIDPOINT_UNROLL
  for (uint32_t mask = kWarpThreads / 2; mask > 0; mask /= 2) value = maximum(value, shuffle_xor(value, mask));
  if (lane_index() == 0) warp_values[warp_index()] = value;
  block_barrier();
  GRIDPOINT_UNROLL
  for (uint32_t warp = 0; warp < kScheduleWarps; ++warp) value = maximum(value, warp_values[warp]);
  block_barrier();
  return value;
}

// What lies before a window, over all its predecessors.
struct WindowBase {
  uint32_t items;
  uint32_t partials;
  uint32_t split_requests;
};

// Exclusive prefix sums of requests [first, first + kWindow) into shared memory; adds the window's totals to `base`.
GRIDPOINT_DEVICE void scan_window(const ScheduleParameters& parameters, ScheduleShared& memory, uint32_t first, uint32_t requests, WindowBase& base) {
  uint32_t items[kWindowPerThread];
  uint32_t partials[kWindowPerThread];
  uint32_t sums[3] = {0, 0, 0};
  const uint32_t own = thread_index() * kWindowPerThread;
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < kWindowPerThread; ++i) {
    items[i] = 0;
    partials[i] = 0;
    if (first + own + i < requests) {
      const RequestWork work = request_work(parameters, first + own + i);
      items[i] = work.items;
      partials[i] = work.split_allowed && work.items > 1 ? work.items : 0;
    }
    sums[0] += items[i];
    sums[1] += partials[i];
    sums[2] += partials[i] > 0 ? 1 : 0;
  }
  uint32_t totals[3];
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < 3; ++i) sums[i] = block_exclusive_sum(sums[i], memory.warp_values, &totals[i]);
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < kWindowPerThread; ++i) {
    memory.items[own + i] = sums[0];
    memory.partials[own + i] = base.partials + sums[1];
    memory.split_requests[own + i] = base.split_requests + sums[2];
    sums[0] += items[i];
    sums[1] += partials[i];
    sums[2] += partials[i] > 0 ? 1 : 0;
  }
  if (thread_index() == 0) memory.items[kWindow] = totals[0];
  base.items += totals[0];
  base.partials += totals[1];
  base.split_requests += totals[2];
  block_barrier();
}

// The last request of the window whose items start at or before `item`.
GRIDPOINT_DEVICE uint32_t request_of(const ScheduleShared& memory, uint32_t item) {
  uint32_t low = 0;
  uint32_t high = kWindow;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (memory.items[middle] <= item) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

GRIDPOINT_DEVICE void write_item(const ScheduleParameters& parameters, const ScheduleShared& memory, const RequestWork& work, uint32_t request,
                                 uint32_t place_in_window, uint32_t index, uint32_t position) {
  AttentionWork item = {request, 0, 0, 1, 0, 0, 1, 0};
  if (!work.split_allowed) {
    item.first_row = index * parameters.tile_rows;
    item.chunk_count = ceiling_divide(tile_limit(parameters, work, index), GRIDPOINT_CHUNK_TOKENS);
  } else {
    item.first_chunk = index;
    if (work.items > 1) {
      item.first_partial = memory.partials[place_in_window];
      item.part = index;
      item.part_count = work.items;
      item.counter = memory.split_requests[place_in_window];
    }
  }
  AttentionWork* target = reinterpret_cast<AttentionWork*>(parameters.list + 1) + position;
  store16(target, Vector16{{item.request, item.first_row, item.first_chunk, item.chunk_count}});
  store16(reinterpret_cast<unsigned char*>(target) + 16, Vector16{{item.first_partial, item.part, item.part_count, item.counter}});
}

// Walks this warp's eighth of the window's items in order, 32 at a time: counts them per class, or writes them to their places.
template <bool Write>
GRIDPOINT_DEVICE void walk_window(const ScheduleParameters& parameters, ScheduleShared& memory, uint32_t first, uint32_t top_class, uint32_t class_bits) {
  const uint32_t count = memory.items[kWindow];
  const uint32_t share = ceiling_divide(ceiling_divide(count, kScheduleWarps), kWarpThreads) * kWarpThreads;
  const uint32_t end = minimum((warp_index() + 1) * share, count);
  for (uint32_t base = warp_index() * share; base < end; base += kWarpThreads) {
    const uint32_t item = base + lane_index();
    const bool active = item < end;
    const uint32_t place_in_window = active ? request_of(memory, item) : 0;
    const uint32_t request = first + place_in_window;
    RequestWork work = {0, 0, 0, true, 0};
    uint32_t index = 0;
    uint32_t from_top = 0;
    if (active) {
      work = request_work(parameters, request);
      index = item - memory.items[place_in_window];
      from_top = top_class - item_class(parameters, work, index);
    }
    uint32_t* counter = &memory.place[from_top * kScheduleWarps + warp_index()];
    if (!Write) {
      if (active) atomic_add_shared(counter, 1);
      continue;
    }
    // Lanes of the same class, by one ballot for each bit of the class.
    uint32_t equals = ballot(active);
    for (uint32_t bit = 0; bit < class_bits; ++bit) {
      const bool set = (from_top >> bit & 1u) != 0;
      const uint32_t lanes = ballot(set);
      equals &= set ? lanes : ~lanes;
    }
    const uint32_t rank = population_count(equals & ((1u << lane_index()) - 1u));
    uint32_t position = 0;
    if (active) position = *counter + rank;
    warp_barrier();
    if (active && rank == 0) *counter = position + population_count(equals);
    warp_barrier();
    if (active) write_item(parameters, memory, work, request, place_in_window, index, position);
  }
}

GRIDPOINT_DEVICE void write_head(const ScheduleParameters& parameters, uint32_t count, uint32_t refused, uint32_t items, uint32_t partials) {
  if (thread_index() == 0) store16(parameters.list, Vector16{{count, refused, items, partials}});
}

GRIDPOINT_DEVICE void schedule(const ScheduleParameters& parameters) {
  grid_launch_dependents();
  grid_dependency_wait();
  ScheduleShared& memory = shared<ScheduleShared>();
  const uint32_t requests = parameters.step->prefills + parameters.step->decodes;

  uint32_t greatest_class = 0;
  for (uint32_t request = thread_index(); request < requests; request += kScheduleThreads) {
    const RequestWork work = request_work(parameters, request);
    // The last tile, or the first chunk, is a request's longest item.
    if (work.items > 0) greatest_class = maximum(greatest_class, item_class(parameters, work, work.split_allowed ? 0 : work.items - 1));
  }
  const uint32_t top_class = block_maximum(greatest_class, memory.warp_values);
  const uint32_t places = (top_class + 1) * kScheduleWarps;
  uint32_t class_bits = 0;
  while (top_class >> class_bits != 0) ++class_bits;
  for (uint32_t i = thread_index(); i < places; i += kScheduleThreads) memory.place[i] = 0;

  WindowBase counted = {0, 0, 0};
  for (uint32_t first = 0; first < requests; first += kWindow) {
    scan_window(parameters, memory, first, requests, counted);
    walk_window<false>(parameters, memory, first, top_class, class_bits);
    block_barrier();
  }
  if (counted.items > parameters.capacity || counted.partials > parameters.partial_capacity || counted.split_requests > parameters.counter_capacity) {
    write_head(parameters, 0, 1, counted.items, counted.partials);
    return;
  }
  const uint32_t counters = counted.split_requests * parameters.kv_heads;
  for (uint32_t i = thread_index(); i < counters; i += kScheduleThreads) parameters.counters[i] = 0;

  // Exclusive prefix sums of the counts, from the longest class down and by warp inside a class.
  const uint32_t own = ceiling_divide(places, kScheduleThreads);
  const uint32_t begin = minimum(thread_index() * own, places);
  const uint32_t end = minimum(begin + own, places);
  uint32_t sum = 0;
  for (uint32_t i = begin; i < end; ++i) sum += memory.place[i];
  uint32_t total;
  uint32_t position = block_exclusive_sum(sum, memory.warp_values, &total);
  // The place of the first decode-like item is the number of tiles.
  const uint32_t first_split = top_class >= kSplitClasses ? (top_class - kSplitClasses + 1) * kScheduleWarps : 0;
  for (uint32_t i = begin; i < end; ++i) {
    if (i == first_split) memory.tiles = position;
    const uint32_t count = memory.place[i];
    memory.place[i] = position;
    position += count;
  }
  block_barrier();

  WindowBase placed = {0, 0, 0};
  for (uint32_t first = 0; first < requests; first += kWindow) {
    if (requests > kWindow) scan_window(parameters, memory, first, requests, placed);
    walk_window<true>(parameters, memory, first, top_class, class_bits);
    block_barrier();
  }
  write_head(parameters, total, 0, memory.tiles, 0);
}

}  // namespace
}  // namespace gridpoint

#define SCHEDULE_KERNELS(X) X(schedule_attention, ScheduleParameters, gridpoint::kScheduleThreads, 1, gridpoint::schedule)

GRIDPOINT_MODULE(schedule, SCHEDULE_KERNELS)
