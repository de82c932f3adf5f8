// The wgmma screen from packed rows: what its tiles of candidates have in common, and the launch.
#pragma once

#include "screen_wgmma.cuh"

namespace tla::cuda {

// A warp a tile of candidates.
TLA_DEVICE void bound_tile(const WgmmaParams& w, int64_t tile) {
  const LargeParams& p = w.large;
  Side most{0, 0, 0, 0};
#pragma unroll 1
  for (int n = lane_id(); n < WgmmaTile::kColumns; n += kWarp) {
    const int64_t column = tile * WgmmaTile::kColumns + n;
    TileColumn c{0, 0};
    if (column >= *p.closed && column < p.search.m) {
      const Side side = p.candidates[column];
      c = {side.weight, side.offset};
      if (comparable(side)) {
        most.norm = std::fmax(most.norm, side.norm);
        most.residual = std::fmax(most.residual, side.residual);
        most.offset = std::fmin(most.offset, side.offset);
      } else {
        most.weight = 1;
        c.offset = side.residual;
      }
    }
    p.tile_columns[tile * WgmmaTile::kColumns + n] = c;
  }
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    most.norm = std::fmax(most.norm, shuffle_xor(most.norm, mask));
    most.residual = std::fmax(most.residual, shuffle_xor(most.residual, mask));
    most.offset = std::fmin(most.offset, shuffle_xor(most.offset, mask));
  }
  const bool odd = ballot(most.weight != 0) != 0;
  most.weight = odd ? from_bits(Key<float>::kNaN) : 0;
  if (lane_id() == 0) w.large.tile_bounds[tile] = most;
}

TLA_KERNEL(kThreads, 4) bound_tiles_kernel(const TLA_GRID_CONSTANT WgmmaParams w) {
  each_row_of_warp(0, w.strips.tiles, [&](int64_t tile) { bound_tile(w, tile); });
}

// Calls f(kernel, whether it takes offsets) for all that a metric has.
template <class F>
void with_wgmma_kernels(Metric metric, const F& f) {
  if (metric == Metric::kAngular)
    f(screen_wgmma_kernel<Metric::kAngular, true>, true), f(screen_wgmma_kernel<Metric::kAngular, false>, false);
  else if (metric == Metric::kCosine)
    f(screen_wgmma_kernel<Metric::kCosine, true>, true), f(screen_wgmma_kernel<Metric::kCosine, false>, false);
  else
    f(screen_wgmma_kernel<Metric::kEuclidean, true>, true);
}
inline LaunchShape wgmma_shape(const SearchParams& s, int64_t clusters, bool offsets) {
  return {.blocks = clusters * WgmmaTile::kCluster,
          .cluster = WgmmaTile::kCluster,
          .threads = WgmmaTile::kThreads,
          .shared_bytes = WgmmaShared::bytes(s.slots(), offsets)};
}

// hopper.map(data, rows, columns, rows of a box, columns of a box) makes a map; hopper.clusters(kernel, shape) says how
// many clusters run at once.
template <class Launch, class Hopper>
void launch_screen_wgmma(const LargeParams& p, Gpu gpu, const Launch& launch, const Hopper& hopper) {
  using S = WgmmaTile;
  const SearchParams& s = p.search;
  if (s.b == 0 || s.m == 0) return;
  WgmmaParams w;
  w.large = p;
  w.anchor = hopper.map(p.packed_anchor, s.b, p.padded, S::kBoxRows, S::kStep);
  w.candidates = hopper.map(p.packed_candidates, s.m, p.padded, S::kBoxRows, S::kStep);
  w.strips.tiles = static_cast<int>(ceil_div(s.m, S::kColumns));
  launch(bound_tiles_kernel, plan_warps(w.strips.tiles, gpu), w);
  with_wgmma_kernels(s.metric, [&](auto kernel, bool offsets) {
    const int64_t clusters = hopper.clusters(kernel, wgmma_shape(s, 1, offsets));
    w.strips = plan_strips(s.b, s.m, p.padded, clusters);
    launch(kernel, wgmma_shape(s, std::min<int64_t>(clusters, int64_t{w.strips.pairs} * w.strips.strips), offsets), w);
  });
}

}  // namespace tla::cuda
