// What a bank may hold, how that is multiplied, and the bound on the screen's errors.
#pragma once

#include "lists.cuh"

namespace tla::cuda {

// How elements of a type are multiplied. `prepare` takes two rows' registers of a unit, makes of them what the matrix
// unit gets, and adds up squares.
struct BankBFloat16 : BFloat16 {
  static constexpr float kCut = 0;
  TLA_DEVICE static float rounded(float x) { return bfloat16_to_float(float_to_bfloat16(x)); }
  TLA_DEVICE static void prepare(uint32_t& word, float& square) {
    const float low = from_bits(word << 16), high = from_bits(word & 0xffff0000u);
    square = fused(high, high, fused(low, low, square));
  }
  TLA_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16_bf16(d, a, b);
  }
};
struct BankFloat16 : Float16 {
  static constexpr float kCut = 0;
  TLA_DEVICE static float rounded(float x) { return half_to_float(float_to_half(x)); }
  TLA_DEVICE static void prepare(uint32_t& word, float& square) {
    const float low = half_to_float(static_cast<uint16_t>(word)),
                high = half_to_float(static_cast<uint16_t>(word >> 16));
    square = fused(high, high, fused(low, low, square));
  }
  TLA_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16_f16(d, a, b);
  }
};
// As tf32: to the nearest float whose last 13 bits are 0, by integers, so that nothing depends on what the hardware
// does with the rest. A row loses at most kCut of its norm. (NaN may become 0: its row's square does not.)
struct BankFloat32 : Float32 {
  static constexpr float kCut = 0x1p-11f;
  TLA_DEVICE static uint32_t cut(uint32_t bits) { return (bits + 0x1000u) & ~0x1fffu; }
  TLA_DEVICE static float rounded(float x) { return from_bits(cut(bits_of(x))); }
  TLA_DEVICE static void prepare(uint32_t& word, float& square) {
    square = fused(from_bits(word), from_bits(word), square);
    word = cut(word);
  }
  TLA_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k8_tf32(d, a, b);
  }
};

template <class F>
void with_bank_type(Type type, const F& f) {
  if (type == Type::kBFloat16)
    f.template operator()<BankBFloat16>();
  else if (type == Type::kFloat16)
    f.template operator()<BankFloat16>();
  else
    f.template operator()<BankFloat32>();
}

// Whether rows can be copied as they are: columns side by side, rows on boundaries of 16 bytes.
inline bool bank_fits(const Rows& rows, int64_t count) {
  const int64_t size = size_of(rows.type);
  return size <= 4 && (rows.col_stride == 1) && reinterpret_cast<intptr_t>(rows.data) % 16 == 0 &&
         (count <= 1 || rows.row_stride * size % 16 == 0);
}

// As score_error (lists.cuh), for rows of `size` bytes an element that are not normalised. Matrix units add 4 products
// of tf32 at a time, or 8: at most 6 errors for every 4 columns; a candidate's square is summed in chains of d / 4 and
// two joins, and a score's error is half of that square's.
inline ScoreError bank_error(Metric metric, int d, int padded, int64_t size) {
  ScoreError error = score_error(metric, d, padded);
  const double norm = (d / 4.0 + 8) * 0x1p-24;
  if (size == 4) error.product += static_cast<float>(0.3 * (padded + 16.0) * 0x1p-23);
  (is_cosine(metric) ? error.product : error.square) += static_cast<float>(norm);
  return error;
}

}  // namespace tla::cuda
