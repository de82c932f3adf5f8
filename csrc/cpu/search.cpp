#include "search.h"

#include <cmath>

#include "../common/plan.h"

namespace tla::cpu {
namespace {

template <class T>
constexpr T kRoundoff = std::numeric_limits<T>::epsilon() / 2;

template <class T>
bool better(const Pick<T>& a, const Pick<T>& b, bool farthest) {
  if (a.index < 0 || b.index < 0) return b.index < 0 && a.index >= 0;
  const bool a_nan = std::isnan(a.distance), b_nan = std::isnan(b.distance);
  if (a_nan || b_nan) return a_nan && (!b_nan || a.index < b.index);
  if (a.distance != b.distance) return farthest ? a.distance > b.distance : a.distance < b.distance;
  return a.index < b.index;
}

// One anchor's state while candidates stream by. A candidate's score is a cheap monotone stand-in for its distance, one
// multiply-add from the pair's sum: -<a, c> / |c| for the cosines (|<a, c>| for angular), the sum itself for the others,
// negated to search for the farthest. `slack` and `relative` bound what rounding may do to the order of scores against
// the order of distances; whatever the scan finds within them is decided by the distances themselves.
template <class T>
struct Row {
  const T* x;
  double x2;
  Query query;
  T slack = 0, relative = 0;
  T low = -std::numeric_limits<T>::infinity(), high = std::numeric_limits<T>::infinity();
  T best_score = std::numeric_limits<T>::infinity();
  Pick<T> best;

  Row(const T* row, int64_t d, Metric metric, const Query& q) : x(row), x2(squared_norm(row, d)), query(q) {
    const double above = query.above;
    double limit = above;
    if (is_cosine(metric)) {
      slack = static_cast<T>(8 * kRoundoff<T> * std::sqrt(x2));
      limit = (above - 1) * std::sqrt(x2) - 2 * slack;
    } else if (metric == Metric::kEuclidean) {
      relative = 8 * kRoundoff<T>;
      limit = above * above * (1 - relative);
    }
    if (std::isfinite(above) && std::fabs(limit) < kHugeSquaredNorm<T>) low = static_cast<T>(limit);
    // A norm that float32 sums may not survive: look at every candidate.
    if (metric != Metric::kChebyshev && !(x2 < kHugeSquaredNorm<T>)) high = std::numeric_limits<T>::quiet_NaN();
  }

  void improve(T score) {
    if (!(score < best_score)) return;
    best_score = score;
    if (!std::isnan(high)) high = score + 2 * slack + relative * std::fabs(score);
  }
};

// A stretch of candidates: rows, squared norms, and what turns sums into scores.
template <class T>
struct Tile {
  Block<T> rows;
  std::vector<double> y2;
  std::vector<T> squares, offset, weight, sums, buffer;

  explicit Tile(const SearchPlan& plan)
      : y2(plan.tile), squares(plan.tile), offset(plan.tile), weight(plan.tile), sums(plan.tile * plan.anchor_block) {}

  void load(Metric metric, const Matrix& candidates, int64_t first, int64_t count, bool farthest) {
    const int64_t d = candidates.cols;
    const T sign = farthest ? -1 : 1;
    rows = consecutive(candidates, first, count, buffer);
    if (metric != Metric::kChebyshev) row_kernels<T>().squares(rows.data, rows.stride, count, d, squares.data());
    for (int64_t j = 0; j < count; ++j) {
      offset[j] = 0;
      weight[j] = sign;
      if (metric == Metric::kChebyshev) continue;
      y2[j] = squared_norm_from(squares[j], rows.row(j), d);
      if (is_cosine(metric)) weight[j] = y2[j] < kTinySquaredNorm ? 0 : static_cast<T>(-sign / std::sqrt(y2[j]));
      if (!(y2[j] < kHugeSquaredNorm<T>)) weight[j] = std::numeric_limits<T>::quiet_NaN();  // always a hit
    }
  }
};

template <class T>
struct Search {
  Metric metric;
  const Matrix &anchor, &candidates;
  const std::vector<int32_t>& codes;
  const std::vector<Query>& queries;
  bool farthest;

