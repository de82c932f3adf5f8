// mine for large problems: pack, screen on the matrix unit, rescore. The anchors x candidates matrix is never whole.
#pragma once

#include "../common/plan_large.h"
#include "launch_wgmma.cuh"
#include "rescore.cuh"
#include "sample.cuh"
#include "screen.cuh"
#include "screen_scores.cuh"

namespace tla::cuda {

// Calls f(pointer, count) for every array of a search's workspace, but for what a BLAS multiplies.
template <class F>
void each_array(LargeParams& p, const LargePlan& plan, const F& f) {
  const SearchParams& s = p.search;
  each_list_array(p, plan.anchor_chunk, plan.capacity, plan.keep_counts, f);
  f(p.center.factors, kSampled);
  f(p.center.squares, kSampled);
  f(p.center.mean, plan.padded);
  f(p.center.used, 1);
  f(p.candidates, s.m);
  f(p.place, s.labels.exclude != nullptr ? s.m : 0);
  f(p.classes, plan.anchor_chunk);
  f(p.closed, 1);
  const int64_t tiles = plan.screen == Screen::kWgmma ? ceil_div(s.m, WgmmaTile::kColumns) : 0;
  f(p.tile_bounds, tiles);
  f(p.tile_columns, tiles * WgmmaTile::kColumns);
}

TLA_KERNEL(kThreads, 4) pack_kernel(const PackParams p) {
  const double mean2 = square_of_center(p.center);
  if (block_id() == 0 && thread_id() == 0) *p.center.used = mean2 > 0;
  each_row_of_warp(0, p.count, [&](int64_t i) { pack_row<PackedRows>(p, i, mean2); });
}

template <class F>
void with_slots(const SearchParams& s, const F& f) {
  const auto targets = [&]<bool kSemihard>() {
    s.targets() ? f.template operator()<kSemihard, true>() : f.template operator()<kSemihard, false>();
  };
  s.semihard() ? targets.template operator()<true>() : targets.template operator()<false>();
}

// `p` is of all anchors, with the order of its pool, and its workspace for one chunk of them. multiply(anchors, first,
// columns) puts the products of the packed anchors with packed candidates [first, first + columns) somewhere, row by
// row, and says where. `hopper`: what launch_screen_wgmma takes.
template <class Launch, class Multiply, class Hopper>
void launch_mine_large(LargeParams p, const LargePlan& plan, Gpu gpu, const Launch& launch, const Multiply& multiply,
                       const Hopper& hopper) {
  const SearchParams all = p.search;
  const auto warps = [&](int64_t rows) { return plan_warps(rows, gpu); };
  const auto pack = [&](const Rows& rows, int64_t count, const int64_t* order, int* place, uint16_t* to, Side* sides) {
    const PackParams packing{rows, count, all.d, p.padded, all.metric, p.center, !p.fast, order, place, to, sides};
    if (count > 0) launch(pack_kernel, warps(count), packing);
  };
  p.padded = plan.padded;
  p.capacity = plan.capacity;
  p.error = p.fast ? ScoreError{} : score_error(all.metric, all.d, p.padded);
  p.center.rows = all.candidates, p.center.count = all.m, p.center.metric = all.metric;
  p.center.d = all.d, p.center.padded = p.padded;
  if (all.m > 0) {
    launch(sample_kernel, warps(kSampled), p.center);
    launch(mean_kernel, LaunchShape{ceil_div(p.padded, kThreads)}, p.center);
  } else {
    p.center.mean = nullptr;
  }
  pack(all.candidates, all.m, p.order, all.labels.exclude != nullptr ? p.place : nullptr, p.packed_candidates,
       p.candidates);
  for (int64_t first = 0; first < all.b; first += plan.anchor_chunk) {
    LargeParams part = p;
    part.search = anchors_of(all, first, std::min(plan.anchor_chunk, all.b - first));
    part.distance += first;
    part.index += first;
    part.rescored += plan.keep_counts ? first : 0;
    const int64_t rows = part.search.b;
    pack(part.search.anchor, rows, nullptr, nullptr, p.packed_anchor, p.anchor);
    with_screened_metric(all.metric, [&]<class Op>() { launch(begin_rows_kernel<Op>, warps(rows), part); });
    if (plan.screen == Screen::kMma && all.m > 0)
      launch(screen_kernel, LaunchShape{ceil_div(rows, ScreenTile::kRows) * ceil_div(all.m, ScreenTile::kRows)}, part);
    if (plan.screen == Screen::kWgmma) launch_screen_wgmma(part, gpu, launch, hopper);
    for (part.first = 0; plan.screen == Screen::kBlas && part.first < all.m; part.first += plan.candidate_chunk) {
      part.columns = static_cast<int>(std::min(plan.candidate_chunk, all.m - part.first));
      part.stride = part.columns;
      part.scores = multiply(rows, part.first, part.columns);
      with_slots(all, [&]<bool kSemihard, bool kTargets>() {
        launch(screen_scores_kernel<kSemihard, kTargets>, warps(rows), part);
      });
    }
    launch_rescore(part, gpu, launch);
  }
}

}  // namespace tla::cuda
