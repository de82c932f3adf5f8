// The search by the sums that decide: a tile of pairs at a time, then a scan for those that may beat an anchor's best.
#pragma once

#include "search_state.h"

namespace tla::cpu {

// What the scan compares, side by side, for panels of anchors. A candidate's score is a cheap stand-in for its
// distance:
// -<a, c> / |c| for the cosines (|<a, c>| for angular), the sum itself for the others, negated to search for the
// farthest. It grows with the distance but for the rounding of double precision, to which kSlack belongs: distances are
// rounded to T afterwards, which cannot change the order of two, only make them equal, and then the first one stays.
template <class T>
class TileState {
 public:
  static constexpr int64_t kWidth = kPanelAnchors<T>;
  static constexpr double kSlack = 0x1p-48;

  TileState(const Search<T>& search, std::vector<Anchor<T>>& anchors)
      : search_(search),
        anchors_(anchors),
        panels_(ceil_div(anchors.size(), kWidth)),
        high_(panels_ * kWidth, -std::numeric_limits<double>::infinity()),
        low_(panels_ * kWidth, -std::numeric_limits<double>::infinity()),
        seen_square_(panels_ * kWidth, 0),
        seen_sum_(panels_ * kWidth, std::numeric_limits<T>::quiet_NaN()),
        near_(panels_ * kWidth, -std::numeric_limits<T>::infinity()),
        code_(panels_ * kWidth, 0),
        equal_(panels_ * kWidth, 0) {
    for (size_t i = 0; i < anchors.size(); ++i) {
      const Anchor<T>& a = anchors[i];
      const bool huge = a.huge(search.metric);
      const double limit = lowest(a);
      if (std::isfinite(limit) && !huge) low_[i] = limit - kSlack * std::fabs(limit);
      if (!a.settled()) set_high(i, std::numeric_limits<double>::infinity());
      if (huge) set_high(i, std::numeric_limits<double>::quiet_NaN());
      code_[i] = a.query.rule.code;
      equal_[i] = a.query.rule.equal;
    }
  }

  int64_t panels() const { return panels_; }

  // Looks through the scores of panel p and n candidates from c on.
  void scan(int64_t p, const T* sums, int64_t lds, const Block<T>& rows, const TileCandidates& candidates, int64_t c,
            int64_t n) {
    const int64_t at = p * kWidth;
    const TileLimits<T> limits{&high_[at],        &low_[at],  &near_[at],  &seen_sum_[at],
                               &seen_square_[at], &code_[at], &equal_[at], search_.metric == Metric::kAngular};
    uint32_t masks[kMost];
    if (tile_kernels<T>().hits(limits, candidates, sums, lds, n, masks) == 0) return;
    for (int64_t j = 0; j < n; ++j)
      for (uint32_t mask = masks[j]; mask != 0; mask &= mask - 1) {
        const int i = __builtin_ctz(mask);
        if (at + i >= static_cast<int64_t>(anchors_.size())) break;
        visit(at + i, sums[j * lds + i], rows.row(j), candidates.weight[j], candidates.square[j], c + j);
      }
  }

  static constexpr int64_t kMost = 64;  // candidates of a tile

 private:
  // The score of a candidate as far away as the anchor's `above`.
  double lowest(const Anchor<T>& a) const {
    const double above = a.query.above;
    if (is_cosine(search_.metric)) return (above - 1) * std::sqrt(a.x2) - kSlack * std::sqrt(a.x2);
    return search_.metric == Metric::kEuclidean ? above * above : above;
  }

  void set_high(int64_t i, double limit) {
    constexpr double kRounding = 4 * std::numeric_limits<T>::epsilon(), kSmallest = 4 * std::numeric_limits<T>::min();
    high_[i] = limit;
    near_[i] = static_cast<T>(std::isinf(limit) ? limit : limit + kRounding * std::fabs(limit) + kSmallest);
  }

  void visit(int64_t i, T sum, const T* y, double weight, double square, int64_t candidate) {
    Anchor<T>& a = anchors_[i];
    if (!search_.decide(a, candidate, sum, y, square)) return;
    // Copies of this candidate are no better. Where sums in T may have overflowed, equal ones are no copies.
    const bool reliable = !std::isnan(weight) && !a.huge(search_.metric);
    seen_sum_[i] = reliable ? sum : std::numeric_limits<T>::quiet_NaN();
    seen_square_[i] = square;
    if (a.settled()) set_high(i, -std::numeric_limits<double>::infinity());
    const double score = weight * static_cast<double>(search_.metric == Metric::kAngular ? std::fabs(sum) : sum);
    const double limit = score + kSlack * std::fabs(score);
    if (limit < high_[i]) set_high(i, limit);
  }

  const Search<T>& search_;
  std::vector<Anchor<T>>& anchors_;
  const int64_t panels_;
  std::vector<double> high_, low_, seen_square_;
  std::vector<T> seen_sum_, near_;
  std::vector<int32_t> code_, equal_;
};

// Candidates of a tile as the scan reads them.
template <class T>
class TileRows {
 public:
  static constexpr int64_t kMost = TileState<T>::kMost;

  Block<T> rows;

