// The C interface between kernels compiled for the host and the simulated device.
//
// Wrappers call these functions, gridpoint_cuda.h for ordinary CUDA C++; a kernel never does. Each stands for one instruction or one
// family of instructions of the PTX ISA. Shared-memory addresses are 32-bit offsets in the block's shared window, as on a GPU.
// Every function may switch to another CUDA thread of the block, so no host thread-local value may be cached across a call.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// %tid, %ctaid, %ntid, %nctaid of the running thread. The pointer stays valid while the thread lives.
typedef struct GridpointThread {
  uint32_t thread[3];
  uint32_t block[3];
  uint32_t block_size[3];
  uint32_t grid_size[3];
} GridpointThread;

// Where a parameter lies in the launch's parameter block.
typedef struct GridpointParameter {
  uint32_t offset;
  uint32_t bytes;
} GridpointParameter;

// A variable in host memory.
typedef struct GridpointVariable {
  void* start;
  uint64_t bytes;
} GridpointVariable;

// Host memory that holds a module's static shared memory, one copy for the whole process; equal where there is none.
typedef struct GridpointStaticShared {
  void* start;
  void* end;
  // The variables there, in any order, between which nothing may be accessed; null where they are not told apart.
  const GridpointVariable* variables;
  const uint64_t* variable_count;
} GridpointStaticShared;

// A kernel compiled for the host: `entry` takes the address of the launch's parameter block, at a multiple of 8.
typedef struct GridpointKernel {
  const char* name;
  void (*entry)(const void* parameters);
  uint32_t parameter_bytes;
  uint32_t maximum_threads;
  // The parameters, at ascending offsets. With null the block is one parameter, or none where it is empty.
  const GridpointParameter* parameters;
  uint32_t parameter_count;
  // The static shared memory of the kernel's module; null for none.
  const GridpointStaticShared* static_shared;
} GridpointKernel;

// The kernels of one .cu file.
typedef struct GridpointModule {
  const char* name;
  const GridpointKernel* kernels;
  uint32_t kernel_count;
} GridpointModule;

const GridpointThread* gridpoint_thread(void);

// Host address of `bytes` bytes of the block's shared memory; faults when out of bounds or when `address` is not a multiple
// of `alignment`. The window of a block starts at an address other than zero, so that a null shared address faults.
void* gridpoint_shared(uint32_t address, uint32_t bytes, uint32_t alignment);
// The 32-bit shared address of a host address inside the block's shared memory (cvta.to.shared).
uint32_t gridpoint_shared_address(const void* pointer);
// First shared address of the dynamic shared memory; static shared memory lies behind it.
uint32_t gridpoint_shared_base(void);
// Bytes of the dynamic shared memory (%dynamic_smem_size).
uint32_t gridpoint_shared_bytes(void);

// Checks `bytes` bytes of global memory: inside one live allocation, aligned to `alignment`. `access` is 0 read, 1 write, 2 non-coherent read.
void gridpoint_global(const void* pointer, uint32_t bytes, uint32_t alignment, uint32_t access);

// bar.sync id, threads (threads == 0: the whole block).
void gridpoint_barrier(uint32_t id, uint32_t threads);
// bar.warp.sync mask.
void gridpoint_warp_sync(uint32_t mask);
// shfl.sync: mode 0 idx, 1 up, 2 down, 3 bfly; width 32.
uint32_t gridpoint_shuffle(uint32_t mode, uint32_t mask, uint32_t value, uint32_t operand);
// vote.sync.ballot.
uint32_t gridpoint_ballot(uint32_t mask, uint32_t predicate);

// ldmatrix.sync.aligned.m8n8.x{count}[.trans].shared.b16; count is 1, 2 or 4; `address` is this lane's row address.
void gridpoint_ldmatrix(uint32_t* registers, uint32_t count, uint32_t transposed, uint32_t address);
// m_tiles * n_tiles instructions mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 that share operands:
// d[m][n][4] += a[m][4] x b[n][2], issued in ascending (m, n) order.
void gridpoint_mma_bf16(float* d, const uint32_t* a, const uint32_t* b, uint32_t m_tiles, uint32_t n_tiles);

