// What the screens have in common where they pack rows; each compiles it for its own instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "screen.h"
#include "screen_vector.h"

namespace tla::cpu::screen {
namespace {

constexpr int64_t kTile = 16 * 64;  // bytes: 16 rows of a cache line

// A row's columns are fetched while those of the row kAhead before it are packed.
constexpr int64_t kAhead = 4;
template <Type kType, int64_t kColumns>
[[gnu::always_inline]] inline void fetch(const char* later, int64_t k) {
  for (int64_t byte = 0; byte < size_of(kType) * kColumns; byte += 64)
    _mm_prefetch(later + size_of(kType) * k + byte, _MM_HINT_T0);
}

// A vector without a direction has none here, either.
float inverse_norm(float square) { return square < 1e-24f ? 0 : 1 / std::sqrt(square); }

// Panel layout: kGroup rows lie together, their first cache lines, then their second ones, and so on; 16 rows of these
// are a tile.
template <int64_t kGroup>
char* tile_of(char* panel, int64_t lines, int64_t row, int64_t n) {
  if constexpr (kGroup < kPanel) panel += row / kGroup * lines * kGroup * 64;
  return panel + n * kGroup * 64 + row % kGroup / 16 * kTile;
}

// Puts a cache line of a row away as it is.
template <int64_t kGroup>
struct StoreRow {
  char* panel;
  int64_t lines;
  void operator()(Line line, int64_t row, int64_t n) const {
    screen::store(tile_of<kGroup>(panel, lines, row, n) + row % std::min<int64_t>(kGroup, 16) * 64, line);
  }
};

// The tile turned over, by units of four bytes: a lane a row.
template <int64_t kGroup>
struct StoreLane {
  char* panel;
  int64_t lines;
  void operator()(Line line, int64_t row, int64_t n) const {
    alignas(64) uint32_t units[16];
    screen::store(units, line);
    char* tile = tile_of<kGroup>(panel, lines, row, n) + row % 16 * 4;
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
    for (int64_t n = 0; n * Format::kColumns < rows.d; ++n) store(no_line(), i, n);
}

template <class Format, class Store>
void pack(const Rows& rows, const Center& center, char* panel, Facts& facts) {
  const Store store{panel, (rows.d + Format::kColumns - 1) / Format::kColumns};
  if (rows.type == Type::kFloat32)
    pack_as<Format, Type::kFloat32>(rows, center, facts, store);
  else if (rows.type == Type::kBFloat16)
    pack_as<Format, Type::kBFloat16>(rows, center, facts, store);
  else
    pack_as<Format, Type::kFloat16>(rows, center, facts, store);
}

}  // namespace
}  // namespace tla::cpu::screen
