// The vector code itself, compiled once an instruction set: the including file defines TLA_ISA and the tile shapes.
// Plain GNU vector types, 64 bytes wide, so that every instruction set adds in the same order.
#include <algorithm>
#include <cmath>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "row_kernels.h"

namespace tla::cpu::TLA_ISA {
namespace {

// One machine vector; kParts of them make a logical vector of 64 bytes.
template <class T>
struct Native;
template <>
struct Native<float> {
  typedef float type __attribute__((vector_size(TLA_VECTOR_BYTES)));
  typedef int32_t mask __attribute__((vector_size(TLA_VECTOR_BYTES)));
};
template <>
struct Native<double> {
  typedef double type __attribute__((vector_size(TLA_VECTOR_BYTES)));
  typedef int64_t mask __attribute__((vector_size(TLA_VECTOR_BYTES)));
};

inline constexpr int kParts = 64 / TLA_VECTOR_BYTES;

template <class T>
inline constexpr int kLanes = 64 / sizeof(T);

template <class N, class T>
[[gnu::always_inline]] inline N load_native(const T* p) {
  N v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <class N, class M, int kLanes, int kShift>
[[gnu::always_inline]] inline N rotate(N v) {
  M order;
  for (int i = 0; i < kLanes; ++i) order[i] = (i + kShift) % kLanes;
#if defined(__clang__)
  N r;
  for (int i = 0; i < kLanes; ++i) r[i] = v[order[i]];
  return r;
#else
  return __builtin_shuffle(v, order);
#endif
}

struct Dot {
  template <class N>
  static void step(N& acc, N a, N c) {
    acc += a * c;
  }
  template <class N>
  static void join(N& acc, N other) {
    acc += other;
  }
};

struct SquaredDifference : Dot {
  template <class N>
  static void step(N& acc, N a, N c) {
    const N d = a - c;
    acc += d * d;
  }
};

struct MaxDifference {
  template <class N>
  static void step(N& acc, N a, N c) {
    const N d = a - c;
    join(acc, d < 0 ? -d : d);
  }
  // Keeps a NaN on either side: nothing compares greater than a NaN, and x != x lets one in.
  template <class N>
  static void join(N& acc, N x) {
    acc = ((x > acc) | (x != x)) ? x : acc;
  }
};

// Halves the logical vector until one lane is left.
template <class T, class Op>
[[gnu::always_inline]] inline T reduce(typename Native<T>::type (&part)[kParts]) {
  using N = typename Native<T>::type;
  using M = typename Native<T>::mask;
  constexpr int n = TLA_VECTOR_BYTES / sizeof(T);
#pragma GCC unroll 4
  for (int half = kParts / 2; half > 0; half /= 2)
#pragma GCC unroll 4
    for (int i = 0; i < half; ++i) Op::join(part[i], part[i + half]);
  N r = part[0];
  if constexpr (n == 16) Op::join(r, rotate<N, M, n, 8>(r));
  if constexpr (n >= 8) Op::join(r, rotate<N, M, n, 4>(r));
  if constexpr (n >= 4) Op::join(r, rotate<N, M, n, 2>(r));
  Op::join(r, rotate<N, M, n, 1>(r));
  return r[0];
}

// Longer sums are added up in pieces of this many elements, so that rounding does not grow with D.
inline constexpr int64_t kPiece = 4096;

template <class T, class Op, int kRows, int kColumns>
void piece(const T* a, int64_t lda, const T* c, int64_t ldc, int64_t d, T* out, int64_t ldo) {
  using N = typename Native<T>::type;
  constexpr int n = kLanes<T>, step = TLA_VECTOR_BYTES / sizeof(T);
  N acc[kRows][kColumns][kParts] = {};
  int64_t k = 0;
  for (; k + n <= d; k += n) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      N x[kRows];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) x[i] = load_native<N>(a + i * lda + k + p * step);
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) {
        const N y = load_native<N>(c + j * ldc + k + p * step);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) Op::step(acc[i][j][p], x[i], y);
      }
    }
  }
  if (k < d) {
    // The last lanes, padded by zeros on both sides.
    T x[kRows][n] = {}, y[kColumns][n] = {};
    for (int i = 0; i < kRows; ++i)
      for (int64_t l = k; l < d; ++l) x[i][l - k] = a[i * lda + l];
    for (int j = 0; j < kColumns; ++j)
      for (int64_t l = k; l < d; ++l) y[j][l - k] = c[j * ldc + l];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j)
