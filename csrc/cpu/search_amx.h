// The search with the AMX unit as its screen.
#pragma once

#include <algorithm>

#include "amx.h"
#include "search_state.h"

namespace tla::cpu {

#ifdef TLA_HAVE_AMX

// Queries [first, first + count) against candidates [begin, end), improving the picks in `out`. Returns where it
// stopped: before the end where candidates crowd so close that a product in float32 pays.
inline int64_t amx_task(const Search<float>& search, const SearchPlan& plan, int64_t first, int64_t count,
                        int64_t begin, int64_t end, Pick<float>* out) {
  constexpr int64_t kPanel = amx::kPanel;
  const int64_t d = search.anchor.cols, panels = ceil_div(count, kPanel), ld = panels * kPanel;
  const Product<float> product = Product<float>::of_bfloat16(d);
  std::vector<float> buffer;
  const Block<float> block = search.gather_anchors(first, count, buffer);
  std::vector<Row<float>> rows = search.make_rows(block, first, count, product, out);

  // A cache line of slack each, to start on one.
  std::vector<uint16_t> packed(panels * amx::panel_size(d) + 32), panel(amx::panel_size(d) + 32);
  const auto aligned = [](std::vector<uint16_t>& v) {
    return reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(v.data()) + 63) / 64 * 64);
  };
  uint16_t *anchors = aligned(packed), *candidates = aligned(panel);
  for (int64_t p = 0; p < panels; ++p)
    amx::pack_anchors(block.row(p * kPanel), block.stride, std::min(kPanel, count - p * kPanel), d,
                      anchors + p * amx::panel_size(d));

  std::vector<float> low(ld), high(ld), scores(kPanel * ld);
  std::vector<int32_t> code(ld), equal(ld), hits(ld);
  for (int64_t i = 0; i < count; ++i) {
    low[i] = rows[i].low;
    high[i] = rows[i].high;
    code[i] = rows[i].query.rule.code;
    equal[i] = rows[i].query.rule.equal ? -1 : 0;
  }
  const amx::Limits limits{low.data(), high.data(), code.data(), equal.data()};
  const amx::Session session;
  Tile<float> tile(plan);
  int64_t looked_at = 0, c = begin;
  for (; c < end; c += kPanel) {
    // A hit costs as much as about ten float32 products; the first panels, which set the limits, do not count.
    const int64_t seen = c - begin;
    if (seen == 8 * kPanel) looked_at = 0;
    if (seen >= 16 * kPanel && looked_at > (seen - 8 * kPanel) * count / 12) break;
    const int64_t n = std::min(kPanel, end - c);
    tile.load(search.metric, search.candidates, c, n, search.farthest, product);
    amx::pack_candidates(tile.rows.data, tile.rows.stride, n, d, candidates);
    amx::multiply(candidates, anchors, panels, d, scores.data(), ld);
    for (int64_t j = 0; j < n; ++j) {
      const int32_t candidate_code = search.codes[c + j];
      if (candidate_code == kNeverCode) continue;
      const float* s = scores.data() + j * ld;
      const int64_t found = amx::scan(limits, s, count, tile.offset[j], tile.weight[j], tile.widest, candidate_code,
                                      search.metric == Metric::kAngular, hits.data());
      looked_at += found;
      for (int64_t h = 0; h < found; ++h) {
        const int64_t i = hits[h];
        search.visit(rows[i], tile, product, s[i], j, c + j);
        high[i] = rows[i].high;
      }
    }
  }
  for (int64_t i = 0; i < count; ++i) out[i] = rows[i].best;
  return std::min(c, end);
}

#else

inline int64_t amx_task(const Search<float>&, const SearchPlan&, int64_t, int64_t, int64_t begin, int64_t,
                        Pick<float>*) {
  return begin;
}

#endif

}  // namespace tla::cpu
