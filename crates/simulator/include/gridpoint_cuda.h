// Ordinary CUDA C++ for the simulated device: what nvcc provides by itself, for g++ and clang++ (C++17).
//
// A .cu file includes this header, if need be through the compiler's -include, and lists its kernels once, at file scope:
//
//   GRIDPOINT_EXPORT(module, kernel, other_kernel, templated<256>);
//
// Under nvcc both mean nothing. Source of what stands here: CUDA C++ Programming Guide 13.0, "C++ Language Extensions", and CUDA Math API.
// Approximate functions (__expf, rsqrtf, ...) are the host's exact ones: results differ from a GPU's in the last bits.
#pragma once

// Dynamic shared memory of the kernel as an array `name`: no preprocessor can turn `extern __shared__` into something for a host.
#ifdef __CUDACC__

#define GRIDPOINT_EXPORT(module, ...) static_assert(true, "")
#define GRIDPOINT_DYNAMIC_SHARED(type, name) extern __shared__ type name[]

#else

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "gridpoint_simulator.h"

#define GRIDPOINT_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(gridpoint_shared(gridpoint_shared_base(), 0, alignof(type)))

#include "gridpoint_cuda_types.h"
#include "gridpoint_cuda_math.h"
#include "gridpoint_cuda_warp.h"
#include "gridpoint_cuda_atomics.h"
#include "gridpoint_cuda_export.h"

#endif
