// Compiled for AVX-512 with bfloat16 and AMX.
#include "amx.h"

#include <immintrin.h>

#include <cmath>
#include <cstring>

namespace tla::cpu::amx {
namespace {

constexpr int64_t kTile = 16 * 32;  // elements of one tile: 16 rows of 64 bytes

__m512 widen(__m256i bfloat16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bfloat16), 16)); }

// A row's columns are fetched while those of the row kAhead before it are packed.
constexpr int64_t kAhead = 4;
template <Type kType>
void fetch(const char* later, int64_t k) {
  _mm_prefetch(later + size_of(kType) * k, _MM_HINT_T0);
  if constexpr (kType == Type::kFloat32) _mm_prefetch(later + 4 * k + 64, _MM_HINT_T0);
}

// 16 elements from `at` on, zeros where `mask` has none.
template <Type kType>
__m512 load(const char* row, int64_t at, __mmask16 mask) {
  if constexpr (kType == Type::kFloat32) {
    return _mm512_maskz_loadu_ps(mask, row + 4 * at);
  } else {
    const __m256i half = _mm256_maskz_loadu_epi16(mask, row + 2 * at);
    return kType == Type::kBFloat16 ? widen(half) : _mm512_cvtph_ps(half);
  }
}

__mmask16 mask(int64_t left) { return left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0; }

// Calls chunk(k, low, high) for 32 columns from k on, of which the masks say what is there.
template <class Chunk>
[[gnu::always_inline]] inline void for_chunks(int64_t d, const Chunk& chunk) {
  int64_t k = 0;
  for (; k + 32 <= d; k += 32) chunk(k, 0xffff, 0xffff);
  if (k < d) chunk(k, mask(d - k), mask(d - k - 16));
}

// A vector without a direction has none here, either.
float inverse_norm(float square) { return square < 1e-24f ? 0 : 1 / std::sqrt(square); }

// bfloat16 without a center is multiplied as it is.
template <class Store>
void pack_as_it_is(const char* row, const char* later, int64_t d, const Center& center, Facts& facts, int64_t i,
                   const Store& store) {
  __m512 even = _mm512_setzero_ps(), odd = even;
  for_chunks(d, [&](int64_t k, __mmask16 first, __mmask16 second) __attribute__((always_inline)) {
    const __m512i bits = _mm512_maskz_loadu_epi16(_mm512_kunpackw(second, first), row + 2 * k);
    store(bits, i, k);
    fetch<Type::kBFloat16>(later, k);
    const __m512 low = widen(_mm512_castsi512_si256(bits)), high = widen(_mm512_extracti64x4_epi64(bits, 1));
    even = _mm512_fmadd_ps(low, low, even);
    odd = _mm512_fmadd_ps(high, high, odd);
  });
  const float square = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
  facts.square[i] = square;
  facts.size[i] = !center.unit ? square : square < 1e-24f ? 0 : 1;
  facts.lost[i] = facts.along[i] = 0;
  facts.scale[i] = center.unit ? inverse_norm(square) : 1;
}

// `store` puts 32 rounded columns of a row away.
template <Type kType, bool kCentered, class Store>
void pack_row(const char* row, const char* later, int64_t d, const Center& center, Facts& facts, int64_t i,
              const Store& store) {
  __m512 even = _mm512_setzero_ps(), odd = even, size = even, lost = even, along = even;
  for_chunks(d, [&](int64_t k, __mmask16 first, __mmask16 second) __attribute__((always_inline)) {
    const __m512 low = load<kType>(row, k, first), high = load<kType>(row, k + 16, second);
    even = _mm512_fmadd_ps(low, low, even);
    odd = _mm512_fmadd_ps(high, high, odd);
  });
  const float square = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
  const __m512 scale = _mm512_set1_ps(center.unit ? inverse_norm(square) : 1);
  for_chunks(d, [&](int64_t k, __mmask16 first, __mmask16 second) __attribute__((always_inline)) {
    __m512 low = _mm512_mul_ps(load<kType>(row, k, first), scale);
    __m512 high = _mm512_mul_ps(load<kType>(row, k + 16, second), scale);
    if constexpr (kCentered) {
      const __m512 mean_low = _mm512_loadu_ps(center.mean + k), mean_high = _mm512_loadu_ps(center.mean + k + 16);
      low = _mm512_sub_ps(low, mean_low);
      high = _mm512_sub_ps(high, mean_high);
      along = _mm512_fmadd_ps(low, mean_low, _mm512_fmadd_ps(high, mean_high, along));
    }
    const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    store(rounded, i, k);
    fetch<kType>(later, k);
    const __m512 lost_low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(rounded)));
    const __m512 lost_high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64(rounded, 1)));
    size = _mm512_fmadd_ps(low, low, _mm512_fmadd_ps(high, high, size));
    lost = _mm512_fmadd_ps(lost_low, lost_low, _mm512_fmadd_ps(lost_high, lost_high, lost));
  });
  facts.square[i] = square;
  facts.size[i] = _mm512_reduce_add_ps(size);
  facts.lost[i] = _mm512_reduce_add_ps(lost);
  facts.along[i] = kCentered ? _mm512_reduce_add_ps(along) : 0;
  facts.scale[i] = 1;
}

