// Clusters (PTX ISA 9.7.13.3), elect.sync and stmatrix, for sm_90 and newer and the simulated device.
//
// Included by ptx.cuh.
#pragma once

#ifdef GRIDPOINT_HOPPER

namespace gridpoint {

// %cluster_ctarank: the block's number in its cluster.
GRIDPOINT_DEVICE uint32_t cluster_rank() {
#ifdef __CUDACC__
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return gridpoint_cluster_place() & 0xffffu;
#endif
}

// %cluster_nctarank: blocks of the cluster.
GRIDPOINT_DEVICE uint32_t cluster_blocks() {
#ifdef __CUDACC__
  uint32_t blocks;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
  return blocks;
#else
  return gridpoint_cluster_place() >> 16;
#endif
}

// barrier.cluster.arrive.release.aligned (9.7.13.3).
GRIDPOINT_DEVICE void cluster_arrive() {
#ifdef __CUDACC__
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
  gridpoint_cluster_barrier(0);
#endif
}

// barrier.cluster.wait.acquire.aligned.
GRIDPOINT_DEVICE void cluster_wait() {
#ifdef __CUDACC__
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  gridpoint_cluster_barrier(1);
#endif
}

GRIDPOINT_DEVICE void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}

// mapa.shared::cluster: the address of the same place in the shared memory of the cluster's block `rank`.
GRIDPOINT_DEVICE uint32_t map_shared(uint32_t address, uint32_t rank) {
#ifdef __CUDACC__
  uint32_t mapped;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
#else
  return gridpoint_map_shared(address, rank);
#endif
}

// ld.shared::cluster.b32 of an address from map_shared.
GRIDPOINT_DEVICE uint32_t load_cluster(uint32_t address GRIDPOINT_SITE) {
#ifdef __CUDACC__
  uint32_t value;
  asm volatile("ld.shared::cluster.b32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
#else
  uint32_t value;
  GRIDPOINT_TELL_SITE();
  GRIDPOINT_MOVE(&value, gridpoint_shared_cluster(address, 4, 4, 0), sizeof value);
  return value;
#endif
}

// st.shared::cluster.b32 to an address from map_shared.
GRIDPOINT_DEVICE void store_cluster(uint32_t address, uint32_t value GRIDPOINT_SITE) {
#ifdef __CUDACC__
  asm volatile("st.shared::cluster.b32 [%0], %1;" : : "r"(address), "r"(value) : "memory");
#else
  GRIDPOINT_TELL_SITE();
  GRIDPOINT_MOVE(gridpoint_shared_cluster(address, 4, 4, 1), &value, sizeof value);
#endif
}

// elect.sync over the whole warp: true in one lane (9.7.13.14).
GRIDPOINT_DEVICE bool elect_one() {
#ifdef __CUDACC__
  uint32_t elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, %1;\nselp.b32 %0, 1, 0, p;\n}" : "=r"(elected) : "r"(kFullMask) : "memory");
  return elected != 0;
#else
  return gridpoint_elect(kFullMask) != 0;
#endif
}

// Four 8x8 matrices of 16-bit elements to shared memory: the way back of load_matrix_x4 (9.7.14.5.16, stmatrix.x4).
GRIDPOINT_DEVICE void store_matrix_x4(uint32_t address, const uint32_t (&fragment)[4]) {
#ifdef __CUDACC__
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               :
               : "r"(address), "r"(fragment[0]), "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3])
               : "memory");
#else
  gridpoint_stmatrix(fragment, 4, 0, address);
#endif
}

// As store_matrix_x4, each matrix transposed.
GRIDPOINT_DEVICE void store_matrix_x4_transposed(uint32_t address, const uint32_t (&fragment)[4]) {
#ifdef __CUDACC__
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
               :
               : "r"(address), "r"(fragment[0]), "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3])
               : "memory");
#else
  gridpoint_stmatrix(fragment, 4, 1, address);
#endif
}

// Two matrices (stmatrix.x2), with addresses from lanes 0 to 15.
GRIDPOINT_DEVICE void store_matrix_x2(uint32_t address, const uint32_t (&fragment)[2]) {
#ifdef __CUDACC__
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" : : "r"(address), "r"(fragment[0]), "r"(fragment[1]) : "memory");
#else
  gridpoint_stmatrix(fragment, 2, 0, address);
#endif
}

GRIDPOINT_DEVICE void store_matrix_x2_transposed(uint32_t address, const uint32_t (&fragment)[2]) {
#ifdef __CUDACC__
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};"
               :
               : "r"(address), "r"(fragment[0]), "r"(fragment[1])
               : "memory");
#else
  gridpoint_stmatrix(fragment, 2, 1, address);
#endif
}

// One matrix (stmatrix.x1), with addresses from lanes 0 to 7.
GRIDPOINT_DEVICE void store_matrix_x1(uint32_t address, const uint32_t& fragment) {
#ifdef __CUDACC__
  asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" : : "r"(address), "r"(fragment) : "memory");
#else
  gridpoint_stmatrix(&fragment, 1, 0, address);
#endif
}

GRIDPOINT_DEVICE void store_matrix_x1_transposed(uint32_t address, const uint32_t& fragment) {
#ifdef __CUDACC__
  asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" : : "r"(address), "r"(fragment) : "memory");
#else
  gridpoint_stmatrix(&fragment, 1, 1, address);
#endif
}

}  // namespace gridpoint

#endif
