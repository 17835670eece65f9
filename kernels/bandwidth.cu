// What the device's memory gives: reads, writes and copies of bytes that mean nothing, to compare kernels with.
//
// Vectors 0 ... min(read, write) - 1 of the source are copied to the target; further vectors of the source are read and folded into a word
// a warp, so that they are not in vain; further vectors of the target are written with ones. So one kernel is a read (nothing to write),
// a copy (as much to write), and whatever lies between: the bytes of any other kernel without its arithmetic.
//
// Shapes: source 16-byte vectors [read_vectors], target 16-byte vectors [write_vectors], sums one word a warp of the grid. The buffers
// do not overlap.
//
// The grid walks the buffers side by side and every thread has kInFlight loads under way: 32 KB for each block. Sums are the exclusive or of
// the words, whose order does not matter.
//
// Launch: GRIDPOINT_BANDWIDTH_THREADS threads, no shared memory, any grid.
#include "tile.cuh"

namespace gridpoint {
namespace {

constexpr uint32_t kVectorWords = 4;
constexpr uint32_t kInFlight = 8;

GRIDPOINT_DEVICE void move_bytes(const BandwidthParameters& parameters) {
  grid_dependency_wait();
  const uint64_t stride = uint64_t{grid_blocks()} * block_threads();
  const uint64_t thread = uint64_t{block_index()} * block_threads() + thread_index();
  const uint64_t read = parameters.read_vectors;
  const uint64_t write = parameters.write_vectors;
  const uint64_t both = read < write ? read : write;
  Vector16 held[kInFlight];
  for (uint64_t first = thread; first < both; first += kInFlight * stride) {
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kInFlight; ++i) {
      const uint64_t vector = first + i * stride;
      if (vector < both) held[i] = load16(parameters.source + vector * kVectorWords);
    }
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kInFlight; ++i) {
      const uint64_t vector = first + i * stride;
      if (vector < both) store16(parameters.target + vector * kVectorWords, held[i]);
    }
  }
  const Vector16 ones = {{1, 1, 1, 1}};
  for (uint64_t vector = both + thread; vector < write; vector += stride) store16(parameters.target + vector * kVectorWords, ones);
  if (read <= both) return;

  uint32_t sum = 0;
  for (uint64_t first = both + thread; first < read; first += kInFlight * stride) {
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kInFlight; ++i) {
      const uint64_t vector = first + i * stride;
      held[i] = Vector16{{0, 0, 0, 0}};
      if (vector < read) held[i] = load16(parameters.source + vector * kVectorWords);
    }
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kInFlight; ++i) sum ^= held[i].word[0] ^ held[i].word[1] ^ held[i].word[2] ^ held[i].word[3];
  }
  GRIDPOINT_UNROLL
  for (uint32_t mask = kWarpThreads / 2; mask > 0; mask /= 2) sum ^= shuffle_xor(sum, mask);
  if (lane_index() == 0) parameters.sums[thread / kWarpThreads] = sum;
}

}  // namespace
}  // namespace gridpoint

#define BANDWIDTH_KERNELS(X) X(bandwidth_move, BandwidthParameters, GRIDPOINT_BANDWIDTH_THREADS, 4, gridpoint::move_bytes)
GRIDPOINT_MODULE(bandwidth, BANDWIDTH_KERNELS)
