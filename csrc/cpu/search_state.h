// What a task of the search keeps: its rows' limits and best picks, and the candidates that stream by.
#pragma once

#include <cmath>

#include "../common/plan.h"
#include "product.h"
#include "search.h"

namespace tla::cpu {

template <class T>
bool better(const Pick<T>& a, const Pick<T>& b, bool farthest) {
  if (a.index < 0 || b.index < 0) return b.index < 0 && a.index >= 0;
  const bool a_nan = std::isnan(a.distance), b_nan = std::isnan(b.distance);
  if (a_nan || b_nan) return a_nan && (!b_nan || a.index < b.index);
  if (a.distance != b.distance) return farthest ? a.distance > b.distance : a.distance < b.distance;
  return a.index < b.index;
}

// One anchor's state while candidates stream by. A candidate's score is a cheap stand-in for its distance, one
// multiply-add from the pair's product: -<a, c> / |c| for the cosines (|<a, c>| for angular), |c|^2 - 2 <a, c> or the
// sum itself for the others, negated to search for the farthest. Whatever the scan finds within the bounds of rounding
// is decided by the distances themselves.
template <class T>
struct Row {
  const T* x;
  double x2;
  Query query;
  T low, high;
  Pick<T> best;
  T slack, relative;  // bounds on a score's error: absolute, and as a multiple of the score

  Row(const T* row, int64_t d, Metric metric, const Query& q, const Product<T>& product)
      : x(row), x2(squared_norm(row, d)), query(q) {
    set_limits(metric, product);
  }

  // The score of a candidate as far away as the row's `above`.
  double score_of_above(Metric metric, bool screens) const {
    if (is_cosine(metric)) return (query.above - 1) * std::sqrt(x2);
    if (metric == Metric::kEuclidean) return query.above * query.above - (screens ? x2 : 0);
    return query.above;
  }

  // A norm that sums in T may not survive: every candidate has to be looked at.
  bool huge(Metric metric) const { return metric != Metric::kChebyshev && !(x2 < kHugeSquaredNorm<T>); }

  // Where a scan may stop looking below, before errors.
  double lower_limit(Metric metric, bool screens) const {
    const double limit = score_of_above(metric, screens);
    const bool usable = std::isfinite(query.above) && std::fabs(limit) < kHugeSquaredNorm<T> && !huge(metric);
    return usable ? limit : -std::numeric_limits<double>::infinity();
  }

  void set_limits(Metric metric, const Product<T>& product) {
    const double limit = lower_limit(metric, product.screens);
    double error = 0;
    relative = 0;
    if (is_cosine(metric))
      error = product.error * std::sqrt(x2);
    else if (metric == Metric::kEuclidean && product.screens)
      error = product.error * x2;
    else if (metric == Metric::kEuclidean)
      relative = static_cast<T>(product.error);
    slack = static_cast<T>(error);
    low = static_cast<T>(limit - 2 * error - relative * std::fabs(limit));
    if (std::isnan(low)) low = -std::numeric_limits<T>::infinity();
    high = huge(metric) ? std::numeric_limits<T>::quiet_NaN() : std::numeric_limits<T>::infinity();
  }

  // An allowed candidate's score is at most `score`: what lies above it by more than the errors is out.
  void improve(T score) {
    const T limit = score + 2 * slack + relative * std::fabs(score);
    if (limit < high) high = limit;
  }
};

// A stretch of candidates: rows, squared norms, and what turns products into scores.
template <class T>
struct Tile {
  Block<T> rows;
  std::vector<double> y2;
  std::vector<T> squares, offset, weight, width, sums, buffer;
  T widest = 0;  // of `width`, by how much a score may lie below its candidate's

  explicit Tile(const SearchPlan& plan)
      : y2(plan.tile),
        squares(plan.tile),
        offset(plan.tile),
        weight(plan.tile),
        width(plan.tile),
        sums(plan.tile * plan.anchor_block) {}

  void load(Metric metric, const Matrix& candidates, int64_t first, int64_t count, bool farthest,
            const Product<T>& product) {
    read(metric, candidates, first, count);
    set_scores(metric, count, farthest, product);
  }

