// What gridpoint_cuda.h provides, a bit of everything. Compiled by the cc crate alone: __shared__ stands in ordinary functions only.
#include "gridpoint_cuda.h"

struct __align__(8) Pair {
  int first;
  float second;
};

__constant__ int kTable[4] = {3, 1, 4, 1};

// 16 words a thread of one warp.
__global__ void shuffles(unsigned int* output) {
  const unsigned int full = 0xffffffffu;
  const int lane = threadIdx.x;
  unsigned int* mine = output + lane * 16;
  mine[0] = __shfl_sync(full, lane, 5);
  mine[1] = __shfl_sync(full, lane, 5, 8);
  mine[2] = __shfl_up_sync(full, lane, 2, 8);
  mine[3] = __shfl_down_sync(full, lane, 3, 16);
  mine[4] = __shfl_xor_sync(full, lane, 9, 8);
  mine[5] = __shfl_xor_sync(full, lane, 4, 8);
  const long long wide = __shfl_up_sync(full, (static_cast<long long>(lane) << 32) + 7, 1);
  mine[6] = static_cast<unsigned int>(wide >> 32) + static_cast<unsigned int>(wide & 0xff);
  mine[7] = static_cast<unsigned int>(__shfl_xor_sync(full, lane * 0.5, 1) * 2.0);
  mine[8] = __ballot_sync(full, lane % 3 == 0);
  mine[9] = __any_sync(full, lane == 31) * 2 + __all_sync(full, lane < 31);
  mine[10] = __reduce_add_sync(full, static_cast<unsigned int>(lane));
  mine[11] = static_cast<unsigned int>(__reduce_min_sync(full, lane - 16));
  mine[12] = __reduce_xor_sync(full, 1u << lane);
  if (lane < 4) mine[13] = __shfl_xor_sync(0xfu, lane, 3);
  __syncwarp();
  mine[14] = kTable[lane % 4];
  mine[15] = warpSize;
}

// One block of any shape; the results of atomics by many threads.
__global__ void atomics(int* ints, unsigned int* words, unsigned long long* longs, float* floats, double* doubles) {
  const int me = threadIdx.x + blockDim.x * threadIdx.y;
  atomicAdd(&ints[0], me);
  atomicSub(&ints[1], me);
  atomicMin(&ints[2], -me);
  atomicMax(&ints[3], me);
  atomicExch(&ints[4], 17);
  if (me == 3) atomicCAS(&ints[5], 0, 4);
  if (me == 4) atomicCAS(&ints[6], 1, 4);
  atomicOr(&words[0], 1u << me % 32);
  atomicAnd(&words[1], ~(1u << me % 32));
  atomicXor_block(&words[2], 1u << me % 32);
  atomicInc(&words[3], 9u);
  atomicDec(&words[4], 9u);
  atomicAdd_system(&longs[0], 1ull << 33);
  atomicMax(&longs[1], static_cast<unsigned long long>(me) << 40);
  atomicMin(reinterpret_cast<long long*>(&longs[2]), -static_cast<long long>(me));
  if (me == 5) atomicCAS(&longs[3], 0ull, 5ull);
  atomicAdd(&floats[0], 0.5f);
  atomicAdd(&doubles[0], 0.25);
}

// 12 words.
__global__ void arithmetic(unsigned int* output, Pair pair, dim3 sizes) {
  const int4 four = make_int4(1, 2, 3, 4);
  const float2 two = make_float2(pair.second, 4.0f);
  output[0] = __popc(0xf0u) * 1000 + __clz(1) * 10 + __ffs(8);
  output[1] = __brev(1u) + __umulhi(0x80000000u, 6u);
  output[2] = min(pair.first, four.w) * 10 + max(2u, 1);
  output[3] = __float_as_uint(rsqrtf(two.y) + __fdividef(1.0f, two.x));
  output[4] = __float2int_rn(2.5f) * 10 + __float2int_rz(2.9f);
  output[5] = __funnelshift_l(0x80000000u, 1u, 1u);
  output[6] = sizes.x + sizes.y * 10 + sizes.z * 100;
  output[7] = __float_as_uint(__expf(0.0f) + __saturatef(3.0f) + fmaxf(two.x, 1.0f));
  output[8] = sizeof(float3) + alignof(float4) * 100;
  output[9] = blockDim.x + gridDim.x * 100 + blockIdx.x;
  output[10] = __clzll(1ll) + __popcll(~0ull) * 100;
  output[11] = __funnelshift_r(0x00000002u, 1u, 1u);
}

// Reversed through static and dynamic shared memory together.
__global__ void reversed(const int* input, int* output, int beyond) {
  __shared__ int here[64];
  GRIDPOINT_DYNAMIC_SHARED(int, there);
  const int me = threadIdx.x;
  here[me + beyond] = __ldg(&input[blockIdx.x * 64 + me]);
  __syncthreads();
  there[me] = here[63 - me];
  __threadfence_block();
  __syncthreads();
  output[blockIdx.x * 64 + 63 - me] = there[63 - me];
}

GRIDPOINT_EXPORT(language, shuffles, atomics, arithmetic, reversed);
