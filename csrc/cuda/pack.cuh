// Rows as a screen multiplies them: float16, less a mean, scaled so that nothing is lost to subnormals, padded with
// zeros, and beside each what a bound on its products' errors needs.
#pragma once

#include "center.cuh"

namespace tla::cuda {

// Of a packed row. `weight` times what was packed is the row (its direction, for a cosine) less the mean but for a
// residual of norm `residual`; `norm` is no less than the norm of either. `offset`: what a score takes beside the
// product, of a cosine <mean, x> - |mean|^2 / 2, else -|x - mean|^2 / 2. A row that floats cannot compare (NaN,
// infinity, huge norms) has a residual of NaN: whatever is computed from it is NaN, which every test lets through to
// the exact sums.
struct alignas(16) Side {
  float weight, norm, residual, offset;
};

struct PackParams {
  Rows rows;
  int64_t count;
  int d, padded;  // columns, and with zeros
  Metric metric;
  Center center;
  bool measure;  // or leave residuals at 0
  // Which row stands at t, null for row t; and where each row stands, null where nobody asks.
  const int64_t* order;
  int* place;
  uint16_t* to;  // (count, padded)
  Side* sides;   // (count)
};

// 2^14: a unit row's elements stay below float16's 65504, and lose bits to subnormals only under 2^-28.
constexpr int kPackedExponent = 14;

TLA_DEVICE float power_of_two(int exponent) { return from_bits(static_cast<uint32_t>(exponent + 127) << 23); }

// Rows of halves, one after the other.
struct PackedRows {
  TLA_DEVICE static float rounded(float x) { return half_to_float(float_to_half(x)); }
  TLA_DEVICE static void store(const PackParams& p, int64_t t, int k, const Pack<float, 4>& x) {
    Pack<uint16_t, 4> packed;
#pragma unroll
    for (int n = 0; n < 4; ++n) packed.at[n] = float_to_half(x.at[n]);
    *reinterpret_cast<Pack<uint16_t, 4>*>(p.to + t * p.padded + k) = packed;
  }
};

// A row as floats have it, or its direction.
struct Direction {
  bool cosine, odd, empty, exact;
  double scale;

  TLA_DEVICE Direction(const PackParams& p, int64_t i) : cosine(is_cosine(p.metric)) {
    const float x2 = warp_sums<Dot, float>(p.rows, i, p.rows, i, p.d).x2;
    // The range in which sums_hold takes float's sums.
    exact = cosine && !(x2 > 1e-18f && x2 < 1e18f);
    const double square = exact ? exact_sums(Metric::kAngular, p.rows, i, p.rows, i, p.d).x2 : x2;
    odd = !(square < (cosine ? 1e300 : 1e30));
    empty = cosine && square < kTinySquaredNorm;
    scale = !cosine ? 1 : odd || empty ? 0 : 1 / std::sqrt(square);
  }
  TLA_DEVICE Pack<float, 4> of(const PackParams& p, int64_t i, int k) const {
    Pack<float, 4> x = pack_of<float>(p.rows, i, k, p.d);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      x.at[n] = odd || empty ? 0 : x.at[n] * static_cast<float>(scale);
      if (exact && !odd) x.at[n] = k + n < p.d ? static_cast<float>(element<double>(p.rows, i, k + n) * scale) : 0;
    }
    return x;
  }
};

TLA_DEVICE double square4(const Pack<float, 4>& x) {
  float sum = 0;
#pragma unroll
  for (int n = 0; n < 4; ++n) sum = fused(x.at[n], x.at[n], sum);
  return sum;
}

// Packed says what becomes of an element, and where four of them go. `mean2`: the mean's square, 0 where none is taken.
template <class Packed>
TLA_DEVICE void pack_row(const PackParams& p, int64_t t, double mean2) {
  const int64_t i = p.order != nullptr ? p.order[t] : t;
  if (p.place != nullptr && lane_id() == 0) p.place[i] = static_cast<int>(t);
  const Direction row(p, i);
  const bool cosine = row.cosine;
  const auto mean_at = [&](int k) {
    return mean2 > 0 ? *reinterpret_cast<const Pack<float, 4>*>(p.center.mean + k) : Pack<float, 4>{};
  };
  const auto less_mean = [&](Pack<float, 4> x, const Pack<float, 4>& mean) {
#pragma unroll
    for (int n = 0; n < 4; ++n) x.at[n] -= mean.at[n];
    return x;
  };
  float weight = power_of_two(-kPackedExponent), scale = power_of_two(kPackedExponent);
  if (!cosine) {
    double square = 0;
#pragma unroll 1
    for (int k = 4 * lane_id(); k < p.padded; k += 4 * kWarp) square += square4(less_mean(row.of(p, i, k), mean_at(k)));
    const float norm = static_cast<float>(std::sqrt(warp_total(square)));
    // |x| lies in [2^e, 2^(e + 1)).
    const int e = norm > 1e-18f ? static_cast<int>(bits_of(norm) >> 23) - 127 : kPackedExponent - 1;
    scale = power_of_two(kPackedExponent - 1 - e);
    weight = power_of_two(e + 1 - kPackedExponent);
  }
  double lost = 0, square = 0, along = 0;
#pragma unroll 1
  for (int k = 4 * lane_id(); k < p.padded; k += 4 * kWarp) {
    const Pack<float, 4> x = row.of(p, i, k), mean = mean_at(k), rest = less_mean(x, mean);
    Pack<float, 4> packed, missing;
    float with_mean = 0;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      packed.at[n] = Packed::rounded(rest.at[n] * scale);
      missing.at[n] = rest.at[n] * scale - packed.at[n];
      with_mean = fused(x.at[n], mean.at[n], with_mean);
    }
    Packed::store(p, t, k, packed);
    lost += square4(missing);
    square += square4(rest);
    along += with_mean;
  }
  lost = warp_total(lost), square = warp_total(square), along = warp_total(along);
  if (lane_id() != 0) return;
  // The margins cover float's rounding of these sums; the last term of each, elements that were rounded before, and
  // squares that underflowed.
  Side side{weight, 0, 0, static_cast<float>(cosine ? (mean2 > 0 ? along - mean2 / 2 : 0) : -square / 2)};
  if (p.measure)
    side.residual = 1.001f * weight * static_cast<float>(std::sqrt(lost)) +
                    (cosine ? 0x1p-23f : 1e-18f * std::sqrt(static_cast<float>(p.d)));
  side.norm = 1.001f * static_cast<float>(std::sqrt(square)) + side.residual;
  if (row.odd) side = {weight, 0, from_bits(Key<float>::kNaN), 0};
  p.sides[t] = side;
}

}  // namespace tla::cuda
