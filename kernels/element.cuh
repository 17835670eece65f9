// The 16-bit element types of weights, activations and the key-value cache, as what a kernel is a template over. Everything is
// accumulated in float32; only what is loaded and stored differs.
#pragma once
#include "ptx.cuh"

namespace gridpoint {

// bfloat16: kernels of it have names without a suffix.
struct Bf16 {
  // The type's flag of wgmma.
  static constexpr uint32_t kWgmma = kBf16;
  static GRIDPOINT_DEVICE_MEMBER float low(uint32_t packed) { return bf16_to_float(packed & 0xffffu); }
  static GRIDPOINT_DEVICE_MEMBER float high(uint32_t packed) { return bf16_to_float(packed >> 16); }
  static GRIDPOINT_DEVICE_MEMBER uint32_t pack(float low, float high) { return pack_bf16(low, high); }
  template <int M, int N>
  static GRIDPOINT_DEVICE_MEMBER void mma(float (&d)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2]) {
    mma_bf16<M, N>(d, a, b);
  }
};

// float16: names end in `_f16`. Values beyond 65504 become infinite, as they do wherever float16 is used.
struct F16 {
  static constexpr uint32_t kWgmma = kF16;
  static GRIDPOINT_DEVICE_MEMBER float low(uint32_t packed) { return f16_to_float(packed & 0xffffu); }
  static GRIDPOINT_DEVICE_MEMBER float high(uint32_t packed) { return f16_to_float(packed >> 16); }
  static GRIDPOINT_DEVICE_MEMBER uint32_t pack(float low, float high) { return pack_f16(low, high); }
  template <int M, int N>
  static GRIDPOINT_DEVICE_MEMBER void mma(float (&d)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2]) {
    mma_f16<M, N>(d, a, b);
  }
};

}  // namespace gridpoint
