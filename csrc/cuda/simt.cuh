// What kernel bodies ask of the machine: indices, barriers, warp exchanges, clusters, the grid, half precision. nvcc
// gets the hardware's; a host compiler gets tests/simt/shim.h, which runs the same bodies on fibers. Blocks and grids
// are one-dimensional, warp operations take all 32 lanes.
#pragma once

#include <cstdint>

#ifndef __CUDACC__

// Provides every name below, with a default argument `std::source_location site` at the end of each collective, so that
// lanes or threads that meet at different places are found out.
#include "shim.h"

#else

#include <cooperative_groups.h>
#include <cuda_fp16.h>

#define TLA_DEVICE __device__ __forceinline__
// A kernel for blocks of `threads`, of which at least `blocks` fit on a multiprocessor.
#define TLA_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
// `count` elements of shared memory, not initialised, of this place in the code.
#define TLA_SHARED(type, name, count) __shared__ __align__(16) type name[count]
// Shared memory of as many bytes as the launch says. Nothing is promised beyond 16 bytes of alignment.
#define TLA_DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]

namespace tla::cuda {

TLA_DEVICE int thread_id() { return threadIdx.x; }
TLA_DEVICE int block_id() { return blockIdx.x; }
TLA_DEVICE int grid_blocks() { return gridDim.x; }
TLA_DEVICE int lane_id() { return threadIdx.x % 32; }

TLA_DEVICE void block_sync() { __syncthreads(); }
TLA_DEVICE void warp_sync() { __syncwarp(); }

constexpr unsigned kAllLanes = 0xffffffffu;

template <class T>
TLA_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}
template <class T>
TLA_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}
TLA_DEVICE unsigned ballot(bool condition) { return __ballot_sync(kAllLanes, condition); }

// A cluster: consecutive blocks that see each other's shared memory. Blocks without clusters have nobody to wait for.
TLA_DEVICE void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  // Not the .aligned forms: lanes of a warp may come one after the other.
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#else
  __trap();
#endif
}
// Where block `rank` of the cluster has what this block has at `shared`.
template <class T>
TLA_DEVICE const T* cluster_peer(const T* shared, int rank) {
#if __CUDA_ARCH__ >= 900
  uint64_t address;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(reinterpret_cast<uint64_t>(shared)), "r"(rank));
  return reinterpret_cast<const T*>(address);
#else
  __trap();
  return shared;
#endif
}

// All blocks of a cooperative launch wait for each other, and see what each wrote to global memory before.
TLA_DEVICE void grid_sync() { cooperative_groups::this_grid().sync(); }

// Relaxed: they order nothing but themselves. They return what was there.
TLA_DEVICE uint32_t atomic_add(uint32_t* p, uint32_t value) { return atomicAdd(p, value); }
TLA_DEVICE uint64_t atomic_min(uint64_t* p, uint64_t value) {
  return atomicMin(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(value));
}
TLA_DEVICE uint32_t atomic_max(uint32_t* p, uint32_t value) { return atomicMax(p, value); }
// What others change by atomics, as it was some time ago.
TLA_DEVICE uint32_t atomic_load(const uint32_t* p) {
  uint32_t value;
  asm volatile("ld.relaxed.gpu.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}

// d += a b for a (16, 16) by rows, b (16, 8) by columns, in halves; which lane holds what: PTX ISA, "Matrix Fragments
// for mma.m16n8k16 with floating point type".
TLA_DEVICE void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
TLA_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// d += a b for a (16, 8), b (8, 8) in tf32: floats whose last 13 bits are 0.
TLA_DEVICE void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
TLA_DEVICE uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
// Four 8 x 8 matrices of halves from shared memory: lanes 8 i to 8 i + 7 name the rows of matrix i, 16 bytes each; a
// lane gets of each matrix the columns 2 (lane % 4) and the next of row lane / 4.
TLA_DEVICE void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}
// 16 bytes from global to shared memory, or zeros, that are there once this thread has waited for their group. The
// others see them after a barrier.
TLA_DEVICE void copy_async(void* shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(there ? 16 : 0)
               : "memory");
}
// The first `bytes` of 16, and zeros behind them.
TLA_DEVICE void copy_async(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
TLA_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most the last `groups` this thread committed are under way.
template <int groups>
TLA_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

TLA_DEVICE int first_set(unsigned bits) { return __ffs(bits) - 1; }
TLA_DEVICE int count_set(unsigned bits) { return __popc(bits); }

TLA_DEVICE float half_to_float(uint16_t bits) {
  __half_raw raw;
  raw.x = bits;
  return __half2float(raw);
}
TLA_DEVICE uint16_t float_to_half(float value) { return __half_raw(__float2half_rn(value)).x; }

// Products and sums are fused here and nowhere else: nvcc is told not to contract the rest.
TLA_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
TLA_DEVICE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

TLA_DEVICE uint32_t bits_of(float value) { return __float_as_uint(value); }
TLA_DEVICE uint64_t bits_of(double value) { return __double_as_longlong(value); }
TLA_DEVICE float from_bits(uint32_t bits) { return __uint_as_float(bits); }
TLA_DEVICE double from_bits(uint64_t bits) { return __longlong_as_double(bits); }

}  // namespace tla::cuda

#endif

namespace tla::cuda {

// What is moved at once; elements of 2 bytes are carried as their bits.
template <class T, int n>
struct alignas(sizeof(T) * n < 16 ? sizeof(T) * n : 16) Pack {
  T at[n];
};

constexpr int kWarp = 32;

// The same number, of which the compiler knows nothing: addresses that follow from it are not computed ahead of a loop,
// into registers that the loop needs.
TLA_DEVICE int unknown(int value) {
#ifdef __CUDACC__
  asm volatile("" : "+r"(value));
#endif
  return value;
}

TLA_DEVICE float bfloat16_to_float(uint16_t bits) { return from_bits(static_cast<uint32_t>(bits) << 16); }
// To the nearest, ties to even; NaN stays NaN.
TLA_DEVICE uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace tla::cuda
