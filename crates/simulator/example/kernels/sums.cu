// Sums of blocks, a transpose and a histogram, as CUDA programs have them. The first include, the last line and the declaration of dynamic
// shared memory know of the simulated device; nvcc compiles the file as it is.
//
// With one of the macros below a bug is put in, which a GPU would mostly let pass.
#include "gridpoint_cuda.h"

// The sum of 32 lanes, in lane 0.
template <typename T>
__device__ T warp_sum(T value) {
  for (int offset = warpSize / 2; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  return value;
}

// The sum over the block, in thread 0.
template <typename T>
__device__ __forceinline__ T block_sum(T value) {
  __shared__ T partial[32];
  const int lane = threadIdx.x % warpSize;
  const int warp = threadIdx.x / warpSize;

  value = warp_sum(value);
#ifdef BEYOND_SHARED
  if (lane == 0) partial[warp * warpSize] = value;
#else
  if (lane == 0) partial[warp] = value;
#endif
#ifndef MISSING_BARRIER
  __syncthreads();
#endif
#ifdef UNINITIALISED_READ
  value = partial[lane];
#else
  const int warps = (blockDim.x + warpSize - 1) / warpSize;
  value = lane < warps ? partial[lane] : T(0);
#endif
  if (warp == 0) value = warp_sum(value);
  return value;
}

// total += the sum of count values; positive += how many of them are above zero.
__global__ void __launch_bounds__(256) sum(const float* __restrict__ values, int count, float* total, unsigned long long* positive) {
#ifdef MISSING_LANE
  if (static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) >= count) return;
#endif
  float sum = 0.0f;
  int above = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const float value = __ldg(values + i);
    sum += value;
    above += value > 0.0f;
  }
  sum = block_sum(sum);
  above = block_sum(above);
  if (threadIdx.x == 0) {
    atomicAdd(total, sum);
    atomicAdd(positive, static_cast<unsigned long long>(above));
  }
}

constexpr int kTile = 32;
constexpr int kRows = 8;

// output[x][y] = input[y][x] through padded tiles; blocks of (32, 8) threads.
extern "C" __global__ void transpose(float* output, const float* input, int width, int height) {
  __shared__ float tile[kTile][kTile + 1];
#ifdef OUT_OF_BOUNDS
  const int pitch = height + 1;
#else
  const int pitch = height;
#endif

  int x = blockIdx.x * kTile + threadIdx.x;
  int y = blockIdx.y * kTile + threadIdx.y;
  for (int row = 0; row < kTile; row += kRows) {
    if (x < width && y + row < height) tile[threadIdx.y + row][threadIdx.x] = input[(y + row) * width + x];
  }
  __syncthreads();

  x = blockIdx.y * kTile + threadIdx.x;
  y = blockIdx.x * kTile + threadIdx.y;
  for (int row = 0; row < kTile; row += kRows) {
    if (x < height && y + row < width) output[(y + row) * pitch + x] = tile[threadIdx.x][threadIdx.y + row];
  }
}

// histogram[value]++ in shared memory whose size the launch gives.
template <int Bins>
__global__ void histogram(const unsigned char* values, char stride, int count, unsigned int* bins, float4 scale) {
  GRIDPOINT_DYNAMIC_SHARED(unsigned int, local);
  for (int bin = threadIdx.x; bin < Bins; bin += blockDim.x) local[bin] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    atomicAdd_block(&local[static_cast<int>(values[i * stride] * scale.w) % Bins], 1u);
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < Bins; bin += blockDim.x) atomicAdd(&bins[bin], local[bin]);
}

GRIDPOINT_EXPORT(sums, sum, transpose, histogram<16>);