  void visit(Row<T>& row, const Tile<T>& tile, T sum, int64_t j, int64_t candidate) const {
    if (!row.query.rule.allows(candidate, codes[candidate])) return;
    const PairSums sums = with_sum(metric, sum, row.x, row.x2, tile.rows.row(j), tile.y2[j], candidates.cols);
    const T d = static_cast<T>(distance(metric, sums));
    if (d <= row.query.above) return;
    const Pick<T> pick{d, candidate};
    if (better(pick, row.best, farthest)) row.best = pick;
    const T value = metric == Metric::kAngular ? std::fabs(sum) : sum;
    row.improve(tile.offset[j] + tile.weight[j] * value);
  }

  // Queries [first, first + count) against candidates [begin, end).
  void task(const SearchPlan& plan, int64_t first, int64_t count, int64_t begin, int64_t end, Pick<T>* out) const {
    std::vector<T> buffer;
    const Block<T> block = gather(anchor, count, buffer, [&](int64_t i) { return queries[first + i].row; });
    std::vector<Row<T>> rows;
    rows.reserve(count);
    for (int64_t i = 0; i < count; ++i) rows.emplace_back(block.row(i), anchor.cols, metric, queries[first + i]);
    Tile<T> tile(plan);
    for (int64_t c = begin; c < end; c += plan.tile) {
      const int64_t n = std::min(plan.tile, end - c);
      tile.load(metric, candidates, c, n, farthest);
      row_kernels<T>().pairs(sum_of(metric), block.data, block.stride, count, tile.rows.data, tile.rows.stride, n,
                             anchor.cols, tile.sums.data(), plan.tile);
      for (int64_t i = 0; i < count; ++i) {
        Row<T>& row = rows[i];
        const T* sums = tile.sums.data() + i * plan.tile;
        for (int64_t j = -1; !std::isnan(row.best.distance);) {
          const Scan<T> scan{tile.offset.data(), tile.weight.data(),  codes.data() + c,     row.low,
                             row.high,           row.query.rule.code, row.query.rule.equal, metric == Metric::kAngular};
          j = row_kernels<T>().next_hit(scan, sums, j + 1, n);
          if (j == n) break;
          visit(row, tile, sums[j], j, c + j);
        }
      }
    }
    for (int64_t i = 0; i < count; ++i) out[i] = rows[i].best;
  }
};

}  // namespace

template <class T>
std::vector<Pick<T>> search(Metric metric, const Matrix& anchor, const Matrix& candidates,
                            const std::vector<int32_t>& codes, const std::vector<Query>& queries, bool farthest) {
  const int64_t b = queries.size(), m = candidates.rows;
  const SearchPlan plan = plan_search(b, m, anchor.cols, sizeof(T), torch::stable::get_num_threads());
  const Search<T> search{metric, anchor, candidates, codes, queries, farthest};
  std::vector<Pick<T>> picks(b * plan.splits);
  const int64_t tasks = plan.blocks * plan.splits;
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t from, int64_t to) {
    for (int64_t t = from; t < to; ++t) {
      const int64_t split = t / plan.blocks, first = t % plan.blocks * plan.anchor_block;
      const int64_t begin = split * plan.split_size, end = std::min(m, begin + plan.split_size);
      search.task(plan, first, std::min(plan.anchor_block, b - first), begin, end, picks.data() + split * b + first);
    }
  });
  for (int64_t split = 1; split < plan.splits; ++split)
    for (int64_t i = 0; i < b; ++i)
      if (better(picks[split * b + i], picks[i], farthest)) picks[i] = picks[split * b + i];
  picks.resize(b);
  return picks;
}

template std::vector<Pick<float>> search(Metric, const Matrix&, const Matrix&, const std::vector<int32_t>&,
                                         const std::vector<Query>&, bool);
template std::vector<Pick<double>> search(Metric, const Matrix&, const Matrix&, const std::vector<int32_t>&,
                                          const std::vector<Query>&, bool);

}  // namespace tla::cpu
