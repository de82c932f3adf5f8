// Rows as a screen multiplies them: float16, scaled so that nothing is lost to subnormals, padded with zeros, and
// beside each what a bound on its products' errors needs.
#pragma once

#include "mine.cuh"

namespace tla::cuda {

// Of a packed row. `weight` times what was packed is the row (its direction, for a cosine) but for a residual of norm
// `residual`; `norm` is no less than the norm of either. `square`: |x|^2, where the metric needs it. A row that floats
// cannot compare (NaN, infinity, huge norms) has a residual of NaN: whatever is computed from it is NaN, which every
// test lets through to the exact sums.
struct alignas(16) Side {
  float weight, norm, residual, square;
};

struct PackParams {
  Rows rows;
  int64_t count;
  int d, padded;  // columns, and with zeros
  Metric metric;
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

// Packed says what becomes of an element, and where four of them go.
template <class Packed>
TLA_DEVICE void pack_row(const PackParams& p, int64_t t) {
  const int64_t i = p.order != nullptr ? p.order[t] : t;
  if (p.place != nullptr && lane_id() == 0) p.place[i] = static_cast<int>(t);
  const bool cosine = is_cosine(p.metric);
  const float x2 = warp_sums<Dot, float>(p.rows, i, p.rows, i, p.d).x2;
  // The range in which sums_hold takes float's sums.
  const bool exact = cosine && !(x2 > 1e-18f && x2 < 1e18f);
  const double square = exact ? exact_sums(Metric::kAngular, p.rows, i, p.rows, i, p.d).x2 : x2;
  const bool odd = !(square < (cosine ? 1e300 : 1e30));
  const bool empty = square < (cosine ? kTinySquaredNorm : 1e-36);
  double scale = 1;
  float weight = 1;
  if (cosine) {
    weight = power_of_two(-kPackedExponent);
    if (!odd && !empty) scale = (1 << kPackedExponent) / std::sqrt(square);
  } else if (!odd && !empty) {
    // |x| lies in [2^e, 2^(e + 1)).
    const int e = static_cast<int>(bits_of(std::sqrt(x2)) >> 23) - 127;
    scale = power_of_two(kPackedExponent - 1 - e);
    weight = power_of_two(e + 1 - kPackedExponent);
  }
  const float factor = static_cast<float>(scale);
  double lost = 0;
#pragma unroll 1
  for (int k = 4 * lane_id(); k < p.padded; k += 4 * kWarp) {
    Pack<float, 4> x = pack_of<float>(p.rows, i, k, p.d);
    Pack<float, 4> packed{};
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      x.at[n] *= factor;
      if (exact) x.at[n] = k + n < p.d ? static_cast<float>(element<double>(p.rows, i, k + n) * scale) : 0;
      if (!odd && !empty) packed.at[n] = Packed::rounded(x.at[n]);
      const float rest = x.at[n] - packed.at[n];
      sum = fused(rest, rest, sum);
    }
    Packed::store(p, t, k, packed);
    lost += sum;
  }
  lost = warp_total(lost);
  if (lane_id() != 0) return;
  // The margins cover float's rounding of these sums; the last term of each, products by the factor that were rounded,
  // and squares that underflowed.
  Side side{weight, 0, 0, cosine ? 0 : x2};
  if (p.measure && !(cosine && empty))
    side.residual = 1.001f * weight * static_cast<float>(std::sqrt(lost)) +
                    (cosine ? 0x1p-23f : 1e-18f * std::sqrt(static_cast<float>(p.d)));
  side.norm = (cosine ? 1.001f : 1.001f * std::sqrt(x2)) + side.residual;
  if (odd) side = {weight, 0, from_bits(Key<float>::kNaN), 0};
  p.sides[t] = side;
}

template <class Packed>
TLA_KERNEL(kThreads, 4)
pack_kernel(const PackParams p) {
  each_row_of_warp(0, p.count, [&](int64_t i) { pack_row<Packed>(p, i); });
}

}  // namespace tla::cuda
