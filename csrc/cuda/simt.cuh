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
