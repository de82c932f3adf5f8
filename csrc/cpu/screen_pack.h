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

// Fetches a line's columns, from k on, of a row that is packed later.
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

}  // namespace
}  // namespace tla::cpu::screen
