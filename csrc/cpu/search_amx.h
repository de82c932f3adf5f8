// The search with the AMX unit as its screen.
#pragma once

#include <algorithm>

#include "amx.h"
#include "search_state.h"

namespace tla::cpu {

#ifdef TLA_HAVE_AMX

// Raises a bound on |r| / |x|, with a margin for the float32 sum that measured it. Rows that are always looked at do
// not count; of rows so short that the measure may have underflowed, nothing is known, but a cosine does not need them.
inline void raise(double& bound, float residual, double x2, Metric metric) {
  if (x2 >= kTinySquaredNorm && x2 < kHugeSquaredNorm<float>)
    bound = std::max(bound, 1.001 * std::sqrt(residual / x2));
  else if (x2 > 0 && x2 < kTinySquaredNorm && !is_cosine(metric))
    bound = std::max(bound, 1.0);
}

// Queries [first, first + count) against candidates [begin, end), improving the picks in `out`. Returns where it
// stopped: before the end where candidates crowd so close that a product in float32 pays.
inline int64_t amx_task(const Search<float>& search, const SearchPlan& plan, int64_t first, int64_t count,
                        int64_t begin, int64_t end, Pick<float>* out) {
  constexpr int64_t kPanel = amx::kPanel;
  const int64_t d = search.anchor.cols, panels = ceil_div(count, kPanel), ld = panels * kPanel;
  Product<float> product = Product<float>::of_measured(d);
  const double additions = product.error;
  std::vector<float> buffer;
  const Block<float> block = search.gather_anchors(first, count, buffer);
  std::vector<Row<float>> rows = search.make_rows(block, first, count, product, out);

  // A cache line of slack each, to start on one.
  std::vector<uint16_t> packed(panels * amx::panel_size(d) + 32), panel(amx::panel_size(d) + 32);
  const auto aligned = [](std::vector<uint16_t>& v) {
    return reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(v.data()) + 63) / 64 * 64);
  };
  uint16_t *anchors = aligned(packed), *candidates = aligned(panel);
  float residuals[kPanel];
  double anchor_rounding = 0;
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t n = std::min(kPanel, count - p * kPanel);
    amx::pack_anchors(block.row(p * kPanel), block.stride, n, d, anchors + p * amx::panel_size(d), residuals);
    for (int64_t i = 0; i < n; ++i) raise(anchor_rounding, residuals[i], rows[p * kPanel + i].x2, search.metric);
  }

  std::vector<float> low(ld), high(ld), scale(ld), scores(kPanel * ld);
  std::vector<int32_t> code(ld), equal(ld), hits(ld);
  for (int64_t i = 0; i < count; ++i) {
    const Row<float>& row = rows[i];
    const bool huge = row.huge(search.metric);
    low[i] = static_cast<float>(row.lower_limit(search.metric, true));
    high[i] = huge ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    scale[i] = huge ? 0 : static_cast<float>(is_cosine(search.metric) ? std::sqrt(row.x2) : row.x2);
    code[i] = row.query.rule.code;
    equal[i] = row.query.rule.equal ? -1 : 0;
  }
  const amx::Limits limits{low.data(), high.data(), scale.data(), code.data(), equal.data()};
  const amx::Session session;
  Tile<float> tile(plan);
  int64_t looked_at = 0, c = begin;
  for (; c < end; c += kPanel) {
    // A hit costs as much as about ten float32 products; the first panels, which set the limits, do not count.
    const int64_t seen = c - begin;
    if (seen == 8 * kPanel) looked_at = 0;
    if (seen >= 16 * kPanel && looked_at > (seen - 8 * kPanel) * count / 12) break;
    const int64_t n = std::min(kPanel, end - c);
    const int32_t* codes = search.codes.data() + c;
    if (std::all_of(codes, codes + n, [](int32_t label) { return label == kNeverCode; })) continue;
    tile.read(search.metric, search.candidates, c, n);
    amx::pack_candidates(tile.rows.data, tile.rows.stride, n, d, candidates, residuals);
    amx::multiply(candidates, anchors, panels, d, scores.data(), ld);
    double rounding = 0;
    for (int64_t j = 0; j < n; ++j) raise(rounding, residuals[j], tile.y2[j], search.metric);
    product.error = additions + rounding + anchor_rounding + rounding * anchor_rounding;
    const float error = static_cast<float>(product.error);
    tile.set_scores(search.metric, n, search.farthest, product);
    for (int64_t j = 0; j < n; ++j) {
      if (codes[j] == kNeverCode) continue;
      const float* s = scores.data() + j * ld;
      const int64_t found = amx::scan(limits, s, count, tile.offset[j], tile.weight[j], error, tile.widest, codes[j],
                                      search.metric == Metric::kAngular, hits.data());
      for (int64_t h = 0; h < found; ++h) {
        const int64_t i = hits[h];
        if (!search.visit(rows[i], tile, product, s[i], j, c + j)) continue;
        ++looked_at;
        const float score = tile.offset[j] + tile.weight[j] * magnitude(search.metric, s[i]);
        const float limit = score + tile.width[j] + error * scale[i];
        if (limit < high[i]) high[i] = limit;
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
