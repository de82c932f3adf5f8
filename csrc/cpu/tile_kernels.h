// The vector code of the search: sums over pairs with an anchor in each lane, the scan of such sums, and a second look
// at single pairs. One file an instruction set implements it; `tile_kernels()` goes with `row_kernels()`.
#pragma once

#include "row_kernels.h"

namespace tla::cpu {

// Anchors of a panel: two vectors of 64 bytes.
template <class T>
inline constexpr int64_t kPanelAnchors = 128 / sizeof(T);

// What a scan looks for. The score of anchor i and a candidate is weight * s, with |s| where `absolute`; it is a hit
// unless score > high[i] or score < low[i], so that a NaN, in a score or a limit, always is one; and unless both the
// sum and the candidate's squared norm are those of the anchor's best, which comes first among its copies.
template <class T>
struct TileLimits {
  const double *high, *low;
  const T* near;  // not below `high`, by more than T rounds a score
  const T* seen_sum;
  const double* seen_square;
  const int32_t *code, *equal;  // equal: 1 where only candidates of the anchor's code count, 0 where all others do
  bool absolute;
};

struct TileCandidates {
  const double *weight, *square;
  const int32_t* code;
};

template <class T>
struct TileKernels {
  int64_t candidates;  // that `sums` takes at a time
  // Lays rows out for `sums`, `width` (candidates, or a panel of anchors) side by side; those beyond `count` are zeros.
  void (*pack)(const T* rows, int64_t stride, int64_t count, int64_t width, int64_t d, T* out);
  // out[j * kPanelAnchors + i] = the sum of anchor i and candidate j, with the bits of RowKernels::pairs. Vectors of
  // anchors beyond the first `count` are left out.
  void (*sums)(Sum sum, const T* anchors, const T* candidates, int64_t count, int64_t d, T* out);
  // masks[j] gets bit i where s[j * lds + i] is a hit, for n candidates. Returns all of them together.
  uint32_t (*hits)(const TileLimits<T>& limits, const TileCandidates& candidates, const T* s, int64_t lds, int64_t n,
                   uint32_t* masks);
  // sums[r] = the sum of x and rows[r], squares[r] = that of rows[r] with itself with the
  // bits of RowKernels::pairs.
  void (*look)(Sum sum, const T* x, const T* const* rows, int64_t n, int64_t d, T* sums, T* squares);
};

template <class T>
const TileKernels<T>& tile_kernels();

// Elements that `pack` writes for `width` rows.
template <class T>
int64_t packed_size(int64_t width, int64_t d) {
  constexpr int64_t lanes = 64 / sizeof(T);
  return (d + lanes - 1) / lanes * lanes * width;
}

}  // namespace tla::cpu