  TileCandidates read(const Search<T>& search, int64_t first, int64_t count) {
    rows = consecutive(search.candidates, first, count, buffer_);
    T squares[kMost];
    const Metric metric = search.metric;
    if (metric != Metric::kChebyshev) row_kernels<T>().squares(rows.data, rows.stride, count, search.dim(), squares);
    const double sign = search.farthest ? -1 : 1;
    for (int64_t j = 0; j < count; ++j) {
      square_[j] = metric == Metric::kChebyshev ? 0 : squared_norm_from(squares[j], rows.row(j), search.dim());
      weight_[j] = sign;
      if (is_cosine(metric)) weight_[j] = square_[j] < kTinySquaredNorm ? 0 : -sign / std::sqrt(square_[j]);
      if (!(square_[j] < kHugeSquaredNorm<T>)) weight_[j] = std::numeric_limits<double>::quiet_NaN();  // always a hit
    }
    return {weight_, square_, search.codes.data() + first};
  }

  // Has a share of the rows that are read next come into the cache meanwhile.
  static void fetch(const Search<T>& search, int64_t first, int64_t count, int64_t share, int64_t shares) {
    const Matrix& m = search.candidates;
    if (m.row_stride != m.cols || m.col_stride != 1) return;
    const int64_t row = m.cols * size_of(m.type), lines = ceil_div(ceil_div(count * row, 64), shares);
    const char* p = m.data + first * row + share * lines * 64;
    for (int64_t n = 0; n < lines; ++n) __builtin_prefetch(p + n * 64);
  }

 private:
  std::vector<T> buffer_;
  double weight_[kMost], square_[kMost];
};

// Queries [first, first + count) against candidates [begin, end), improving the picks in `out`.
template <class T>
void tile_task(const Search<T>& search, const SearchPlan& plan, int64_t first, int64_t count, int64_t begin,
               int64_t end, Pick<T>* out) {
  constexpr int64_t kWidth = kPanelAnchors<T>;
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t d = search.dim(), panels = ceil_div(count, kWidth);
  const bool packed = plan.kind != SearchPlan::kSums;
  // One or two anchors that would begin a vector of columns are summed as rows, which is less than that vector's work.
  constexpr int64_t kLanes = 64 / sizeof(T), kApart = 2;
  const int64_t apart = packed && count > kLanes && count % kLanes <= kApart ? count % kLanes : 0;
  const int64_t columned = count - apart;
  const int64_t tile = packed ? kernels.candidates : std::min<int64_t>(plan.tile, TileState<T>::kMost);
  const Sum sum = sum_of(search.metric);
  std::vector<T> buffer;
  const Block<T> block = search.gather_anchors(first, count, buffer);
  std::vector<Anchor<T>> anchors = search.make_anchors(block, first, count, out);
  TileState<T> state(search, anchors);

  const int64_t panel_size = packed_size<T>(kWidth, d);
  const Aligned<T> columns(packed ? panels * panel_size + packed_size<T>(tile, d) : 0);
  T* const candidates = columns.data() + panels * panel_size;
  for (int64_t p = 0; packed && p * kWidth < columned; ++p)
    kernels.pack(block.row(p * kWidth), block.stride, std::min(kWidth, columned - p * kWidth), kWidth, d,
                 columns.data() + p * panel_size);
  // Rows are summed for all panels at once, columns panel by panel.
  const int64_t lds = packed ? kWidth : panels * kWidth;
  const Aligned<T> sums(tile * lds);
  std::fill_n(sums.data(), tile * lds, T(0));
  TileRows<T> rows;
  for (int64_t c = begin; c < end; c += tile) {
    const int64_t n = std::min(tile, end - c);
    if (search.all_never(c, n)) continue;
    const TileCandidates scored = rows.read(search, c, n);
    if (packed)
      kernels.pack(rows.rows.data, rows.rows.stride, n, tile, d, candidates);
    else
      row_kernels<T>().pairs(sum, rows.rows.data, rows.rows.stride, n, block.data, block.stride, count, d, sums.data(),
                             lds);
    for (int64_t p = 0; p < panels; ++p) {
      if (packed && c + tile < end) rows.fetch(search, c + tile, std::min(tile, end - c - tile), p, panels);
      const int64_t here = std::min(kWidth, columned - p * kWidth);
      if (packed && here > 0) kernels.sums(sum, columns.data() + p * panel_size, candidates, here, d, sums.data());
      if (apart > 0 && p + 1 == panels) {
        T of_rows[kApart * TileState<T>::kMost];
        row_kernels<T>().pairs(sum, block.row(columned), block.stride, apart, rows.rows.data, rows.rows.stride, n, d,
                               of_rows, n);
        for (int64_t i = 0; i < apart; ++i)
          for (int64_t j = 0; j < n; ++j) sums.data()[j * lds + here + i] = of_rows[i * n + j];
      }
      state.scan(p, sums.data() + (packed ? 0 : p * kWidth), lds, rows.rows, scored, c, n);
    }
  }
  for (int64_t i = 0; i < count; ++i) out[i] = anchors[i].best;
}

}  // namespace tla::cpu
