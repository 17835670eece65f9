// Scales of rows for products into whose weights an RMS normalisation is folded: row_scales[r] = 1 / sqrt(mean(input[r, :]^2) + epsilon).
//
// The normalisation x / rms(x) * w in front of a product with weights W is the product of x with W diag(w), whose rows are then multiplied by
// 1 / rms(x): w is multiplied into W when it is loaded, the products multiply by the scale (epilogue.cuh), and the normalised rows never
// exist in memory. For few rows the product computes the scale itself (skinny.cu) and this kernel is not launched.
//
// Shapes: input [T, width], width a multiple of 8; row_scales float [T]. Only the step's live rows are read and written.
// Numbers: squares are summed by the tensor cores (squares.cuh), one k16 step after another from zero in each group of 512 columns of each
// segment of the product; the groups of a segment are added in order, then the segments. Each step truncates below 2^-23 of the sum.
// Work: 16 rows a block; its warps take groups in turn, so that a row of 4096 keeps eight chains of 32 steps in flight. Fragments come
// straight from memory: a lane's words k and k + 8 of a row share a sector.
// Launch: GRIDPOINT_ROW_SCALE_THREADS threads, GRIDPOINT_ROW_SCALE_SHARED_BYTES of shared memory, any grid; full at one block for 16 rows.
// Every thread waits for the kernel before it first of all, also without a row.
#include "squares.cuh"
#include "tile.cuh"

namespace gridpoint {
namespace {

constexpr uint32_t kRows = 16;
constexpr uint32_t kWarps = GRIDPOINT_ROW_SCALE_THREADS / kWarpThreads;
constexpr uint32_t kGroups = GRIDPOINT_ROW_SCALE_GROUPS;

struct RowScaleShared {
  float sums[kGroups][kRows];
};
static_assert(sizeof(RowScaleShared) == GRIDPOINT_ROW_SCALE_SHARED_BYTES, "the launch reserves exactly this struct");

// Two elements of a row; zeros past its end, or for a row that is not live.
GRIDPOINT_DEVICE uint32_t load_pair(const uint16_t* row, uint32_t column, uint32_t end, bool live) {
  return live && column < end ? *reinterpret_cast<const uint32_t*>(row + column) : 0;
}

template <class Element>
GRIDPOINT_DEVICE void row_scale(const RowScaleParameters& parameters) {
  // At once: the product behind this loads its first weights while the product in front of it ends. It waits by itself.
  grid_launch_dependents();
  grid_dependency_wait();
  RowScaleShared& memory = shared<RowScaleShared>();
  const uint32_t rows = parameters.step->tokens;
  const uint32_t width = parameters.width;
  const uint32_t segment_groups = ceiling_divide(minimum(parameters.segment, width), GRIDPOINT_SQUARES_COLUMNS);
  const uint32_t groups = ceiling_divide(width, GRIDPOINT_SQUARES_COLUMNS);
  for (uint32_t first = block_index() * kRows; first < rows; first += grid_blocks() * kRows) {
    const uint32_t row = first + lane_index() / 4;
    const uint16_t* upper = parameters.input + static_cast<uint64_t>(row) * width;
    const uint16_t* lower = upper + static_cast<uint64_t>(8) * width;
    const bool upper_live = row < rows;
    const bool lower_live = row + 8 < rows;
    for (uint32_t group = warp_index(); group < groups; group += kWarps) {
      const uint32_t begin = group * GRIDPOINT_SQUARES_COLUMNS;
      const uint32_t end = minimum(begin + GRIDPOINT_SQUARES_COLUMNS, width);
      Squares squares;
      clear(squares);
      GRIDPOINT_UNROLL_8
      for (uint32_t column = begin + lane_index() % 4 * 2; column < end; column += 16) {
        const uint32_t fragment[4] = {load_pair(upper, column, end, upper_live), load_pair(lower, column, end, lower_live),
                                      load_pair(upper, column + 8, end, upper_live), load_pair(lower, column + 8, end, lower_live)};
        add_squares<Element>(squares, fragment);
      }
      if (holds_squares()) {
        memory.sums[group][lane_index() / 4] = squares_of(squares, 0);
        memory.sums[group][lane_index() / 4 + 8] = squares_of(squares, 1);
      }
    }
    block_barrier();
    if (thread_index() < kRows && first + thread_index() < rows) {
      float total = 0.0f;
      for (uint32_t group = 0; group < groups; group += segment_groups) {
        float segment = 0.0f;
        for (uint32_t i = group; i < minimum(group + segment_groups, groups); ++i) segment += memory.sums[i][thread_index()];
        total += segment;
      }
      parameters.row_scales[first + thread_index()] = row_scale_of(total, parameters.inverse_width, parameters.epsilon);
    }
    block_barrier();
  }
}

}  // namespace
}  // namespace gridpoint

#define ROW_SCALE_KERNELS(X)                                                                              \
  X(row_scale, RowScaleParameters, GRIDPOINT_ROW_SCALE_THREADS, 4, gridpoint::row_scale<gridpoint::Bf16>) \
  X(row_scale_f16, RowScaleParameters, GRIDPOINT_ROW_SCALE_THREADS, 4, gridpoint::row_scale<gridpoint::F16>)
GRIDPOINT_MODULE(row_scale, ROW_SCALE_KERNELS)
