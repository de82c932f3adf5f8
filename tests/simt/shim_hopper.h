// The names of csrc/cuda/hopper.cuh under a host compiler. Copies and products are asynchronous: what they are to write
// holds poison from when they are asked for until the barrier's phase ends, or the wait; what they read is read at any
// time in between. Shared memory is dynamic_shared(), whose addresses are as on the device, aligned by 16 and no more.
#pragma once

#include "shim.h"

namespace tla::cuda {

// A matrix of halves, of whose rows and columns a box is copied at once.
struct TensorMap {
  const uint16_t* data = nullptr;
  int64_t rows = 0, columns = 0, stride = 0;
  int box_rows = 0, box_columns = 0;
};

}  // namespace tla::cuda

namespace tla::simt {

uint32_t shared_address(const void* shared);
int cluster_rank();
void barrier_init(uint64_t* barrier, int arrivals, Site site);
void fence_barrier_init();
void barrier_expect(uint64_t* barrier, int bytes, Site site);
void barrier_arrive(uint64_t* barrier, int rank, Site site);
void barrier_wait(uint64_t* barrier, int parity, Site site);
void load_tile(void* shared, const cuda::TensorMap& map, int row, int column, uint64_t* barrier, int blocks, Site site);
void share_registers(int registers, Site site);
void wgmma_fence(Site site);
void wgmma_commit(Site site);
void wgmma_wait(int groups, Site site);
void wgmma_m64n256k16_f16(float* d, uint64_t a, uint64_t b, bool add, Site site);

}  // namespace tla::simt

namespace tla::cuda {

inline uint32_t shared_address(const void* shared) { return simt::shared_address(shared); }
inline int cluster_rank() { return simt::cluster_rank(); }
inline void barrier_init(uint64_t* barrier, int arrivals, Site site = Site::current()) {
  simt::barrier_init(barrier, arrivals, site);
}
inline void fence_barrier_init() { simt::fence_barrier_init(); }
inline void barrier_expect(uint64_t* barrier, int bytes, Site site = Site::current()) {
  simt::barrier_expect(barrier, bytes, site);
}
inline void barrier_arrive(uint64_t* barrier, int rank, Site site = Site::current()) {
  simt::barrier_arrive(barrier, rank, site);
}
inline void barrier_wait(uint64_t* barrier, int parity, Site site = Site::current()) {
  simt::barrier_wait(barrier, parity, site);
}
inline void load_tile(void* shared, const TensorMap& map, int row, int column, uint64_t* barrier,
                      Site site = Site::current()) {
  simt::load_tile(shared, map, row, column, barrier, 1 << simt::cluster_rank(), site);
}
inline void load_tile(void* shared, const TensorMap& map, int row, int column, uint64_t* barrier, int blocks,
                      Site site = Site::current()) {
  simt::load_tile(shared, map, row, column, barrier, blocks, site);
}
inline void prefetch_map(const TensorMap&) {}
template <int registers>
void take_registers(Site site = Site::current()) {
  simt::share_registers(registers, site);
}
template <int registers>
void give_registers(Site site = Site::current()) {
  simt::share_registers(registers, site);
}
inline void wgmma_fence(Site site = Site::current()) { simt::wgmma_fence(site); }
inline void wgmma_commit(Site site = Site::current()) { simt::wgmma_commit(site); }
template <int groups>
void wgmma_wait(Site site = Site::current()) {
  simt::wgmma_wait(groups, site);
}
inline void unknown(float (&)[128]) {}
inline void wgmma_m64n256k16_f16(float (&d)[128], uint64_t a, uint64_t b, bool add, Site site = Site::current()) {
  simt::wgmma_m64n256k16_f16(d, a, b, add, site);
}

}  // namespace tla::cuda
