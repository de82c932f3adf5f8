// Distances, their derivatives and the hinge as scalar formulas of a pair's three sums. CPU and CUDA share them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "options.h"

namespace tla {

// The sums over D that decide a distance: value is <x, y> (angular, cosine), |x - y|^2 (euclidean) or max |x - y|
// (chebyshev); x2 and y2 are the squared norms, which only the first two metrics read.
struct PairSums {
  double value = 0, x2 = 0, y2 = 0;
};

// Below this squared norm a vector has no direction: its cosine to everything is 0 (norms are clamped at 1e-12).
inline constexpr double kTinySquaredNorm = 1e-24;

// Sums of squares and products in T cannot overflow between rows of less than this squared norm.
template <class T>
inline constexpr double kHugeSquaredNorm = sizeof(T) == 4 ? 1e36 : 1e300;

TLA_HD inline bool is_cosine(Metric metric) { return metric == Metric::kAngular || metric == Metric::kCosine; }

// |x| |y|. For equal norms sqrt(x2 * x2) is x2 exactly, so that a vector's distance to itself is exactly 0.
TLA_HD inline double product_of_norms(const PairSums& s) {
  const double product = s.x2 * s.y2;
  return product > 1e-300 && product < 1e300 ? std::sqrt(product) : std::sqrt(s.x2) * std::sqrt(s.y2);
}

// Cosine; NaN stays NaN.
TLA_HD inline double cosine(const PairSums& s) {
  if (s.x2 < kTinySquaredNorm || s.y2 < kTinySquaredNorm) return 0 * (s.x2 + s.y2);
  return s.value / product_of_norms(s);
}

TLA_HD inline double distance(Metric metric, const PairSums& s) {
  switch (metric) {
    case Metric::kAngular:
      return 1 - std::fabs(cosine(s));
    case Metric::kCosine:
      return 1 - cosine(s);
    case Metric::kEuclidean:
      return std::sqrt(s.value);
    default:
      return s.value;
  }
}

// d distance / dx = difference * (x - y) + self_x * x + cross * y, and d distance / dy = -difference * (x - y) +
// self_y * y + cross * x. Chebyshev's gradient lives in one coordinate and is not of this form. Euclidean keeps the
// difference apart because a - n loses nothing where a and n nearly agree.
struct PairGradient {
  double difference = 0, self_x = 0, self_y = 0, cross = 0;
};

TLA_HD inline PairGradient gradient(Metric metric, const PairSums& s) {
  PairGradient g;
  if (metric == Metric::kEuclidean) {
    if (s.value != 0) g.difference = 1 / std::sqrt(s.value);  // the subgradient at 0 is 0
  } else if (is_cosine(metric)) {
    if (s.x2 < kTinySquaredNorm || s.y2 < kTinySquaredNorm) {
      g.self_x = g.self_y = g.cross = 0 * (s.x2 + s.y2);  // NaN where the distance is
      return g;
    }
    const double scale = 1 / product_of_norms(s);
    const double cos = s.value * scale;
    double sign = 1;
    if (metric == Metric::kAngular) sign = cos > 0 ? 1 : cos < 0 ? -1 : 0 * cos;  // 0 at 0, NaN at NaN
    g.cross = -sign * scale;
    g.self_x = sign * cos / s.x2;
    g.self_y = sign * cos / s.y2;
  }
  return g;
}

// A NaN counts as active, so that it reaches the loss and the gradient.
TLA_HD inline bool hinge_active(double violation) { return !(violation <= 0); }

}  // namespace tla