#pragma GCC unroll 8
        for (int p = 0; p < kParts; ++p)
          Op::step(acc[i][j][p], load_native<N>(x[i] + p * step), load_native<N>(y[j] + p * step));
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) out[i * ldo + j] = reduce<T, Op>(acc[i][j]);
}

template <class T, class Op, int kRows, int kColumns>
[[gnu::always_inline]] inline void tile(const T* a, int64_t lda, const T* c, int64_t ldc, int64_t d, T* out,
                                        int64_t ldo) {
  piece<T, Op, kRows, kColumns>(a, lda, c, ldc, std::min(d, kPiece), out, ldo);
  for (int64_t k = kPiece; k < d; k += kPiece) {
    T part[kRows * kColumns];
    piece<T, Op, kRows, kColumns>(a + k, lda, c + k, ldc, std::min(d - k, kPiece), part, kColumns);
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kColumns; ++j) Op::join(out[i * ldo + j], part[i * kColumns + j]);
  }
}

template <class T, class Op>
void pairs_of(const T* a, int64_t lda, int64_t na, const T* c, int64_t ldc, int64_t nc, int64_t d, T* out,
              int64_t ldo) {
  constexpr int kRows = TLA_TILE_ROWS, kColumns = TLA_TILE_COLUMNS;
  int64_t j = 0;
  for (; j + kColumns <= nc; j += kColumns) {
    int64_t i = 0;
    for (; i + kRows <= na; i += kRows)
      tile<T, Op, kRows, kColumns>(a + i * lda, lda, c + j * ldc, ldc, d, out + i * ldo + j, ldo);
    for (; i < na; ++i) tile<T, Op, 1, kColumns>(a + i * lda, lda, c + j * ldc, ldc, d, out + i * ldo + j, ldo);
  }
  for (; j < nc; ++j)
    for (int64_t i = 0; i < na; ++i) tile<T, Op, 1, 1>(a + i * lda, lda, c + j * ldc, ldc, d, out + i * ldo + j, ldo);
}

template <class T, int kRows>
void squares_piece(const T* c, int64_t ldc, int64_t d, T* out) {
  using N = typename Native<T>::type;
  constexpr int n = kLanes<T>, step = TLA_VECTOR_BYTES / sizeof(T);
  N acc[kRows][kParts] = {};
  int64_t k = 0;
  for (; k + n <= d; k += n)
#pragma GCC unroll 8
    for (int j = 0; j < kRows; ++j)
#pragma GCC unroll 8
      for (int p = 0; p < kParts; ++p) {
        const N y = load_native<N>(c + j * ldc + k + p * step);
        Dot::step(acc[j][p], y, y);
      }
  for (int j = 0; j < kRows; ++j) {
    T y[n] = {};
    for (int64_t l = k; l < d; ++l) y[l - k] = c[j * ldc + l];
    for (int p = 0; p < kParts; ++p) {
      const N v = load_native<N>(y + p * step);
      if (k < d) Dot::step(acc[j][p], v, v);
    }
    out[j] = reduce<T, Dot>(acc[j]);
  }
}

template <class T, int kRows>
void squares_tile(const T* c, int64_t ldc, int64_t d, T* out) {
  squares_piece<T, kRows>(c, ldc, std::min(d, kPiece), out);
  for (int64_t k = kPiece; k < d; k += kPiece) {
    T part[kRows];
    squares_piece<T, kRows>(c + k, ldc, std::min(d - k, kPiece), part);
    for (int j = 0; j < kRows; ++j) Dot::join(out[j], part[j]);
  }
}

