// triplet_loss: the hinge with norm decay over given or picked triplets, a warp a row, in one launch.
#pragma once

#include "mine.cuh"
#include "triplet.cuh"

namespace tla::cuda {

struct TripletLossParams {
  Triplets triplets;
  TripletOptions options;
  void* loss;               // (b) or one
  void* positive_distance;  // (b, k)
  void* negative_distance;  // (b)
  double* rows;             // workspace (b): the rows' losses
};

template <class Op, class T>
TLA_KERNEL(kThreads, kBlocksAtOnce<T>)
triplet_loss_kernel(const TripletLossParams p) {
  const Triplets& t = p.triplets;
  const TripletOptions& o = p.options;
  const int64_t count = t.positives();
  constexpr auto kInfinity = Key<T>::kInfinity;
  each_row_of_warp(0, t.b, [&](int64_t i) {
    T* to_positive = static_cast<T*>(p.positive_distance) + i * count;
    T to_negative = from_bits(kInfinity);
    double loss = 0;
    if (t.left_out(i)) {
      // The distances there are stay with whoever mined them.
      if (lane_id() == 0 && count > 0) to_positive[0] = from_bits(kInfinity);
    } else {
      const bool has_negative = t.negative_of(i) >= 0;
      double norm = 0, triplet = 0;
      for (int64_t k = -1; k < count; ++k) {
        const Pair<T> pair = t.pair<Op, T>(o.metric, i, k);
        if (k < 0) {
          if (has_negative) to_negative = pair.distance;
          norm = norm_of(o.norm, pair.sums.x2, t.d);
        } else {
          if (lane_id() == 0) to_positive[k] = pair.distance;
          const double v = violation(pair.distance, to_negative, o.margin);
          if (has_negative && hinge_active(v)) triplet += v;
        }
        if (k >= 0 || has_negative) norm += norm_of(o.norm, pair.sums.y2, t.d);
      }
      loss = o.weight * triplet;
      if (o.norm_weight != 0) loss += o.norm_weight * norm;
    }
    if (lane_id() == 0) {
      static_cast<T*>(p.negative_distance)[i] = to_negative;
      p.rows[i] = loss;
    }
  });
  grid_sync();
  if (block_id() == 0) reduce<T>(o, t.b, p.loss, [&](int64_t i) { return p.rows[i]; });
}

template <class Launch>
void launch_triplet_loss(const TripletLossParams& p, bool wide, Gpu gpu, const Launch& launch) {
  const LaunchShape shape = plan_rows(p.triplets.b, wide, gpu);
  with_sums(p.options.metric, wide, [&]<class Op, class T>() { launch(triplet_loss_kernel<Op, T>, shape, p); });
}

}  // namespace tla::cuda
