// Rows of a tensor of any float type and any strides, read four elements at a time as the type that is computed in, and
// rows of a contiguous tensor, written.
#pragma once

#include "../common/metric.h"
#include "simt.cuh"

namespace tla::cuda {

// A 2-D view. Strides count elements and may be anything, 0 included.
struct Rows {
  const void* data = nullptr;
  Type type = Type::kFloat32;
  // Rows are whole packs of four elements, side by side and on boundaries that four can be loaded from at once.
  bool packed = false;
  int64_t row_stride = 0, col_stride = 1;
};

// `rows` rows of `columns` elements; `step`: elements between this view and the next of a stack of them.
inline Rows make_rows(const void* data, Type type, int64_t rows, int64_t columns, int64_t row_stride,
                      int64_t col_stride, int64_t step) {
  const int64_t size = size_of(type), boundary = size == 2 ? 8 : 16;
  const auto even = [&](int64_t bytes) { return bytes % boundary == 0; };
  const bool packed = col_stride == 1 && columns % 4 == 0 && even(reinterpret_cast<intptr_t>(data)) &&
                      even(step * size) && (rows <= 1 || even(row_stride * size));
  return {data, type, packed, row_stride, col_stride};
}

// Row 0 `n` steps of `step` elements further on.
TLA_DEVICE Rows shifted(Rows rows, int64_t n, int64_t step) {
  rows.data = static_cast<const char*>(rows.data) + n * step * size_of(rows.type);
  return rows;
}

struct Float64 {
  using Bits = double;
  TLA_DEVICE static double get(Bits b) { return b; }
  TLA_DEVICE static Bits put(double v) { return v; }
};
struct Float32 {
  using Bits = float;
  TLA_DEVICE static float get(Bits b) { return b; }
  TLA_DEVICE static Bits put(double v) { return static_cast<float>(v); }
};
struct BFloat16 {
  using Bits = uint16_t;
  TLA_DEVICE static float get(Bits b) { return bfloat16_to_float(b); }
  TLA_DEVICE static Bits put(double v) { return float_to_bfloat16(static_cast<float>(v)); }
};
struct Float16 {
  using Bits = uint16_t;
  TLA_DEVICE static float get(Bits b) { return half_to_float(b); }
  TLA_DEVICE static Bits put(double v) { return float_to_half(static_cast<float>(v)); }
};

// Calls f with the struct above that describes `type`.
template <class F>
TLA_DEVICE void with_type(Type type, const F& f) {
  switch (type) {
    case Type::kFloat32:
      return f(Float32{});
    case Type::kBFloat16:
      return f(BFloat16{});
    case Type::kFloat16:
      return f(Float16{});
    default:
      return f(Float64{});
  }
}

// Whether rows are read in packs: float64 as float is too rare for code of its own.
template <class T>
TLA_DEVICE bool in_packs(const Rows& m) {
  return m.packed && (sizeof(T) == 8 || m.type != Type::kFloat64);
}
// Calls f as with_type does, for rows that are read in packs.
template <class T, class F>
TLA_DEVICE void with_pack_type(Type type, const F& f) {
  if constexpr (sizeof(T) == 8) {
    with_type(type, f);
  } else {
    if (type == Type::kFloat32) return f(Float32{});
    type == Type::kBFloat16 ? f(BFloat16{}) : f(Float16{});
  }
}

// Four elements of a packed row.
template <class E, class T>
TLA_DEVICE Pack<T, 4> load4(const typename E::Bits* from) {
  const auto bits = *reinterpret_cast<const Pack<typename E::Bits, 4>*>(from);
  Pack<T, 4> out;
#pragma unroll
  for (int e = 0; e < 4; ++e) out.at[e] = static_cast<T>(E::get(bits.at[e]));
  return out;
}

template <class E, class T>
TLA_DEVICE Pack<T, 4> load4(const Rows& m, int64_t i, int64_t k) {
  return load4<E, T>(static_cast<const typename E::Bits*>(m.data) + i * m.row_stride + k);
}

// Element k of row i of any rows.
template <class T>
TLA_DEVICE T element(const Rows& m, int64_t i, int64_t k) {
  T value = 0;
  with_type(m.type, [&](auto e) {
    using E = decltype(e);
    value = static_cast<T>(E::get(static_cast<const typename E::Bits*>(m.data)[i * m.row_stride + k * m.col_stride]));
  });
  return value;
}

// Elements [k, k + 4) of row i of any rows, zeros from d on.
template <class T>
TLA_DEVICE Pack<T, 4> pack_of(const Rows& m, int64_t i, int64_t k, int64_t d) {
  Pack<T, 4> out{};
  if (in_packs<T>(m)) {
    if (k < d) with_pack_type<T>(m.type, [&](auto e) { out = load4<decltype(e), T>(m, i, k); });
  } else {
#pragma unroll
    for (int n = 0; n < 4; ++n) out.at[n] = k + n < d ? element<T>(m, i, k + n) : T(0);
  }
  return out;
}

// A contiguous tensor of rows of d elements that is written; no data: it is not asked for.
struct Output {
  void* data = nullptr;
  Type type = Type::kFloat32;
};

// Writes columns [k, k + 4) of row i, as far as there are any.
TLA_DEVICE void store4(const Output& out, int64_t i, int64_t k, int64_t d, const double (&value)[4]) {
  with_type(out.type, [&](auto e) {
    using E = decltype(e);
    using Bits = typename E::Bits;
    Bits* to = static_cast<Bits*>(out.data) + i * d + k;
    if (d % 4 == 0) {  // a tensor's memory begins on a boundary of 16 bytes at least
      Pack<Bits, 4> bits;
#pragma unroll
      for (int n = 0; n < 4; ++n) bits.at[n] = E::put(value[n]);
      *reinterpret_cast<Pack<Bits, 4>*>(to) = bits;
    } else {
      for (int n = 0; n < 4 && k + n < d; ++n) to[n] = E::put(value[n]);
    }
  });
}

}  // namespace tla::cuda
