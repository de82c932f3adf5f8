// Gradients of distances: what a pair sends to either of its rows, as weights, and the rows' columns from those.
#pragma once

#include "sums.cuh"

namespace tla::cuda {

// An upstream gradient times the derivatives of one distance d(x, y), for either side; `norm`: a multiple of y beside
// it.
struct PairWeights {
  PairGradient g;
  int64_t coordinate = -1;  // chebyshev's, with the derivative by x there
  double slope = 0, norm = 0;

  // Column k of what the pair sends to x, and to y.
  TLA_DEVICE double to_x(double x, double y, int64_t k) const { return part(g.difference, g.self_x, x, y, slope, k); }
  TLA_DEVICE double to_y(double x, double y, int64_t k) const {
    return part(g.difference, g.self_y, y, x, -slope, k) + (norm != 0 ? norm * y : 0);
  }

 private:
  // A weight of 0 is no term at all: it would make NaN of an infinite element.
  TLA_DEVICE double part(double difference, double self, double own, double other, double at_coordinate,
                         int64_t k) const {
    double sum = k == coordinate ? at_coordinate : 0;
    if (difference != 0) sum += difference * (own - other);
    if (self != 0) sum += self * own;
    if (g.cross != 0) sum += g.cross * other;
    return sum;
  }
};

// The weights of a pair by a warp; every lane gets them.
template <class T>
TLA_DEVICE PairWeights weights_of(Metric metric, const PairSums& sums, const Rows& x, int64_t i, const Rows& y,
                                  int64_t j, int d, double upstream) {
  PairWeights w;
  if (metric != Metric::kChebyshev) {
    w.g = gradient(metric, sums);
    w.g = {upstream * w.g.difference, upstream * w.g.self_x, upstream * w.g.self_y, upstream * w.g.cross};
    return w;
  }
  // The lowest coordinate that attains the maximum takes all of the gradient.
  for (int64_t first = 0; first < d && w.coordinate < 0; first += kWarp) {
    const int64_t k = first + lane_id();
    T difference = 0;
    if (k < d) difference = element<T>(x, i, k) - element<T>(y, j, k);
    const bool attains = std::fabs(difference) == static_cast<T>(sums.value) || difference != difference;
    const unsigned bits = ballot(k < d && attains);
    if (bits == 0) continue;
    const int lane = first_set(bits);
    w.coordinate = first + lane;
    difference = shuffle(difference, lane);
    w.slope = upstream * (difference > 0 ? 1 : difference < 0 ? -1 : 0 * difference);
  }
  return w;
}

}  // namespace tla::cuda
