// The sums over D that decide every distance, in one order that depends on D alone: not on the batch, the tile, how
// many blocks share a tile, or which kernel asks. Identical rows therefore tie, and a pair has the same distance
// everywhere.
//
//   D is cut into kParts parts, a part into pieces of kPiece elements, a piece into packs of four. Packs are dealt to
//   kChains chains, each a running fused sum. A part adds up its chains piece by piece; the parts are added in order.
//
// The eight parts times four chains are a warp's lanes where one warp sums a pair; parts are what blocks of a team
// share.
#pragma once

#include <cmath>

#include "../common/metric.h"
#include "rows.cuh"

namespace tla::cuda {

constexpr int kParts = 8;
constexpr int kChains = 4;
template <class T>
constexpr int kPiece = 256 / sizeof(T);
template <class T>
constexpr int kPacks = kPiece<T> / 4;  // of a piece

TLA_HD inline int part_size(int d) {
  const int even = d / kParts + (d % kParts != 0);
  return even <= 64 ? 64 : (even + 15) / 16 * 16;
}
TLA_HD inline int part_begin(int d, int part) {
  const int64_t begin = int64_t{part} * part_size(d);
  return begin < d ? static_cast<int>(begin) : d;
}

struct Dot {
  template <class T>
  TLA_DEVICE static T step(T sum, T x, T y) {
    return fused(x, y, sum);
  }
  template <class T>
  TLA_DEVICE static T join(T sum, T other) {
    return sum + other;
  }
};

struct SquaredDifference : Dot {
  template <class T>
  TLA_DEVICE static T step(T sum, T x, T y) {
    return fused(x - y, x - y, sum);
  }
};

struct MaxDifference {
  template <class T>
  TLA_DEVICE static T step(T sum, T x, T y) {
    return join(sum, std::fabs(x - y));
  }
  // Keeps a NaN on either side: nothing compares greater than a NaN, and x != x lets one in.
  template <class T>
  TLA_DEVICE static T join(T sum, T x) {
    return x > sum || x != x ? x : sum;
  }
};

// The sums of a pair as the type that is computed in.
template <class T>
struct Sums {
  T value = 0, x2 = 0, y2 = 0;
};

// One lane's chain of a piece of rows x[i] and y[j]: every fourth pack from k on, as far as `limit`.
template <class Op, class T>
TLA_DEVICE Sums<T> chain_sums(const Rows& x, int64_t i, const Rows& y, int64_t j, int k, int limit) {
  constexpr int kLoads = kPacks<T> / kChains;
  Sums<T> sums;
  const auto add = [&](T a, T b) {
    sums.value = Op::step(sums.value, a, b);
    sums.x2 = Dot::step(sums.x2, a, a);
    sums.y2 = Dot::step(sums.y2, b, b);
  };
  if (in_packs<T>(x) && in_packs<T>(y)) {
    Pack<T, 4> a[kLoads] = {}, b[kLoads] = {};
    const auto load = [&](const Rows& m, int64_t row, Pack<T, 4>(&out)[kLoads]) {
      with_pack_type<T>(m.type, [&](auto e) {
#pragma unroll
        for (int n = 0; n < kLoads; ++n)
          if (k + 4 * kChains * n < limit) out[n] = load4<decltype(e), T>(m, row, k + 4 * kChains * n);
      });
    };
    load(x, i, a);
    load(y, j, b);
#pragma unroll
    for (int n = 0; n < kLoads; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) add(a[n].at[e], b[n].at[e]);
  } else {
#pragma unroll 1
    for (int n = 0; n < 4 * kLoads; ++n) {
      const int at = k + n / 4 * 4 * kChains + n % 4;
      if (at < limit) add(element<T>(x, i, at), element<T>(y, j, at));
    }
  }
  return sums;
}

// Adds the four chains' sums of a piece, one a lane, to their part's.
template <class Op, class T>
TLA_DEVICE T join_chains(T part, T chain) {
#pragma unroll
  for (int c = 0; c < kChains; ++c) part = Op::join(part, shuffle(chain, lane_id() / kChains * kChains + c));
  return part;
}
template <class Op, class T>
TLA_DEVICE T join_parts(T part) {
  T total = shuffle(part, 0);
#pragma unroll
  for (int p = 1; p < kParts; ++p) total = Op::join(total, shuffle(part, p * kChains));
  return total;
}

// The sums of rows x[i] and y[j] by a warp; every lane gets them.
template <class Op, class T>
TLA_DEVICE Sums<T> warp_sums(const Rows& x, int64_t i, const Rows& y, int64_t j, int d) {
  const int part = lane_id() / kChains, chain = lane_id() % kChains;
  const int begin = part_begin(d, part), size = part_size(d), longest = size < d ? size : d;
  Sums<T> sums;
  const int limit = part_begin(d, part + 1);
#pragma unroll 1
  for (int k = 0; k < longest; k += kPiece<T>) {
    const Sums<T> chains = chain_sums<Op, T>(x, i, y, j, begin + k + 4 * chain, limit);
    sums.value = join_chains<Op>(sums.value, chains.value);
    sums.x2 = join_chains<Dot>(sums.x2, chains.x2);
    sums.y2 = join_chains<Dot>(sums.y2, chains.y2);
  }
  sums.value = join_parts<Op>(sums.value);
  sums.x2 = join_parts<Dot>(sums.x2);
  sums.y2 = join_parts<Dot>(sums.y2);
  return sums;
}

// The same in double by a warp, for rows whose squares leave the range of float.
TLA_DEVICE double warp_total(double lane_sum) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) lane_sum += shuffle_xor(lane_sum, mask);
  return lane_sum;
}
TLA_DEVICE PairSums exact_sums(Metric metric, const Rows& x, int64_t i, const Rows& y, int64_t j, int d) {
  PairSums sums;
#pragma unroll 1
  for (int k = lane_id(); k < d; k += kWarp) {
    const double a = element<double>(x, i, k), b = element<double>(y, j, k);
    sums.value += metric == Metric::kEuclidean ? (a - b) * (a - b) : a * b;
    sums.x2 += a * a;
    sums.y2 += b * b;
  }
  sums.value = warp_total(sums.value);
  sums.x2 = warp_total(sums.x2);
  sums.y2 = warp_total(sums.y2);
  return sums;
}