// Panel layout: for each 32 columns two tiles of 16 rows.
uint16_t* tile_of(uint16_t* panel, int64_t row, int64_t column) { return panel + (column / 32 * 2 + row / 16) * kTile; }

struct StoreRow {
  uint16_t* panel;
  void operator()(__m512i columns, int64_t row, int64_t column) const {
    _mm512_store_si512(tile_of(panel, row, column) + row % 16 * 32, columns);
  }
};

struct StorePairs {
  uint16_t* panel;
  void operator()(__m512i columns, int64_t row, int64_t column) const {
    alignas(64) uint32_t pairs[16];
    _mm512_store_si512(pairs, columns);
    uint16_t* tile = tile_of(panel, row, column) + row % 16 * 2;
    for (int64_t p = 0; p < 16; ++p) std::memcpy(tile + p * 32, &pairs[p], 4);
  }
};

template <Type kType, class Store>
void pack_as(const Rows& rows, const Center& center, Facts& facts, const Store& store) {
  constexpr auto plain = kType == Type::kBFloat16 ? pack_as_it_is<Store> : pack_row<kType, false, Store>;
  const auto pack_row_as = center.mean ? pack_row<kType, true, Store> : plain;
  for (int64_t i = 0; i < rows.count; ++i)
    pack_row_as(rows.data + i * rows.stride, rows.data + (i + kAhead) * rows.stride, rows.d, center, facts, i, store);
  for (int64_t i = rows.count; i < kPanel; ++i)
    for (int64_t k = 0; k < rows.d; k += 32) store(_mm512_setzero_si512(), i, k);
}

template <class Store>
void pack(const Rows& rows, const Center& center, Facts& facts, const Store& store) {
  if (rows.type == Type::kFloat32)
    pack_as<Type::kFloat32>(rows, center, facts, store);
  else if (rows.type == Type::kBFloat16)
    pack_as<Type::kBFloat16>(rows, center, facts, store);
  else
    pack_as<Type::kFloat16>(rows, center, facts, store);
}

// This thread's tiles, for as long as it lives.
class Session {
 public:
  Session() {
    struct alignas(64) Config {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int t = 0; t < 8; ++t) config.bytes[t] = 64, config.rows[t] = 16;
    // The compiler does not know that tile loads read memory.
    asm volatile("" ::: "memory");
    _tile_loadconfig(&config);
  }
  ~Session() { _tile_release(); }
};

// The scan of a panel's scores, a candidate at a time, so that the work can stand between multiplications.
template <bool kLimited>
class Scanner {
 public:
  Scanner(const Anchors& a, const Candidates& c, int64_t panel, const float* scores)
      : c_(c),
        scores_(scores),
        first_(panel * kPanel),
        equal_(a.equal[panel]),
        alive_(a.alive[panel]),
        keep_(_mm512_set1_epi32(static_cast<int>(a.keep))),
        flip_(_mm512_set1_epi32(static_cast<int>(a.flip))) {
    for (int h = 0; h < 2; ++h) {
      const int64_t i = first_ + 16 * h;
      offset_[h] = _mm512_loadu_ps(a.offset + i);
      code_[h] = _mm512_loadu_si512(a.code + i);
      const __m512 by_size = _mm512_fmadd_ps(_mm512_loadu_ps(a.size + i), _mm512_set1_ps(c.by_size),
                                             _mm512_add_ps(_mm512_loadu_ps(a.own + i), _mm512_set1_ps(c.rest)));
      const __m512 error = _mm512_fmadd_ps(_mm512_loadu_ps(a.lost + i), _mm512_set1_ps(c.by_lost), by_size);
      low_[h] = _mm512_sub_ps(_mm512_loadu_ps(a.best + i), error);
      if constexpr (kLimited) high_[h] = _mm512_add_ps(_mm512_loadu_ps(a.limit + i), error);
    }
  }