  void read(Metric metric, const Matrix& candidates, int64_t first, int64_t count) {
    const int64_t d = candidates.cols;
    rows = consecutive(candidates, first, count, buffer);
    if (metric == Metric::kChebyshev) return;
    row_kernels<T>().squares(rows.data, rows.stride, count, d, squares.data());
    for (int64_t j = 0; j < count; ++j) y2[j] = squared_norm_from(squares[j], rows.row(j), d);
  }

  void set_scores(Metric metric, int64_t count, bool farthest, const Product<T>& product) {
    const T sign = farthest ? -1 : 1;
    widest = 0;
    for (int64_t j = 0; j < count; ++j) {
      offset[j] = 0;
      weight[j] = sign;
      width[j] = 0;
      if (metric == Metric::kChebyshev) continue;
      if (is_cosine(metric)) {
        weight[j] = y2[j] < kTinySquaredNorm ? 0 : static_cast<T>(-sign / std::sqrt(y2[j]));
      } else if (product.screens) {
        const double error = product.error * y2[j];
        offset[j] = static_cast<T>(sign * y2[j] - error);
        weight[j] = -2 * sign;
        width[j] = static_cast<T>(2 * error);
        if (width[j] > widest) widest = width[j];
      }
      if (!(y2[j] < kHugeSquaredNorm<T>)) weight[j] = std::numeric_limits<T>::quiet_NaN();  // always a hit
    }
  }
};

template <class T>
T magnitude(Metric metric, T sum) {
  return metric == Metric::kAngular ? std::fabs(sum) : sum;
}

// The search as every task of it sees it.
template <class T>
struct Search {
  Metric metric;
  const Matrix &anchor, &candidates;
  const std::vector<int32_t>& codes;
  const std::vector<Query>& queries;
  bool farthest;

  Block<T> gather_anchors(int64_t first, int64_t count, std::vector<T>& buffer) const {
    return gather(anchor, count, buffer, [&](int64_t i) { return queries[first + i].row; });
  }

  // The state of queries [first, first + count), with the picks found so far.
  std::vector<Row<T>> make_rows(const Block<T>& block, int64_t first, int64_t count, const Product<T>& product,
                                const Pick<T>* picks) const {
    std::vector<Row<T>> rows;
    rows.reserve(count);
    for (int64_t i = 0; i < count; ++i) {
      rows.emplace_back(block.row(i), anchor.cols, metric, queries[first + i], product);
      rows.back().best = picks[i];
    }
    return rows;
  }

  // Decides about candidate `candidate`, number j of the tile, whose product with the row is `sum`. Returns whether it
  // was one to choose from, so that its score may tighten the limits.
  bool visit(Row<T>& row, const Tile<T>& tile, const Product<T>& product, T sum, int64_t j, int64_t candidate) const {
    if (std::isnan(row.best.distance) || !row.query.rule.allows(candidate, codes[candidate])) return false;
    if (product.screens) sum = pair_sum(sum_of(metric), row.x, tile.rows.row(j), candidates.cols);
    const PairSums sums = with_sum(metric, sum, row.x, row.x2, tile.rows.row(j), tile.y2[j], candidates.cols);
    const T d = static_cast<T>(distance(metric, sums));
    if (d <= row.query.above) return false;
    const Pick<T> pick{d, candidate};
    if (better(pick, row.best, farthest)) row.best = pick;
    return true;
  }

  // Looks through the scores of one row; returns how many candidates it had to look at.
  int64_t scan(Row<T>& row, const Tile<T>& tile, const Product<T>& product, const T* sums, int64_t c, int64_t n) const {
    int64_t hits = 0;
    for (int64_t j = -1; !std::isnan(row.best.distance);) {
      const Rule& rule = row.query.rule;
      const Scan<T> scan{tile.offset.data(), tile.weight.data(), codes.data() + c, row.low - tile.widest,
                         row.high,           rule.code,          rule.equal,       metric == Metric::kAngular};
      j = row_kernels<T>().next_hit(scan, sums, j + 1, n);
      if (j == n) break;
      if (!visit(row, tile, product, sums[j], j, c + j)) continue;
      row.improve(tile.offset[j] + tile.weight[j] * magnitude(metric, sums[j]) + tile.width[j]);
      ++hits;
    }
    return hits;
  }
};

}  // namespace tla::cpu
