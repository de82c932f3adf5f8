// A machine vector of the instruction set that the including file is compiled for, as the screens use it.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../common/options.h"

namespace tla::cpu::screen {
namespace {

#if defined(__AVX512F__)
using Floats = __m512;
using Ints = __m512i;
using Line = __m512i;  // 64 bytes
using Mask = __mmask16;

inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline Ints load(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void store(int32_t* p, Ints x) { _mm512_store_si512(p, x); }
inline void store(void* p, Line line) { _mm512_store_si512(p, line); }
inline Floats all(float x) { return _mm512_set1_ps(x); }
inline Ints all(int32_t x) { return _mm512_set1_epi32(x); }
inline Line no_line() { return _mm512_setzero_si512(); }

inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats fmadd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats fmsub(Floats a, Floats b, Floats c) { return _mm512_fmsub_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats absolute(Floats x) { return _mm512_abs_ps(x); }
inline float sum_of(Floats x) { return _mm512_reduce_add_ps(x); }
inline float largest_of(Floats x) { return _mm512_reduce_max_ps(x); }
inline Ints nearest(Floats x) { return _mm512_cvtps_epi32(x); }
inline Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
inline Floats beyond_nearest(Floats x, Ints) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT); }
// (x & keep) ^ flip, of the bits.
inline Floats keep_and_flip(Floats x, Ints keep, Ints flip) {
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(x), keep, flip, 0x6a));
}

inline Mask equal(Ints a, Ints b) { return _mm512_cmpeq_epi32_mask(a, b); }
// A NaN is neither below nor above.
inline Mask not_below(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ); }
inline Mask and_not_above(Mask mask, Floats a, Floats b) { return _mm512_mask_cmp_ps_mask(mask, a, b, _CMP_NGT_UQ); }
// A bit a row of a panel.
inline uint32_t join(const Mask (&part)[2]) { return _mm512_kunpackw(part[1], part[0]); }

inline Floats widen(__m256i bfloat16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bfloat16), 16));
}

template <Type kType>
[[gnu::always_inline]] inline Floats load(const char* row, int64_t at) {
  if constexpr (kType == Type::kFloat32) return _mm512_loadu_ps(row + 4 * at);
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + 2 * at));
  return kType == Type::kBFloat16 ? widen(half) : _mm512_cvtph_ps(half);
}
// Elements from `at` on of a row of d, zeros beyond.
template <Type kType>
[[gnu::always_inline]] inline Floats load_some(const char* row, int64_t at, int64_t d) {
  const int64_t left = d - at;
  const Mask mask = left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
  if constexpr (kType == Type::kFloat32) return _mm512_maskz_loadu_ps(mask, row + 4 * at);
  const __m256i half = _mm256_maskz_loadu_epi16(mask, row + 2 * at);
  return kType == Type::kBFloat16 ? widen(half) : _mm512_cvtph_ps(half);
}
#else
using Floats = __m256;
using Ints = __m256i;
struct Line {  // 64 bytes
  __m256i half[2];
};
using Mask = uint32_t;

inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline Ints load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store(int32_t* p, Ints x) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), x); }
inline void store(void* p, Line line) {
  _mm256_store_si256(static_cast<__m256i*>(p), line.half[0]);
  _mm256_store_si256(static_cast<__m256i*>(p) + 1, line.half[1]);
}
inline Floats all(float x) { return _mm256_set1_ps(x); }
inline Ints all(int32_t x) { return _mm256_set1_epi32(x); }
inline Line no_line() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }

inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats fmadd(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats fmsub(Floats a, Floats b, Floats c) { return _mm256_fmsub_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats absolute(Floats x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
inline float sum_of(Floats x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest_of(Floats x) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline Ints nearest(Floats x) { return _mm256_cvtps_epi32(x); }
inline Floats to_floats(Ints x) { return _mm256_cvtepi32_ps(x); }
inline Floats beyond_nearest(Floats x, Ints nearest) { return _mm256_sub_ps(x, _mm256_cvtepi32_ps(nearest)); }
inline Floats keep_and_flip(Floats x, Ints keep, Ints flip) {
  return _mm256_xor_ps(_mm256_and_ps(x, _mm256_castsi256_ps(keep)), _mm256_castsi256_ps(flip));
}

inline Mask bits(Floats x) { return static_cast<Mask>(_mm256_movemask_ps(x)); }
inline Mask equal(Ints a, Ints b) { return bits(_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b))); }
inline Mask not_below(Floats a, Floats b) { return bits(_mm256_cmp_ps(a, b, _CMP_NLT_UQ)); }
inline Mask and_not_above(Mask mask, Floats a, Floats b) { return mask & bits(_mm256_cmp_ps(a, b, _CMP_NGT_UQ)); }
inline uint32_t join(const Mask (&part)[4]) { return part[0] | part[1] << 8 | part[2] << 16 | part[3] << 24; }

template <Type kType>
[[gnu::always_inline]] inline Floats load(const char* row, int64_t at) {
  if constexpr (kType == Type::kFloat32) return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + at);
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 2 * at));
  return kType == Type::kBFloat16 ? _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))
                                  : _mm256_cvtph_ps(half);
}
// Elements from `at` on of a row of d, zeros beyond.
template <Type kType>
[[gnu::always_inline]] inline Floats load_some(const char* row, int64_t at, int64_t d) {
  if (at + 8 <= d) return load<kType>(row, at);
  constexpr int64_t size = kType == Type::kFloat32 ? 4 : 2;
  char there[8 * size] = {};
  if (at < d) std::memcpy(there, row + size * at, size * (d - at));
  return load<kType>(there, 0);
}
#endif

constexpr int kLanes = sizeof(Floats) / 4;

}  // namespace
}  // namespace tla::cpu::screen