// cp.async.{ca,cg}.shared.global [address], [source], bytes, source_bytes: bytes is 4, 8 or 16; the rest is zero-filled.
void gridpoint_cp_async(uint32_t address, const void* source, uint32_t bytes, uint32_t source_bytes);
void gridpoint_cp_async_commit(void);
// cp.async.wait_group pending: returns when at most `pending` of the thread's newest groups are incomplete.
void gridpoint_cp_async_wait(uint32_t pending);

// atom.add.u32 / atom.max.u32 / atom.exch.b32 on global or shared memory; scope 0 block, 1 device, 2 system; order 0 relaxed, 1 acq_rel.
uint32_t gridpoint_atomic_add(uint32_t* pointer, uint32_t value, uint32_t scope, uint32_t order);
uint64_t gridpoint_atomic_add64(uint64_t* pointer, uint64_t value, uint32_t scope, uint32_t order);
uint32_t gridpoint_atomic_max(uint32_t* pointer, uint32_t value, uint32_t scope, uint32_t order);
uint32_t gridpoint_atomic_exchange(uint32_t* pointer, uint32_t value, uint32_t scope, uint32_t order);
// The other operations of atom, and these on 64 bits; each returns the value before. operation: 0 add, 1 min, 2 max (unsigned), 3 min,
// 4 max (signed), 5 and, 6 or, 7 xor, 8 exch, 9 inc, 10 dec, and on 32 bits 11 add.f32.
uint32_t gridpoint_atomic(uint32_t operation, uint32_t* pointer, uint32_t value, uint32_t scope, uint32_t order);
uint64_t gridpoint_atomic64(uint32_t operation, uint64_t* pointer, uint64_t value, uint32_t scope, uint32_t order);
// atom.cas.b32 and atom.cas.b64: the value before; `value` is stored where that is `expected`.
uint32_t gridpoint_atomic_compare_exchange(uint32_t* pointer, uint32_t expected, uint32_t value, uint32_t scope, uint32_t order);
uint64_t gridpoint_atomic_compare_exchange64(uint64_t* pointer, uint64_t expected, uint64_t value, uint32_t scope, uint32_t order);
// fence.acq_rel.{cta,gpu,sys}.
void gridpoint_fence(uint32_t scope);

// bar.arrive id, threads.
void gridpoint_barrier_arrive(uint32_t id, uint32_t threads);
// vote.sync: mode 0 any, 1 all.
uint32_t gridpoint_vote(uint32_t mode, uint32_t mask, uint32_t predicate);
// redux.sync: operation 0 add, 1 min, 2 max (unsigned), 3 min, 4 max (signed), 5 and, 6 or, 7 xor.
uint32_t gridpoint_reduce(uint32_t operation, uint32_t mask, uint32_t value);
// elect.sync: 1 in the lowest lane of the mask.
uint32_t gridpoint_elect(uint32_t mask);
// As gridpoint_mma_bf16, on float16 operands.
void gridpoint_mma_f16(float* d, const uint32_t* a, const uint32_t* b, uint32_t m_tiles, uint32_t n_tiles);
// stmatrix.sync.aligned.m8n8.x{count}[.trans].shared.b16.
void gridpoint_stmatrix(const uint32_t* registers, uint32_t count, uint32_t transposed, uint32_t address);
// A generic write to shared memory that went around the other functions: asynchronous operations see it after a proxy fence.
void gridpoint_shared_written(uint32_t address, uint32_t bytes);

// mbarrier.init and mbarrier.inval; eight bytes at a multiple of 8.
void gridpoint_mbarrier_init(uint32_t address, uint32_t count);
void gridpoint_mbarrier_invalidate(uint32_t address);
// mbarrier.expect_tx of `bytes`, then mbarrier.arrive by `arrivals`; either may be 0. The address may be one from gridpoint_map_shared.
void gridpoint_mbarrier_arrive(uint32_t address, uint32_t arrivals, uint32_t bytes);
// mbarrier.try_wait.parity (blocks != 0) or mbarrier.test_wait.parity: 1 once the phase of `parity` has completed.
uint32_t gridpoint_mbarrier_wait(uint32_t address, uint32_t parity, uint32_t blocks);
// fence.mbarrier_init.release.cluster and fence.proxy.async.
void gridpoint_fence_mbarrier_init(void);
void gridpoint_fence_proxy_async(void);

