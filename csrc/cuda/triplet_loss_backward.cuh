// triplet_loss_backward, a block for each anchor; distances are computed again from the rows. Where anchors are few one
// launch is all: an anchor owns the pool rows that it was the first to pick, and further blocks fill the rows nobody
// picked with zeros. Where they are many, pools are cleared, picks sorted, and shares added up by launches of their
// own.
#pragma once

#include "mine.cuh"
#include "shares.cuh"
#include "triplet.cuh"

namespace tla::cuda {

struct TripletBackwardParams {
  Triplets triplets;
  TripletOptions options;
  Rows upstream;                                     // (b, 1), or one element for all rows
  Output grad_anchor, grad_positive, grad_negative;  // (b, d); (b, k, d) or the pool's; the pool's or (b, d)
  bool sparse = false;                               // the negatives' gradients stand in the rows of their owners
  int64_t positive_pool = 0, negative_pool = 0;      // rows of the pools that are picked from
  int64_t anchor_blocks = 0;
  // Workspace: (b, 1 + k) pairs; (b, k) and (b) weights of the rows' own pairs, and for each pool (b) weights and (b)
  // links from an anchor to the next that picked the same row, both written by the row's owner alone.
  void* pairs = nullptr;
  PairWeights *to_positive = nullptr, *to_negative = nullptr;
  PairWeights* shares[2] = {nullptr, nullptr};
  int64_t* next[2] = {nullptr, nullptr};
  // (b) picks, to be sorted, of each pool whose rows have no owners; and the sums of pieces of shares.
  int64_t* picks[2] = {nullptr, nullptr};
  double* pieces = nullptr;
};

// Bytes of a pair in the workspace, whatever it is computed in.
constexpr int64_t kPairBytes = sizeof(Pair<double>);

enum Pool { kPositives, kNegatives };

inline int64_t bytes_of_pieces(int64_t b, int64_t d) {
  return b / kSharesOfPiece * d * static_cast<int64_t>(sizeof(double));
}

template <class Op, class T>
struct TripletBackward {
  const TripletBackwardParams& p;
  const Triplets& t;
  const TripletOptions& o;

  TLA_DEVICE explicit TripletBackward(const TripletBackwardParams& params)
      : p(params), t(params.triplets), o(params.options) {}

  TLA_DEVICE int warp() const { return thread_id() / kWarp; }
  TLA_DEVICE double upstream(int64_t i) const {
    const double g = element<double>(p.upstream, i, 0);
    return o.reduction == Reduction::kMean ? g / t.b : g;
  }
  TLA_DEVICE double norm_slope(double square, double g) const {
    if (o.norm_weight == 0) return 0;
    g *= o.norm_weight;
    if (o.norm == Norm::kMeanSquare) return 2 * g / t.d;
    return square == 0 ? 0 : g / std::sqrt(square);
  }
  TLA_DEVICE int64_t pick(Pool pool, int64_t i) const {
    if (t.left_out(i)) return -1;
    return pool == kPositives ? t.positive_of(i, 0) : t.negative_of(i);
  }
  TLA_DEVICE const int64_t* indices(Pool pool) const {
    return pool == kPositives ? t.positive_index : t.negative_index;
  }

  // Of what an anchor sends to the row it picked, as its own block knows it.
  TLA_DEVICE const PairWeights* own_weights(Pool pool) const {
    return pool == kPositives ? p.to_positive : p.to_negative;
  }

