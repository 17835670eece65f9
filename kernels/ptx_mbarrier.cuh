// mbarriers and the fences of asynchronous operations (PTX ISA 9.7.13.15 and 9.7.13.4), for sm_90 and newer and the simulated device.
//
// Included by ptx.cuh. `mbarrier` is a 32-bit shared address.
#pragma once

#ifdef GRIDPOINT_HOPPER

namespace gridpoint {

// mbarrier.init: phases of `count` arrivals; eight bytes at a multiple of 8 (9.7.13.15.9).
GRIDPOINT_DEVICE void mbarrier_init(uint32_t mbarrier, uint32_t count) {
#ifdef __CUDACC__
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" : : "r"(mbarrier), "r"(count) : "memory");
#else
  gridpoint_mbarrier_init(mbarrier, count);
#endif
}

// mbarrier.inval: the eight bytes may be used for something else (9.7.13.15.10).
GRIDPOINT_DEVICE void mbarrier_invalidate(uint32_t mbarrier) {
#ifdef __CUDACC__
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" : : "r"(mbarrier) : "memory");
#else
  gridpoint_mbarrier_invalidate(mbarrier);
#endif
}

// Makes mbarrier.init visible to the cluster and to asynchronous copies (9.7.13.4).
GRIDPOINT_DEVICE void fence_mbarrier_init() {
#ifdef __CUDACC__
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  gridpoint_fence_mbarrier_init();
#endif
}

// mbarrier.arrive, release (9.7.13.15.13).
GRIDPOINT_DEVICE void mbarrier_arrive(uint32_t mbarrier) {
#ifdef __CUDACC__
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" : : "r"(mbarrier) : "memory");
#else
  gridpoint_mbarrier_arrive(mbarrier, 1, 0);
#endif
}

// As mbarrier_arrive, at an address from map_shared: another block's mbarrier.
GRIDPOINT_DEVICE void mbarrier_arrive_cluster(uint32_t mbarrier) {
#ifdef __CUDACC__
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" : : "r"(mbarrier) : "memory");
#else
  gridpoint_mbarrier_arrive(mbarrier, 1, 0);
#endif
}

// As mbarrier_arrive_cluster, but releasing to the thread's own block alone: enough where nothing was written that the other block reads, as
// when memory is returned that asynchronous operations have read. (With cluster scope sm_90a code has a fence of the whole device here, and
// an invalidation of the first cache in mbarrier_wait_cluster: nvcc 13.0.)
GRIDPOINT_DEVICE void mbarrier_return_cluster(uint32_t mbarrier) {
#ifdef __CUDACC__
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" : : "r"(mbarrier) : "memory");
#else
  gridpoint_mbarrier_arrive(mbarrier, 1, 0);
#endif
}

// mbarrier.arrive.expect_tx: the phase also waits for `bytes` bytes.
GRIDPOINT_DEVICE void mbarrier_arrive_expect(uint32_t mbarrier, uint32_t bytes) {
#ifdef __CUDACC__
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" : : "r"(mbarrier), "r"(bytes) : "memory");
#else
  gridpoint_mbarrier_arrive(mbarrier, 1, bytes);
#endif
}

// mbarrier.expect_tx without an arrival (9.7.13.15.11).
GRIDPOINT_DEVICE void mbarrier_expect(uint32_t mbarrier, uint32_t bytes) {
#ifdef __CUDACC__
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" : : "r"(mbarrier), "r"(bytes) : "memory");
#else
  gridpoint_mbarrier_arrive(mbarrier, 0, bytes);
#endif
}

// mbarrier.test_wait.parity: whether the phase of `parity` has completed; acquires if so.
GRIDPOINT_DEVICE bool mbarrier_test_wait(uint32_t mbarrier, uint32_t parity) {
#ifdef __CUDACC__
  uint32_t done;
  asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.b32 %0, 1, 0, p;\n}"
               : "=r"(done)
               : "r"(mbarrier), "r"(parity)
               : "memory");
  return done != 0;
#else
  return gridpoint_mbarrier_wait(mbarrier, parity, 0) != 0;
#endif
}

// mbarrier.try_wait.parity: as mbarrier_test_wait, after waiting for a while (9.7.13.15.16).
GRIDPOINT_DEVICE bool mbarrier_try_wait(uint32_t mbarrier, uint32_t parity) {
#ifdef __CUDACC__
  uint32_t done;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.b32 %0, 1, 0, p;\n}"
               : "=r"(done)
               : "r"(mbarrier), "r"(parity)
               : "memory");
  return done != 0;
#else
  return gridpoint_mbarrier_wait(mbarrier, parity, 1) != 0;
#endif
}

// As mbarrier_try_wait, acquiring at cluster scope: for phases that other blocks' arrivals complete.
GRIDPOINT_DEVICE bool mbarrier_try_wait_cluster(uint32_t mbarrier, uint32_t parity) {
#ifdef __CUDACC__
  uint32_t done;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\nselp.b32 %0, 1, 0, p;\n}"
               : "=r"(done)
               : "r"(mbarrier), "r"(parity)
               : "memory");
  return done != 0;
#else
  return gridpoint_mbarrier_wait(mbarrier, parity, 1) != 0;
#endif
}

// Returns once the phase of `parity` has completed.
GRIDPOINT_DEVICE void mbarrier_wait(uint32_t mbarrier, uint32_t parity) {
  while (!mbarrier_try_wait(mbarrier, parity)) {
  }
}

GRIDPOINT_DEVICE void mbarrier_wait_cluster(uint32_t mbarrier, uint32_t parity) {
  while (!mbarrier_try_wait_cluster(mbarrier, parity)) {
  }
}

// Generic writes to shared memory before this are seen by asynchronous operations after it (9.7.13.4).
GRIDPOINT_DEVICE void fence_proxy_async() {
#ifdef __CUDACC__
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  gridpoint_fence_proxy_async();
#endif
}

}  // namespace gridpoint

#endif