// cp.async.bulk from global to shared memory; `ranks` is 0, or the mask of .multicast::cluster.
void gridpoint_bulk_load(uint32_t target, const void* source, uint32_t bytes, uint32_t mbarrier, uint32_t ranks);
// cp.async.bulk from the own shared memory to the cluster's.
void gridpoint_bulk_copy_cluster(uint32_t target, uint32_t source, uint32_t bytes, uint32_t mbarrier);
// cp.async.bulk from shared to global memory.
void gridpoint_bulk_store(void* target, uint32_t source, uint32_t bytes);
// cp.async.bulk.tensor in both directions, with `rank` coordinates.
void gridpoint_tensor_load(uint32_t target, const void* map, uint32_t rank, const int32_t* coordinates, uint32_t mbarrier, uint32_t ranks);
void gridpoint_tensor_store(const void* map, uint32_t rank, const int32_t* coordinates, uint32_t source);
// cp.async.bulk.prefetch.tensor, or with rank 0 prefetch.tensormap: only checked.
void gridpoint_tensor_prefetch(const void* map, uint32_t rank, const int32_t* coordinates);
// cp.async.bulk.commit_group and cp.async.bulk.wait_group[.read].
void gridpoint_bulk_commit(void);
void gridpoint_bulk_wait(uint32_t pending, uint32_t read);

// %cluster_ctarank in the lower and %cluster_nctarank in the upper half.
uint32_t gridpoint_cluster_place(void);
// barrier.cluster.arrive.aligned (waits == 0) and barrier.cluster.wait.aligned.
void gridpoint_cluster_barrier(uint32_t waits);
// mapa.shared::cluster.
uint32_t gridpoint_map_shared(uint32_t address, uint32_t rank);
// Host address of checked shared memory, the own or, by an address from gridpoint_map_shared, the cluster's. access: 0 read, 1 write.
void* gridpoint_shared_cluster(uint32_t address, uint32_t bytes, uint32_t alignment, uint32_t access);

// wgmma.fence, wgmma.commit_group and wgmma.wait_group.
void gridpoint_wgmma_fence(void);
void gridpoint_wgmma_commit(void);
void gridpoint_wgmma_wait(uint32_t pending);
// wgmma.mma_async.m64n{columns}k16.f32: `a` is the address of four registers or a matrix descriptor. Flags: 1 float16 instead of bfloat16,
// 2 a in registers, 4 a is M-major, 8 b is N-major, 16 a negated, 32 b negated, 64 d takes part in the sum.
void gridpoint_wgmma(float* d, uint64_t a, uint64_t b, uint32_t columns, uint32_t flags);
// setmaxnreg.{inc,dec}.
void gridpoint_set_registers(uint32_t count, uint32_t increases);

// griddepcontrol.wait / griddepcontrol.launch_dependents.
void gridpoint_grid_dependency_wait(void);
void gridpoint_grid_launch_dependents(void);

// Gives other threads of the block a turn inside a wait loop.
void gridpoint_yield(void);
// Ends the launch with a fault report: a contract of the kernel was broken.
void gridpoint_fault(const char* reason);

// Told only by kernels that are compiled to tell of plain accesses (GRIDPOINT_TOLD).
//
// The thread's next access to shared memory stands at this place of the source.
void gridpoint_site(uint32_t site);
// The thread executes a transcendental operation: 0 ex2.approx, 1 exp, 2 log or log1p, 3 1 / sqrt, 4 a division.
void gridpoint_transcendental(uint32_t kind);
// memcpy for an access that the device was told of by another function.
void gridpoint_move(void* target, const void* source, uint32_t bytes);

#ifdef __cplusplus
}
#endif
