// mine: the picked candidate of each anchor and its distance, in one launch.
#pragma once

#include <stdexcept>

#include "search.cuh"

namespace tla::cuda {

struct MineParams {
  SearchParams search;
  void* distance;  // (b)
  int64_t* index;  // (b)
};

// A block behind the teams works on rows, a warp each: f(row).
template <class F>
TLA_DEVICE void each_row_of_warp(int64_t first_block, int64_t rows, const F& f) {
  const int64_t warps = kThreads / kWarp;
  const int64_t step = (grid_blocks() - first_block) * warps;
  for (int64_t i = (block_id() - first_block) * warps + thread_id() / kWarp; i < rows; i += step) f(i);
}

template <class Op, class T, class S>
TLA_KERNEL(kThreads, kBlocksAtOnce<T>)
mine_kernel(const MineParams p) {
  const SearchParams& s = p.search;
  search<Op, T, S>(s, [&] {
    if (s.random()) each_row_of_warp(s.plan.teams * s.plan.team, s.b, [&](int64_t i) { pick_at_random<Op, T>(s, i); });
  });
  for (int64_t i = int64_t{block_id()} * kThreads + thread_id(); i < s.b; i += int64_t{grid_blocks()} * kThreads) {
    const Pick<T> pick = pick_of<T>(s, i);
    static_cast<T*>(p.distance)[i] = pick.distance;
    p.index[i] = pick.index;
  }
}

// Calls f<Op, T>() with what a problem needs.
template <class F>
void with_sums(Metric metric, bool wide, const F& f) {
  const auto typed = [&]<class Op>() {
    wide ? f.template operator()<Op, double>() : f.template operator()<Op, float>();
  };
  if (is_cosine(metric))
    typed.template operator()<Dot>();
  else if (metric == Metric::kEuclidean)
    typed.template operator()<SquaredDifference>();
  else
    typed.template operator()<MaxDifference>();
}

// Calls f<Op, T, Shape>(); double is computed by one shape alone.
template <class F>
void with_shape(Metric metric, bool wide, int anchor_tile, const F& f) {
  with_sums(metric, wide, [&]<class Op, class T>() {
    if (anchor_tile != 32 && !(sizeof(T) == 4 && anchor_tile == 64)) throw std::logic_error("no kernel for this tile");
    if constexpr (sizeof(T) == 4) {
      if (anchor_tile == 64) return f.template operator()<Op, T, Shape<T, 64>>();
    }
    f.template operator()<Op, T, Shape<T, 32>>();
  });
}

template <class Launch>
void launch_mine(const MineParams& p, bool wide, const Launch& launch) {
  with_shape(p.search.metric, wide, p.search.plan.anchor_tile,
             [&]<class Op, class T, class S>() { launch(mine_kernel<Op, T, S>, p.search.plan.shape, p); });
}

}  // namespace tla::cuda