  [[gnu::always_inline]] void step() {
    if (candidate_ >= kPanel) return;
    const __m512 offset = _mm512_set1_ps(c_.offset[candidate_]), scale = _mm512_set1_ps(c_.scale[candidate_]);
    const __m512i code = _mm512_set1_epi32(c_.code[candidate_]);
    __mmask16 hit[2], same[2];
    for (int h = 0; h < 2; ++h) {
      const __m512 sum = _mm512_fmadd_ps(_mm512_load_ps(scores_ + candidate_ * kPanel + 16 * h), scale,
                                         _mm512_add_ps(offset_[h], offset));
      const __m512 score = _mm512_castsi512_ps(
          _mm512_ternarylogic_epi32(_mm512_castps_si512(sum), keep_, flip_, 0x6a));  // (sum & keep) ^ flip
      same[h] = _mm512_cmpeq_epi32_mask(code_[h], code);
      hit[h] = _mm512_cmp_ps_mask(score, low_[h], _CMP_NLT_UQ);
      if constexpr (kLimited) hit[h] = _mm512_mask_cmp_ps_mask(hit[h], score, high_[h], _CMP_NGT_UQ);
    }
    const uint32_t hits = _mm512_kunpackw(hit[1], hit[0]), equal = _mm512_kunpackw(same[1], same[0]);
    masks_[candidate_] = hits & ~(equal ^ equal_);
    any_ |= masks_[candidate_];
    ++candidate_;
  }

  int64_t finish(const Anchors& a, Hit* hits) {
    while (candidate_ < kPanel) step();
    if ((any_ & alive_) == 0) return 0;
    int64_t found = 0;
    for (int64_t j = 0; j < kPanel; ++j)
      for (uint32_t mask = masks_[j] & alive_; mask != 0; mask &= mask - 1) {
        const int i = __builtin_ctz(mask);
        const float sum = __builtin_fmaf(scores_[j * kPanel + i], c_.scale[j], a.offset[first_ + i] + c_.offset[j]);
        uint32_t bits;
        std::memcpy(&bits, &sum, 4);
        bits = (bits & a.keep) ^ a.flip;
        Hit& hit = hits[found++];
        std::memcpy(&hit.score, &bits, 4);
        hit.anchor = static_cast<int16_t>(first_ + i);
        hit.candidate = static_cast<int16_t>(j);
      }
    return found;
  }

 private:
  const Candidates& c_;
  const float* scores_;
  const int64_t first_;
  const uint32_t equal_, alive_;
  const __m512i keep_, flip_;
  __m512 offset_[2], low_[2], high_[2];
  __m512i code_[2];
  int64_t candidate_ = 0;
  uint32_t any_ = 0, masks_[kPanel];
};

template <bool kLimited>
int64_t scan_panels(const Anchors& a, const Candidates& c, float* scratch, Hit* hits) {
  const int64_t steps = padded(a.d) / 32, scans = (kPanel + steps - 1) / steps;
  const Session session;
  int64_t found = 0;
  // The unit multiplies a panel while the scores of the one before are scanned.
  const auto multiply = [&](int64_t panel, float* scores, const auto& between) __attribute__((always_inline)) {
    const uint16_t *left = c.rows, *right = a.rows + panel * steps * 2 * kTile;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < steps; ++k, left += 2 * kTile, right += 2 * kTile) {
      // Anchors come from the second-level cache, past the first, which candidates fill.
      _tile_stream_loadd(6, right, 64);
      _tile_loadd(4, left, 64);
      _tile_stream_loadd(7, right + kTile, 64);
      _tile_loadd(5, left + kTile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      between();
    }
    _tile_stored(0, scores, 4 * kPanel);
    _tile_stored(1, scores + 16, 4 * kPanel);
    _tile_stored(2, scores + 16 * kPanel, 4 * kPanel);
    _tile_stored(3, scores + 16 * kPanel + 16, 4 * kPanel);
    asm volatile("" ::: "memory");
  };
  const auto half = [&](int64_t panel) { return scratch + panel % 2 * kPanel * kPanel; };
  multiply(0, half(0), [] {});
  for (int64_t panel = 0; panel < a.panels; ++panel) {
    Scanner<kLimited> scanner(a, c, panel, half(panel));
    if (panel + 1 < a.panels)
      multiply(panel + 1, half(panel + 1), [&]() __attribute__((always_inline)) {
        for (int64_t n = 0; n < scans; ++n) scanner.step();
      });
    found += scanner.finish(a, hits + found);
  }
  return found;
}

}  // namespace

void pack_candidates(const Rows& rows, const Center& center, uint16_t* panel, Facts& facts) {
  pack(rows, center, facts, StoreRow{panel});
}

void pack_anchors(const Rows& rows, const Center& center, uint16_t* panel, Facts& facts) {
  pack(rows, center, facts, StorePairs{panel});
}

int64_t scan(const Anchors& anchors, const Candidates& candidates, float* scratch, Hit* hits) {
  return anchors.limit ? scan_panels<true>(anchors, candidates, scratch, hits)
                       : scan_panels<false>(anchors, candidates, scratch, hits);
}

}  // namespace tla::cpu::amx