template <class T>
void squares(const T* c, int64_t ldc, int64_t nc, int64_t d, T* out) {
  constexpr int kRows = 8 / kParts;
  int64_t j = 0;
  for (; j + kRows <= nc; j += kRows) squares_tile<T, kRows>(c + j * ldc, ldc, d, out + j);
  for (; j < nc; ++j) squares_tile<T, 1>(c + j * ldc, ldc, d, out + j);
}

template <class T>
void pairs(Sum sum, const T* a, int64_t lda, int64_t na, const T* c, int64_t ldc, int64_t nc, int64_t d, T* out,
           int64_t ldo) {
  if (sum == Sum::kDot)
    pairs_of<T, Dot>(a, lda, na, c, ldc, nc, d, out, ldo);
  else if (sum == Sum::kSquaredDifference)
    pairs_of<T, SquaredDifference>(a, lda, na, c, ldc, nc, d, out, ldo);
  else
    pairs_of<T, MaxDifference>(a, lda, na, c, ldc, nc, d, out, ldo);
}

inline float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float f;
  std::memcpy(&f, &wide, 4);
  return f;
}

inline float from_float16(uint16_t bits) {
#if defined(__F16C__)
  return _cvtsh_ss(bits);
#else
  // Exponent and mantissa moved into place, then rebased by a product that also normalises subnormals.
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13;
  const bool special = (bits & 0x7c00) == 0x7c00;
  const uint32_t wide = magnitude | (special ? 0x7f800000u : 0u);
  float f;
  std::memcpy(&f, &wide, 4);
  if (!special) f *= 0x1p112f;
  return bits & 0x8000 ? -f : f;
#endif
}

template <class T, class S, T (*convert)(S)>
void load_as(const void* src, int64_t stride, int64_t n, T* dst) {
  const S* p = static_cast<const S*>(src);
  if (stride == 1)
    for (int64_t k = 0; k < n; ++k) dst[k] = convert(p[k]);
  else
    for (int64_t k = 0; k < n; ++k) dst[k] = convert(p[k * stride]);
}

template <class T, class S>
T cast(S x) {
  return static_cast<T>(x);
}
template <class T>
T cast_bfloat16(uint16_t x) {
  return from_bfloat16(x);
}
template <class T>
T cast_float16(uint16_t x) {
  return from_float16(x);
}

template <class T>
void load(const void* src, Type type, int64_t stride, int64_t n, T* dst) {
  switch (type) {
    case Type::kFloat64:
      return load_as<T, double, cast<T, double>>(src, stride, n, dst);
    case Type::kFloat32:
      return load_as<T, float, cast<T, float>>(src, stride, n, dst);
    case Type::kBFloat16:
      return load_as<T, uint16_t, cast_bfloat16<T>>(src, stride, n, dst);
    case Type::kFloat16:
#if defined(__F16C__)
      if constexpr (sizeof(T) == 4)
        if (stride == 1) {
          const uint16_t* p = static_cast<const uint16_t*>(src);
          int64_t k = 0;
          for (; k + 8 <= n; k += 8) {
            __m128i h;
            std::memcpy(&h, p + k, 16);
            _mm256_storeu_ps(dst + k, _mm256_cvtph_ps(h));
          }
          for (; k < n; ++k) dst[k] = from_float16(p[k]);
          return;
        }
#endif
      return load_as<T, uint16_t, cast_float16<T>>(src, stride, n, dst);
  }
}

template <class T>
void axpy(T alpha, const T* x, int64_t n, T* y) {
  for (int64_t k = 0; k < n; ++k) y[k] += alpha * x[k];
}

template <class T>
void axpy_difference(T alpha, const T* x1, const T* x2, int64_t n, T* y) {
  for (int64_t k = 0; k < n; ++k) y[k] += alpha * (x1[k] - x2[k]);
}

}  // namespace

extern const RowKernels<float> kFloat;
extern const RowKernels<double> kDouble;
const RowKernels<float> kFloat = {pairs<float>, squares<float>, load<float>, axpy<float>, axpy_difference<float>};
const RowKernels<double> kDouble = {pairs<double>, squares<double>, load<double>, axpy<double>,
                                    axpy_difference<double>};

}  // namespace tla::cpu::TLA_ISA