  // The weights of anchor i and its k-th positive, or for k = -1 its negative, and the anchor's squared norm; by a
  // warp. pair_of(n) is the n-th pair, numbered alike.
  template <class F>
  TLA_DEVICE PairWeights weights(int64_t i, int64_t k, double& anchor_square, const F& pair_of) const {
    const bool has_negative = t.negative_of(i) >= 0;
    Pair<T> negative{}, wanted{};
    int64_t hinges = 0;
    for (int64_t n = -1; n < t.positives(); ++n) {
      if (k >= 0 && n >= 0 && n != k) continue;
      const Pair<T> pair = pair_of(n);
      if (n < 0)
        negative = pair;
      else
        hinges += hinge_active(violation(pair.distance, negative.distance, o.margin));
      if (n == k) wanted = pair;
    }
    anchor_square = negative.sums.x2;
    const double g = upstream(i);
    PairWeights w;
    if (has_negative && hinges > 0) {
      const Rows rows = k < 0 ? t.negative : t.positive_rows(i);
      w = weights_of<T>(o.metric, wanted.sums, t.anchor, i, rows, k < 0 ? t.negative_of(i) : t.positive_of(i, k), t.d,
                        k < 0 ? -g * o.weight * hinges : g * o.weight);
    }
    if (k >= 0 || has_negative) w.norm = norm_slope(wanted.sums.y2, g);
    return w;
  }

  // Anchor i's own row, its own positives, and the pool rows it owns.
  TLA_DEVICE void differentiate(int64_t i) const {
    TLA_SHARED(double, anchor_norm, 1);
    const int64_t count = t.positives();
    const bool out = t.left_out(i), has_negative = t.negative_of(i) >= 0;
    Pair<T>* pairs = static_cast<Pair<T>*>(p.pairs) + i * (count + 1) + 1;
    for (int64_t k = warp() - 1; k < count && !out; k += kThreads / kWarp) {
      const Pair<T> pair = t.pair<Op, T>(o.metric, i, k);
      if (lane_id() == 0) pairs[k] = pair;
    }
    block_sync();
    for (int64_t k = warp() - 1; k < count && !out; k += kThreads / kWarp) {
      double square = 0;
      const PairWeights w = weights(i, k, square, [&](int64_t n) {
        return Pair<T>{pairs[n].sums, pairs[n].distance};  // and not the padding behind it
      });
      if (lane_id() != 0) continue;
      (k < 0 ? p.to_negative[i] : p.to_positive[i * count + k]) = w;
      if (k < 0) anchor_norm[0] = norm_slope(square, upstream(i));
    }
    if (out && thread_id() == 0) anchor_norm[0] = 0;
    for (const Pool pool : {kPositives, kNegatives})
      if (p.picks[pool] != nullptr && thread_id() == 0) p.picks[pool][i] = pick(pool, i);
    block_sync();
    for (int64_t k = 4 * thread_id(); k < t.d; k += 4 * kThreads)
      write_columns(i, k, out, has_negative, anchor_norm[0]);
  }

  TLA_DEVICE void write_columns(int64_t i, int64_t k, bool out, bool has_negative, double anchor_norm) const {
    const int64_t count = t.positives();
    double sum[4] = {};
    if (!out) {
      const Pack<T, 4> a = pack_of<T>(t.anchor, i, k, t.d);
      for (int64_t n = 0; n < count; ++n) {
        const Pack<T, 4> y = pack_of<T>(t.positive_rows(i), t.positive_of(i, n), k, t.d);
        const PairWeights& w = p.to_positive[i * count + n];
        double own[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          sum[e] += w.to_x(a.at[e], y.at[e], k + e);
          own[e] = w.to_y(a.at[e], y.at[e], k + e);
        }
        if (p.grad_positive.data != nullptr && t.positive_index == nullptr)
          store4(p.grad_positive, i * count + n, k, t.d, own);
      }
      if (has_negative) {
        const Pack<T, 4> y = pack_of<T>(t.negative, t.negative_of(i), k, t.d);
        const PairWeights& w = p.to_negative[i];
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[e] += w.to_x(a.at[e], y.at[e], k + e);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e] += anchor_norm != 0 ? anchor_norm * a.at[e] : 0;
    }
    if (p.grad_anchor.data != nullptr) store4(p.grad_anchor, i, k, t.d, sum);
  }

