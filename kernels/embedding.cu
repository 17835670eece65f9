// Token embedding: output[t, :] = table[token_ids[t], :].
//
// Shapes: table bf16 [V, H], output bf16 [T, H], H a multiple of 8. Only the t real rows of the step are written.
// The copy is a flat sequence of 16-byte vectors dealt out to the grid, so that one decode token of a wide model and thousands of
// tokens of a narrow one both keep all threads busy. Row and column of a thread's next vector follow from the last by addition:
// two divisions a thread, and no product of rows and width that could leave 32 bits.
//
// The host refuses token ids outside [0, V). Should one arrive nevertheless, its row is zeros: the table is never read out of
// bounds, and no NaN gets into the key-value cache.
//
// Launch: GRIDPOINT_EMBEDDING_THREADS threads, no shared memory, any grid. Every thread waits for the kernel before it first of all,
// also in blocks without rows: kernels further on know that one's end by this one's alone.
#include "tile.cuh"

namespace gridpoint {
namespace {

constexpr uint32_t kVectorElements = 8;
static_assert(sizeof(Vector16) == kVectorElements * sizeof(uint16_t), "a vector is eight bf16 elements");

GRIDPOINT_DEVICE void embedding_rows(const EmbeddingParameters& parameters) {
  // At once, so that the kernels behind can stand ready and a product among them can load weights; each waits by itself.
  grid_launch_dependents();
  grid_dependency_wait();
  const StepHeader* step = parameters.step;
  const int32_t* token_ids = section<int32_t>(step, step->token_ids_offset);
  const uint32_t tokens = step->tokens;
  const uint32_t vectors = parameters.hidden / kVectorElements;
  const uint32_t stride = grid_blocks() * block_threads();
  const uint32_t row_stride = stride / vectors;
  const uint32_t column_stride = stride % vectors;
  const uint32_t start = block_index() * block_threads() + thread_index();
  uint32_t row = start / vectors;
  uint32_t column = start % vectors;
  while (row < tokens) {
    const uint32_t token = static_cast<uint32_t>(token_ids[row]);
    Vector16 value = {{0, 0, 0, 0}};
    if (token < parameters.vocabulary) {
      value = load16(parameters.table + static_cast<uint64_t>(token) * parameters.hidden + column * kVectorElements);
    }
    store16(parameters.output + static_cast<uint64_t>(row) * parameters.hidden + column * kVectorElements, value);
    row += row_stride;
    column += column_stride;
    if (column >= vectors) {
      column -= vectors;
      ++row;
    }
  }
}

}  // namespace
}  // namespace gridpoint

#define EMBEDDING_KERNELS(X) X(embedding_gather, EmbeddingParameters, GRIDPOINT_EMBEDDING_THREADS, 4, gridpoint::embedding_rows)
GRIDPOINT_MODULE(embedding, EMBEDDING_KERNELS)
