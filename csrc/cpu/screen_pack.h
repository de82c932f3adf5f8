// What the screens have in common where they pack rows; each compiles it for its own instruction set.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "screen.h"

namespace tla::cpu::screen {
namespace {

constexpr int64_t kTile = 16 * 64;  // bytes: 16 rows of a cache line

__m512 widen(__m256i bfloat16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bfloat16), 16)); }

// A row's columns are fetched while those of the row kAhead before it are packed.
constexpr int64_t kAhead = 4;
template <Type kType, int64_t kColumns>
[[gnu::always_inline]] inline void fetch(const char* later, int64_t k) {
  for (int64_t byte = 0; byte < size_of(kType) * kColumns; byte += 64)
    _mm_prefetch(later + size_of(kType) * k + byte, _MM_HINT_T0);
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

// A vector without a direction has none here, either.
float inverse_norm(float square) { return square < 1e-24f ? 0 : 1 / std::sqrt(square); }

// Panel layout: for each 64 bytes of a row two tiles of 16 rows.
char* tile_of(char* panel, int64_t row, int64_t line) { return panel + (line * 2 + row / 16) * kTile; }

// Puts a cache line of a row away as it is.
struct StoreRow {
  char* panel;
  void operator()(__m512i line, int64_t row, int64_t n) const {
    _mm512_store_si512(tile_of(panel, row, n) + row % 16 * 64, line);
  }
};

// The tile turned over, by units of four bytes: a lane a row.
struct StoreLane {
  char* panel;
  void operator()(__m512i line, int64_t row, int64_t n) const {
    alignas(64) uint32_t units[16];
    _mm512_store_si512(units, line);
    char* tile = tile_of(panel, row, n) + row % 16 * 4;
    for (int64_t u = 0; u < 16; ++u) std::memcpy(tile + u * 64, &units[u], 4);
  }
};

// Format::pack_row<type, centered>(row, later, d, center, facts, i, store) packs row i and measures it; `store(line, i,
// n)` puts away its n-th cache line, of Format::kColumns elements.
template <class Format, Type kType, class Store>
void pack_as(const Rows& rows, const Center& center, Facts& facts, const Store& store) {
  const auto pack_row =
      center.mean ? Format::template pack_row<kType, true, Store> : Format::template pack_row<kType, false, Store>;
  std::memset(facts.sum, 0, sizeof(facts.sum));
  for (int64_t i = 0; i < rows.count; ++i)
    pack_row(rows.data + i * rows.stride, rows.data + (i + kAhead) * rows.stride, rows.d, center, facts, i, store);
  for (int64_t i = rows.count; i < kPanel; ++i)
    for (int64_t n = 0; n * Format::kColumns < rows.d; ++n) store(_mm512_setzero_si512(), i, n);
}

template <class Format, class Store>
void pack(const Rows& rows, const Center& center, char* panel, Facts& facts) {
  const Store store{panel};
  if (rows.type == Type::kFloat32)
    pack_as<Format, Type::kFloat32>(rows, center, facts, store);
  else if (rows.type == Type::kBFloat16)
    pack_as<Format, Type::kBFloat16>(rows, center, facts, store);
  else
    pack_as<Format, Type::kFloat16>(rows, center, facts, store);
}

}  // namespace
}  // namespace tla::cpu::screen
