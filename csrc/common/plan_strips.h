// How the wgmma screen's clusters share a product: pure host code, reachable from Python through `_build_info`.
#pragma once

#include "plan.h"

namespace tla {

inline constexpr int kPairRows = 256, kStripColumns = 256;  // of a pair of tiles of anchors; of a tile of candidates

// Pairs of tiles of anchors come in groups, whose anchors stay in the second-level cache while all strips of candidates
// pass by; a cluster takes one pair and one strip at a time.
struct Strips {
  int pairs = 0, group = 1;
  int tiles = 0, strips = 0, strip = 1;  // tiles of candidates, strips, tiles of a strip
};
inline Strips plan_strips(int64_t rows, int64_t columns, int padded, int64_t clusters) {
  constexpr int64_t kCacheBytes = int64_t{30} << 20;
  const int64_t pairs = ceil_div(rows, kPairRows), tiles = ceil_div(columns, kStripColumns);
  const int64_t group =
      std::clamp<int64_t>(kCacheBytes / (int64_t{kPairRows} * padded * 2), 1, std::min(pairs, clusters));
  // As many strips at least as keep all clusters in one group; more, where that leaves fewer of them idle at the end.
  int64_t best = 0, least = 0;
  for (int64_t strips = std::min(tiles, std::max<int64_t>(1, clusters / group));
       strips <= std::min(tiles, 4 * clusters); ++strips) {
    // A strip's start costs about as much as a quarter of a tile.
    const int64_t cost = ceil_div(pairs * strips, clusters) * (4 * ceil_div(tiles, strips) + 1);
    if (best == 0 || cost < least) best = strips, least = cost;
  }
  const int64_t strip = ceil_div(tiles, std::max<int64_t>(1, best));
  return {static_cast<int>(pairs), static_cast<int>(group), static_cast<int>(tiles),
          static_cast<int>(ceil_div(tiles, strip)), static_cast<int>(strip)};
}

}  // namespace tla
