// A step of two kernels: output[i] = values[i]^2 + 1 for as many values as the step has. The count lies in device memory, so that a graph
// that was captured for T values serves every smaller step.
#include "gridpoint_cuda.h"

struct ToyParameters {
  const unsigned int* count;
  const float* values;
  float* squares;
  float* output;
};

extern "C" __global__ void __launch_bounds__(128) square(ToyParameters p) {
  for (unsigned int i = blockIdx.x * blockDim.x + threadIdx.x; i < *p.count; i += gridDim.x * blockDim.x) {
    p.squares[i] = p.values[i] * p.values[i];
  }
}

extern "C" __global__ void __launch_bounds__(128) add_one(ToyParameters p) {
  for (unsigned int i = blockIdx.x * blockDim.x + threadIdx.x; i < *p.count; i += gridDim.x * blockDim.x) {
    p.output[i] = p.squares[i] + 1.0f;
  }
}

GRIDPOINT_EXPORT(toy, square, add_one);
