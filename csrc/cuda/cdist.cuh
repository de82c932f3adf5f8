// cdist: the full matrix of distances by tiles, with the bits that mining returns; and its backward, a block a row.
#pragma once

#include "gradient.cuh"
#include "mine.cuh"

namespace tla::cuda {

struct CdistParams {
  // (n, b, d) and (n, m, d): the first matrices, and how many elements lie between one and the next.
  Rows x1, x2;
  int64_t step1 = 0, step2 = 0;
  int64_t n = 0, b = 0, m = 0;
  int d = 0;
  Metric metric;
  void* out;  // (n, b, m)
};

template <class Op, class T, class S>
TLA_KERNEL(kThreads, kBlocksAtOnce<T>)
cdist_kernel(const CdistParams p) {
  TLA_SHARED(T, tile, S::kRows * S::kStride);
  TLA_SHARED(T, shared, S::kPartSize);
  const int64_t tiles_b = (p.b + S::kA - 1) / S::kA, tiles_m = (p.m + S::kC - 1) / S::kC;
  for (int64_t at = block_id(); at < p.n * tiles_b * tiles_m; at += grid_blocks()) {
    const int64_t n = at / (tiles_b * tiles_m), b = at / tiles_m % tiles_b * S::kA, m = at % tiles_m * S::kC;
    const Rows x1 = shifted(p.x1, n, p.step1), x2 = shifted(p.x2, n, p.step2);
    const int rows = static_cast<int>(p.b - b < S::kA ? p.b - b : S::kA);
    const int columns = static_cast<int>(p.m - m < S::kC ? p.m - m : S::kC);
    const bool norms = is_cosine(p.metric);
    PairTile<Op, T, S> pairs({x1, x2, b, m, rows, columns, p.d}, norms, tile, shared);
    pairs.run(0, kParts, true);
    block_sync();
    for (int at_pair = thread_id(); at_pair < S::kA * S::kC; at_pair += kThreads) {
      const int i = at_pair / S::kC, j = at_pair % S::kC;
      const T* squares = shared + S::kA * S::kSums;
      const Sums<T> sums{shared[i * S::kSums + j], norms ? squares[i] : T(0), norms ? squares[S::kA + j] : T(0)};
      const bool there = i < rows && j < columns;
      const T distance = lane_distance(p.metric, sums, there, x1, b + i, x2, m + j, p.d);
      if (there) static_cast<T*>(p.out)[(n * p.b + b + i) * p.m + m + j] = distance;
    }
    block_sync();  // before the next tile's sums
  }
}

struct CdistBackwardParams {
  // The gradient by x, against all rows of y.
  Rows x, y, upstream;  // upstream: [row of x][row of y], transposed by its strides where x is cdist's second argument
  int64_t step_x = 0, step_y = 0, step_upstream = 0;
  int64_t n = 0, b = 0, m = 0;
  int d = 0;
  Metric metric;
  Output grad;  // (n, b, d)
};

template <class Op, class T>
TLA_KERNEL(kThreads, kBlocksAtOnce<T>)
cdist_backward_kernel(const CdistBackwardParams p) {
  constexpr int kTurn = 32;  // pairs whose weights are at hand at once
  TLA_SHARED(PairWeights, weights, kTurn);
  for (int64_t at = block_id(); at < p.n * p.b; at += grid_blocks()) {
    const int64_t n = at / p.b, i = at % p.b;
    const Rows x = shifted(p.x, n, p.step_x), y = shifted(p.y, n, p.step_y);
    const Rows upstream = shifted(p.upstream, n, p.step_upstream);
    for (int64_t first = 0; first < p.d; first += 4 * kThreads) {
      const int64_t k = first + 4 * thread_id();
      const Pack<T, 4> own = pack_of<T>(x, i, k, p.d);
      double sum[4] = {};
      for (int64_t j0 = 0; j0 < p.m; j0 += kTurn) {
        const int turn = static_cast<int>(p.m - j0 < kTurn ? p.m - j0 : kTurn);
        for (int j = thread_id() / kWarp; j < turn; j += kThreads / kWarp) {
          const double g = element<double>(upstream, i, j0 + j);
          PairWeights w;
          if (g != 0)
            w = weights_of<T>(p.metric, warp_pair<Op, T>(p.metric, x, i, y, j0 + j, p.d).sums, x, i, y, j0 + j, p.d, g);
          if (lane_id() == 0) weights[j] = w;
        }
        block_sync();
        for (int j = 0; j < turn && k < p.d; ++j) {
          const Pack<T, 4> other = pack_of<T>(y, j0 + j, k, p.d);
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[e] += weights[j].to_x(own.at[e], other.at[e], k + e);
        }
        block_sync();  // before the next turn's weights
      }
      if (k < p.d) store4(p.grad, n * p.b + i, k, p.d, sum);
    }
  }
}

template <class Launch>
void launch_cdist(const CdistParams& p, bool wide, Gpu gpu, const Launch& launch) {
  const CdistPlan plan = plan_cdist(p.n, p.b, p.m, wide, gpu);
  if (plan.shape.blocks == 0) return;
  with_shape(p.metric, wide, plan.anchor_tile,
             [&]<class Op, class T, class S>() { launch(cdist_kernel<Op, T, S>, plan.shape, p); });
}

template <class Launch>
void launch_cdist_backward(const CdistBackwardParams& p, bool wide, Gpu gpu, const Launch& launch) {
  const LaunchShape shape = plan_cdist_backward(p.n, p.b, gpu);
  if (shape.blocks == 0) return;
  with_sums(p.metric, wide, [&]<class Op, class T>() { launch(cdist_backward_kernel<Op, T>, shape, p); });
}

}  // namespace tla::cuda