  // The row of a pool that anchor i picked, if no lower anchor did: shares are added in the order of the anchors.
  TLA_DEVICE void own(Pool pool, const Output& grad, const Rows& rows, int64_t i, bool at_anchor) const {
    TLA_SHARED(int64_t, owner, 1);
    const int64_t row = pick(pool, i);
    if (warp() == 0) {
      const bool owns = row >= 0 && link(pool, i, row);
      if (lane_id() == 0) owner[0] = owns;
    }
    block_sync();
    const bool owns = owner[0] != 0;
    if (owns) {
      // Its own share is known, the others' are computed again.
      int64_t turn = 0;
      for (int64_t n = p.next[pool][i]; n >= 0; n = p.next[pool][n], ++turn)
        if (turn % (kThreads / kWarp) == warp()) share(pool, n);
    }
    block_sync();
    for (int64_t k = 4 * thread_id(); k < t.d && (owns || at_anchor); k += 4 * kThreads) {
      ShareSum<T> sum;
      if (owns) {
        const Pack<T, 4> y = pack_of<T>(rows, row, k, t.d);
        int in_piece = 0;
        for (int64_t n = i; n >= 0; n = p.next[pool][n]) {
          const Pack<T, 4> a = pack_of<T>(t.anchor, n, k, t.d);
          sum.add(n != i ? p.shares[pool][n] : own_weights(pool)[i], a, y, k);
          if (++in_piece % kSharesOfPiece == 0) sum.end_piece();
        }
        sum.end_piece();
      }
      store4(grad, at_anchor ? i : row, k, t.d, sum.total);
    }
  }

  // Links i to the anchors behind it that picked the same row, by a warp; false if one before it did.
  TLA_DEVICE bool link(Pool pool, int64_t i, int64_t row) const {
    int64_t last = i;
    if (indices(pool) != nullptr) {
      for (int64_t n = lane_id(); n - lane_id() < t.b; n += kWarp) {
        unsigned same = ballot(n < t.b && n != i && pick(pool, n) == row);
        if (same == 0) continue;
        const int64_t first = n - lane_id() + first_set(same);
        if (first < i) return false;
        for (; same != 0; same &= same - 1) {
          const int64_t found = n - lane_id() + first_set(same);
          if (lane_id() == 0) p.next[pool][last] = found;
          last = found;
        }
      }
    }
    if (lane_id() == 0) p.next[pool][last] = -1;
    return true;
  }

  // What anchor n sends to the pool's row, by a warp.
  TLA_DEVICE void share(Pool pool, int64_t n) const {
    double square = 0;
    const PairWeights w =
        weights(n, pool == kNegatives ? -1 : 0, square, [&](int64_t k) { return t.pair<Op, T>(o.metric, n, k); });
    if (lane_id() == 0) p.shares[pool][n] = w;
  }

