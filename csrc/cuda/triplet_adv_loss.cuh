// triplet_adv_loss: each anchor's negative mined from the pool, and the triplet loss with it, in one launch.
#pragma once

#include "mine.cuh"
#include "triplet.cuh"

namespace tla::cuda {

struct TripletAdvLossParams {
  SearchParams search;
  TripletOptions options;
  void* loss;               // (b) or one
  int64_t* index;           // (b)
  void* positive_distance;  // (b, k)
  void* negative_distance;  // (b)
  double* norms;            // workspace (b): of a row's anchor and positives together, and of a random pick
};

template <class Op, class T, class S>
TLA_KERNEL(kThreads, kBlocksAtOnce<T>)
triplet_adv_loss_kernel(const TripletAdvLossParams p) {
  const SearchParams& s = p.search;
  const TripletOptions& o = p.options;
  const int64_t count = s.positive.count;
  T* to_positive = static_cast<T*>(p.positive_distance);
  search<Op, T, S>(s, [&] {
    each_row_of_warp(s.plan.teams * s.plan.team, s.b, [&](int64_t i) {
      const Rows positives = s.positive.of(i);
      double norm = 0;
      for (int64_t k = 0; k < count; ++k) {
        const Pair<T> pair = warp_pair<Op, T>(s.metric, s.anchor, i, positives, k, s.d);
        if (lane_id() == 0) to_positive[i * count + k] = pair.distance;
        if (k == 0) norm = norm_of(o.norm, pair.sums.x2, s.d);
        norm += norm_of(o.norm, pair.sums.y2, s.d);
      }
      if (count == 0) norm = norm_of(o.norm, warp_pair<Op, T>(s.metric, s.anchor, i, s.anchor, i, s.d).sums.x2, s.d);
      if (s.random()) {
        const double square = pick_at_random<Op, T>(s, i);
        if (!(square < 0)) norm += norm_of(o.norm, square, s.d);
      }
      if (lane_id() == 0) p.norms[i] = norm;
    });
  });
  if (block_id() != 0) return;
  reduce<T>(o, s.b, p.loss, [&](int64_t i) {
    const Pick<T> pick = pick_of<T>(s, i);
    p.index[i] = pick.index;
    static_cast<T*>(p.negative_distance)[i] = pick.distance;
    double loss = 0;
    if (pick.index >= 0) loss = o.weight * triplet_term(to_positive + i * count, count, pick.distance, o.margin);
    if (o.norm_weight != 0) {
      double norm = p.norms[i];
      if (pick.index >= 0 && s.squares != nullptr) norm += norm_of(o.norm, s.squares[pick.index], s.d);
      loss += o.norm_weight * norm;
    }
    return loss;
  });
}

template <class Launch>
void launch_triplet_adv_loss(const TripletAdvLossParams& p, bool wide, const Launch& launch) {
  with_shape(p.search.metric, wide, p.search.plan.anchor_tile,
             [&]<class Op, class T, class S>() { launch(triplet_adv_loss_kernel<Op, T, S>, p.search.plan.shape, p); });
}

}  // namespace tla::cuda