// Whether T has held a sum of squares, and not nearly lost it to underflow; if not, it is added up again in double.
template <class T>
TLA_DEVICE bool square_holds(T x2) {
  return x2 > T(1e-30) && x2 < static_cast<T>(kHugeSquaredNorm<T>);
}
TLA_DEVICE double exact_square(const Rows& x, int64_t i, int d) {
  return exact_sums(Metric::kAngular, x, i, x, i, d).x2;
}

// Below this sum a row's norm is under 1e-12 however its squares were rounded: it has no direction.
constexpr float kNoDirection = 1e-26f;

// Whether a distance follows from sums in T: squares have neither overflowed nor, where it matters, underflowed.
TLA_DEVICE bool sums_hold(Metric, const Sums<double>&) { return true; }
TLA_DEVICE bool sums_hold(Metric metric, const Sums<float>& s) {
  if (metric == Metric::kChebyshev) return true;
  if (metric == Metric::kEuclidean) return s.value < 1e36f || s.value != s.value;
  const auto holds = [](float x2) { return x2 < kNoDirection || (x2 > 1e-18f && x2 < 1e18f) || x2 != x2; };
  return holds(s.x2) && holds(s.y2);
}

TLA_DEVICE double distance_from(Metric metric, const Sums<double>& s) {
  return distance(metric, PairSums{s.value, s.x2, s.y2});
}
// In float, whose range sums_hold has checked. The ratio of the norms, not their product, so that a row's distance to
// itself is exactly 0; the larger norm first, so that the order of the rows does not matter.
TLA_DEVICE float distance_from(Metric metric, const Sums<float>& s) {
  if (metric == Metric::kEuclidean) return std::sqrt(s.value);
  if (metric == Metric::kChebyshev) return s.value;
  const float high = s.x2 > s.y2 ? s.x2 : s.y2, low = s.x2 > s.y2 ? s.y2 : s.x2;
  float cosine;
  if (s.x2 < kNoDirection || s.y2 < kNoDirection)
    cosine = 0 * (s.x2 + s.y2);  // NaN stays NaN
  else
    cosine = s.value / high * std::sqrt(high / low);
  return 1 - (metric == Metric::kAngular ? std::fabs(cosine) : cosine);
}

// The distance of row x[i] to the lane's own row y[j], from their sums; neighbouring lanes have neighbouring rows.
// Pairs whose sums do not hold are added up again by the whole warp.
template <class T>
TLA_DEVICE T lane_distance(Metric metric, const Sums<T>& sums, bool there, const Rows& x, int64_t i, const Rows& y,
                           int64_t j, int d) {
  T result = distance_from(metric, sums);
  for (unsigned odd = ballot(there && !sums_hold(metric, sums)); odd != 0; odd &= odd - 1) {
    const int lane = first_set(odd);
    const PairSums exact = exact_sums(metric, x, i, y, j - lane_id() + lane, d);
    if (lane_id() == lane) result = static_cast<T>(distance(metric, exact));
  }
  return result;
}

// A pair by a warp: the sums that a gradient starts from, the squared norms, and the distance as it is returned.
template <class T>
struct Pair {
  PairSums sums;
  T distance;
};

template <class Op, class T>
TLA_DEVICE Pair<T> warp_pair(Metric metric, const Rows& x, int64_t i, const Rows& y, int64_t j, int d) {
  const Sums<T> s = warp_sums<Op, T>(x, i, y, j, d);
  Pair<T> pair;
  if (sums_hold(metric, s)) {
    pair.distance = distance_from(metric, s);
    // Norms stand in the loss, too, whatever the metric.
    pair.sums = {s.value, square_holds(s.x2) ? s.x2 : exact_square(x, i, d),
                 square_holds(s.y2) ? s.y2 : exact_square(y, j, d)};
  } else {
    pair.sums = exact_sums(metric, x, i, y, j, d);
    pair.distance = static_cast<T>(distance(metric, pair.sums));
  }
  return pair;
}

}  // namespace tla::cuda
