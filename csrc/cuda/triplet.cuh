// The triplet loss of a row: what forward and backward both compute.
#pragma once

#include "search.cuh"

namespace tla::cuda {

// A row's positives stand beside it, or are picked from a pool by an index; likewise its negative. -1 is "none".
struct Triplets {
  Rows anchor, negative;
  Positives positive;  // with positive_index: one a row, from the pool `positive.first`
  const int64_t *positive_index = nullptr, *negative_index = nullptr;
  int64_t b = 0;
  int d = 0;

  TLA_DEVICE int64_t positives() const { return positive_index != nullptr ? 1 : positive.count; }
  TLA_DEVICE Rows positive_rows(int64_t i) const { return positive_index != nullptr ? positive.first : positive.of(i); }
  TLA_DEVICE int64_t positive_of(int64_t i, int64_t k) const {
    return positive_index != nullptr ? positive_index[i] : k;
  }
  TLA_DEVICE int64_t negative_of(int64_t i) const { return negative_index != nullptr ? negative_index[i] : i; }
  // Mined from one batch, a row without a positive or a negative is left out altogether.
  TLA_DEVICE bool left_out(int64_t i) const {
    return positive_index != nullptr && (positive_index[i] < 0 || negative_of(i) < 0);
  }
  // Anchor i and its k-th positive, or for k = -1 its negative, by a warp. The anchor stands in for a negative that is
  // not there, for the sake of its norm.
  template <class Op, class T>
  TLA_DEVICE Pair<T> pair(Metric metric, int64_t i, int64_t k) const {
    const bool nothing = k < 0 && negative_of(i) < 0;
    const Rows rows = nothing ? anchor : k < 0 ? negative : positive_rows(i);
    return warp_pair<Op, T>(metric, anchor, i, rows, nothing ? i : k < 0 ? negative_of(i) : positive_of(i, k), d);
  }
};

TLA_DEVICE double norm_of(Norm norm, double square, int d) {
  return norm == Norm::kL2 ? std::sqrt(square) : square / d;
}

// d(a, p) - d(a, n) + margin, from distances as they are returned.
template <class T>
TLA_DEVICE double violation(T to_positive, T to_negative, double margin) {
  return static_cast<double>(to_positive) - static_cast<double>(to_negative) + margin;
}

template <class T>
TLA_DEVICE double triplet_term(const T* to_positive, int64_t k, T to_negative, double margin) {
  double sum = 0;
  for (int64_t n = 0; n < k; ++n) {
    const double v = violation(to_positive[n], to_negative, margin);
    if (hinge_active(v)) sum += v;
  }
  return sum;
}

// The sum of `value` over the threads of a block, in one order, in thread 0.
TLA_DEVICE double block_total(double value) {
  TLA_SHARED(double, of_warp, kThreads / kWarp);
  value = warp_total(value);
  if (lane_id() == 0) of_warp[thread_id() / kWarp] = value;
  block_sync();
  double total = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) total += of_warp[w];
  return total;
}

// One block adds up loss_of(i) for all rows, or stores them one by one.
template <class T, class F>
TLA_DEVICE void reduce(const TripletOptions& o, int64_t b, void* loss, const F& loss_of) {
  T* out = static_cast<T*>(loss);
  double sum = 0;
  for (int64_t i = thread_id(); i < b; i += kThreads) {
    const double value = loss_of(i);
    if (o.reduction == Reduction::kNone)
      out[i] = static_cast<T>(value);
    else
      sum += value;
  }
  if (o.reduction == Reduction::kNone) return;
  sum = block_total(sum);
  if (thread_id() == 0) out[0] = static_cast<T>(o.reduction == Reduction::kMean && b > 0 ? sum / b : sum);
}

}  // namespace tla::cuda
