// Compiled for AVX-512 with bfloat16 and AMX.
#include "amx.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

namespace tla::cpu::amx {
namespace {

constexpr int64_t kTile = 16 * 32;  // elements of one tile: 16 rows of 64 bytes

// 32 columns of a row as bfloat16, of which the first `n` are there; what rounding took away goes, squared, into
// `lost`.
__m512i round_row(const float* x, int64_t n, __m512& lost) {
  const __mmask16 below = n >= 16 ? 0xffff : (1u << n) - 1;
  const __mmask16 above = n >= 32 ? 0xffff : n > 16 ? (1u << (n - 16)) - 1 : 0;
  const __m512 low = _mm512_maskz_loadu_ps(below, x), high = _mm512_maskz_loadu_ps(above, x + 16);
  const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(high, low);
  const auto widen = [](__m256i half) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  };
  const __m512 r_low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(rounded)));
  const __m512 r_high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64(rounded, 1)));
  lost = _mm512_fmadd_ps(r_low, r_low, _mm512_fmadd_ps(r_high, r_high, lost));
  return rounded;
}

}  // namespace

// Panel layout: for each 32 columns two tiles of 16 rows.
void pack_candidates(const float* rows, int64_t stride, int64_t count, int64_t d, uint16_t* panel, float* residuals) {
  for (int64_t j = 0; j < kPanel; ++j) {
    __m512 lost = _mm512_setzero_ps();
    uint16_t* out = panel + j * 32;
    for (int64_t k = 0; k < d; k += 32, out += 2 * kTile)
      _mm512_store_si512(out, j < count ? round_row(rows + j * stride + k, std::min<int64_t>(32, d - k), lost)
                                        : _mm512_setzero_si512());
    residuals[j] = _mm512_reduce_add_ps(lost);
  }
}

void pack_anchors(const float* rows, int64_t stride, int64_t count, int64_t d, uint16_t* panel, float* residuals) {
  for (int64_t i = 0; i < kPanel; ++i) {
    __m512 lost = _mm512_setzero_ps();
    uint16_t* tile = panel + i / 16 * kTile;
    for (int64_t k = 0; k < d; k += 32, tile += 2 * kTile) {
      alignas(64) uint32_t pairs[16] = {};
      if (i < count) _mm512_store_si512(pairs, round_row(rows + i * stride + k, std::min<int64_t>(32, d - k), lost));
      for (int64_t p = 0; p < 16; ++p) std::memcpy(tile + p * 32 + i % 16 * 2, &pairs[p], 4);
    }
    residuals[i] = _mm512_reduce_add_ps(lost);
  }
}

Session::Session() {
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int t = 0; t < 8; ++t) config.bytes[t] = 64, config.rows[t] = 16;
  asm volatile("" ::: "memory");
  _tile_loadconfig(&config);
}

Session::~Session() { _tile_release(); }

void multiply(const uint16_t* candidates, const uint16_t* anchors, int64_t panels, int64_t d, float* scores,
              int64_t ld) {
  // The compiler does not know that tile loads read memory.
  asm volatile("" ::: "memory");
  const int64_t steps = (d + 31) / 32;
  for (int64_t panel = 0; panel < panels; ++panel) {
    const uint16_t *c = candidates, *a = anchors + panel * steps * 2 * kTile;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < steps; ++k, c += 2 * kTile, a += 2 * kTile) {
      _tile_loadd(4, c, 64);
      _tile_loadd(6, a, 64);
      _tile_loadd(7, a + kTile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, c + kTile, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    float* out = scores + panel * kPanel;
    _tile_stored(0, out, ld * 4);
    _tile_stored(1, out + 16, ld * 4);
    _tile_stored(2, out + 16 * ld, ld * 4);
    _tile_stored(3, out + 16 * ld + 16, ld * 4);
  }
  asm volatile("" ::: "memory");
}

int64_t scan(const Limits& limits, const float* s, int64_t n, float offset, float weight, float error, float below,
             int32_t code, bool absolute, int32_t* hits) {
  const __m512 o = _mm512_set1_ps(offset), w = _mm512_set1_ps(weight), e = _mm512_set1_ps(error);
  const __m512 under = _mm512_set1_ps(below);
  const __m512 sign = _mm512_castsi512_ps(_mm512_set1_epi32(absolute ? 0x7fffffff : -1));
  const __m512i wanted = _mm512_set1_epi32(code);
  int64_t found = 0;
  for (int64_t i = 0; i < n; i += 16) {
    const __m512 score = _mm512_fmadd_ps(w, _mm512_and_ps(_mm512_loadu_ps(s + i), sign), o);
    const __m512 scale = _mm512_loadu_ps(limits.scale + i);
    const __m512 high = _mm512_fmadd_ps(e, scale, _mm512_loadu_ps(limits.high + i));
    // Negated, so that a NaN passes.
    const __mmask16 not_above = ~_mm512_cmp_ps_mask(score, high, _CMP_GT_OQ);
    const __m512 low = _mm512_sub_ps(_mm512_fnmadd_ps(e, scale, _mm512_loadu_ps(limits.low + i)), under);
    const __mmask16 not_below = ~_mm512_cmp_ps_mask(score, low, _CMP_LT_OQ);
    const __mmask16 same = _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(limits.code + i), wanted);
    const __mmask16 equal = _mm512_movepi32_mask(_mm512_loadu_si512(limits.equal + i));
    __mmask16 hit = not_above & not_below & ~(same ^ equal);
    if (hit == 0) continue;
    if (i + 16 > n) hit &= (1u << (n - i)) - 1;
    _mm512_mask_compressstoreu_epi32(
        hits + found, hit,
        _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(i)),
                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
    found += __builtin_popcount(hit);
  }
  return found;
}

}  // namespace tla::cpu::amx