  // Zeros for the rows of a pool that nobody picked: a warp takes eight rows at a time, four lanes look for each.
  TLA_DEVICE void fill(Pool pool, const Output& grad, int64_t rows) const {
    constexpr int kRowsOfWarp = 8;
    const int64_t groups = (rows + kRowsOfWarp - 1) / kRowsOfWarp;
    each_row_of_warp(p.anchor_blocks, groups, [&](int64_t group) {
      const int64_t row = group * kRowsOfWarp + lane_id() / 4;
      unsigned picked = 0;
      for (int64_t n = lane_id() % 4; n < t.b; n += 4) picked |= pick(pool, n) == row;
      picked |= shuffle_xor(picked, 1);
      picked |= shuffle_xor(picked, 2);
      const unsigned empty = ballot(row < rows && picked == 0);
      for (int r = 0; r < kRowsOfWarp; ++r)
        if (empty >> 4 * r & 1) zero_row(grad, group * kRowsOfWarp + r);
    });
  }
  TLA_DEVICE void zero_row(const Output& grad, int64_t row) const {
    const int64_t bytes = t.d * size_of(grad.type);
    char* out = static_cast<char*>(grad.data) + row * bytes;
    if (reinterpret_cast<uint64_t>(out) % 16 == 0 && bytes % 16 == 0) {
      for (int64_t n = lane_id(); n < bytes / 16; n += kWarp) reinterpret_cast<Pack<uint32_t, 4>*>(out)[n] = {};
    } else {
      for (int64_t k = 4 * lane_id(); k < t.d; k += 4 * kWarp) store4(grad, row, k, t.d, {0, 0, 0, 0});
    }
  }
};

template <class Op, class T>
TLA_KERNEL(kThreads, kBlocksAtOnce<T>)
triplet_loss_backward_kernel(const TripletBackwardParams p) {
  const TripletBackward<Op, T> backward(p);
  const Triplets& t = p.triplets;
  const bool picks_positives = p.grad_positive.data != nullptr && t.positive_index != nullptr;
  const bool pools_negatives = p.grad_negative.data != nullptr && t.negative_index != nullptr && !p.sparse;
  if (block_id() >= p.anchor_blocks) {
    if (picks_positives) backward.fill(kPositives, p.grad_positive, p.positive_pool);
    if (pools_negatives) backward.fill(kNegatives, p.grad_negative, p.negative_pool);
    return;
  }
  for (int64_t i = block_id(); i < t.b; i += p.anchor_blocks) {
    backward.differentiate(i);
    if (picks_positives && p.picks[kPositives] == nullptr)
      backward.own(kPositives, p.grad_positive, t.positive.first, i, false);
    if (p.grad_negative.data != nullptr && p.picks[kNegatives] == nullptr)
      backward.own(kNegatives, p.grad_negative, t.negative, i, !pools_negatives);
  }
}

// Whether the gradient of what a pool's picks name is asked for.
inline bool picked_from(const TripletBackwardParams& p, Pool pool) {
  return pool == kPositives ? p.grad_positive.data != nullptr && p.triplets.positive_index != nullptr
                            : p.grad_negative.data != nullptr && p.triplets.negative_index != nullptr;
}
inline BackwardPlan backward_plan(const TripletBackwardParams& p, bool sorted, Gpu gpu) {
  const int64_t pools =
      (p.grad_positive.data != nullptr) * p.positive_pool + (p.grad_negative.data != nullptr) * p.negative_pool;
  return plan_backward(p.triplets.b, pools, sorted, gpu);
}
inline BackwardPlan backward_plan(const TripletBackwardParams& p, Gpu gpu) {
  const bool picks = picked_from(p, kPositives) || picked_from(p, kNegatives);
  return backward_plan(p, sorts_picks(p.triplets.b, picks), gpu);
}

// Of a plan that sorts, `p` has the picks' arrays. clear(data, bytes) makes zeros; sort(pool) sorts the pool's picks in
// a stable way and says where those are, and whose.
struct SortedPicks {
  const int64_t *picks, *anchors;
};
template <class Launch, class Clear, class Sort>
void launch_triplet_loss_backward(TripletBackwardParams p, const BackwardPlan& plan, bool wide, const Launch& launch,
                                  const Clear& clear, const Sort& sort) {
  const Triplets& t = p.triplets;
  const auto each_sorted_pool = [&](const auto& f) {
    if (plan.sorted && picked_from(p, kPositives)) f(kPositives, p.grad_positive, t.positive.first, p.positive_pool);
    if (plan.sorted && picked_from(p, kNegatives)) f(kNegatives, p.grad_negative, t.negative, p.negative_pool);
  };
  each_sorted_pool([&](Pool pool, const Output& grad, const Rows&, int64_t rows) {
    if (pool == kPositives || !p.sparse) clear(grad.data, rows * t.d * size_of(grad.type));
  });
  if (plan.shape.blocks == 0) return;
  p.anchor_blocks = plan.anchor_blocks;
  with_sums(p.options.metric, wide,
            [&]<class Op, class T>() { launch(triplet_loss_backward_kernel<Op, T>, plan.shape, p); });
  each_sorted_pool([&](Pool pool, const Output& grad, const Rows& rows, int64_t) {
    const SortedPicks sorted = sort(pool);
    SharesParams shares{t.anchor, rows, t.b, t.d, grad};
    shares.at_anchor = pool == kNegatives && p.sparse;
    shares.picks = sorted.picks;
    shares.anchors = sorted.anchors;
    shares.weights = pool == kPositives ? p.to_positive : p.to_negative;
    shares.pieces = p.pieces;
    launch_sum_shares(shares, plan, wide, launch);
  });
}

}  // namespace tla::cuda
