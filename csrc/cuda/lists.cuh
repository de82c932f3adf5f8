// What a screen keeps of each anchor: the best it has seen, and a short list of candidates that may be better than they
// look. docs/exactness.md derives the bounds.
//
// A candidate's score grows with its nearness: its cosine (its magnitude, where the metric takes that), or, of rows
// less the mean, <x, y> - |y|^2 / 2, which is (|x|^2 - d^2) / 2. Scores of products are off by at most an error, so a
// row's pick is among the candidates whose score plus error reaches the greatest score minus error. Whoever looks at
// candidates in whatever order, a list has at least those; what more it has, the rescoring leaves out by the final
// best.
#pragma once

#include <cfloat>

#include "pack.cuh"

namespace tla::cuda {

struct Entry {
  float upper;  // score plus error
  uint32_t column;
};

// How a column's products become scores, but for what the row has.
struct alignas(8) TileColumn {
  float weight, offset;  // NaN: nothing is known of it
};

// Where a row's classes stand in the packed pool, which is sorted by label.
struct Classes {
  int own_begin, own_end, target_begin, target_end;
  int excluded;  // -1: none
};

// The columns that a row may pick in a slot: [begin, end) without [hole_begin, hole_end) and without `excluded`.
struct Allowed {
  int begin, end, hole_begin, hole_end, excluded;

  TLA_DEVICE bool operator()(int column) const {
    return column >= begin && column < end && !(column >= hole_begin && column < hole_end) && column != excluded;
  }
};

// How far a score may be from 1 - distance, or from (|x|^2 - distance^2) / 2, beside the residuals' share: `product`
// times both norms, `square` times both squares, and `fixed`.
struct ScoreError {
  float product = 0, square = 0, fixed = 0;
};

// With u = 2^-24. A canonical sum's chains are 16 steps long in each piece of 64 elements, of which a part has d / 512,
// each joined in 4 steps; then 8 parts: fewer than d / 128 + 28 roundings of u. The rest is for square roots, divisions
// and the score's own arithmetic. The matrix unit is taken to align products that it adds at a time (16, or 8) and
// the sum before to the largest of them and to cut them at 24 bits, 2^-23 each: at most 20 for every 16 columns, of at
// most the product of the norms.
// A cosine takes its two norms twice, here and there, and rounds 1 - cosine to 2^-24; 2^-19 is for what rounding does
// to directions, to the two offsets, and to their sum.
inline ScoreError score_error(Metric metric, int d, int padded) {
  const double sum = (d / 128.0 + 40) * 0x1p-24, unit = 1.25 * (padded + 16.0) * 0x1p-23;
  return is_cosine(metric)
             ? ScoreError{static_cast<float>(unit), 0, static_cast<float>(1.01 * (4 * sum + 0x1p-23) + 0x1p-19)}
             : ScoreError{static_cast<float>(unit), static_cast<float>(2 * sum), 0};
}

constexpr uint32_t kRedone = ~0u;

struct LargeParams {
  SearchParams search;  // of some anchors; its plan and workspace are not used
  int padded = 0;
  bool fast = false;  // the screen's own best is the pick
  ScoreError error;
  uint16_t *packed_anchor = nullptr, *packed_candidates = nullptr;
  Side *anchor = nullptr, *candidates = nullptr;
  // Column t of the packed pool has candidate order[t], of label sorted_labels[t]; those before `closed` nobody may
  // pick. place[j]: the column of candidate j, where rows exclude any.
  const int64_t *order = nullptr, *sorted_labels = nullptr;
  int* place = nullptr;
  // Workspace. What is taken from rows. The rows' classes. Under semihard the distance to the positive, and the scores
  // below which a candidate is farther for sure and may be farther; for each slot of SearchParams and anchor the best
  // score minus error, in order as unsigned, how many candidates were listed, which may be more than the list has room
  // for, and the list.
  Center center;
  Classes* classes = nullptr;
  int* closed = nullptr;
  float *positive = nullptr, *surely = nullptr, *maybe = nullptr;
  uint32_t *best = nullptr, *count = nullptr;
  Entry* list = nullptr;
  int capacity = 0;
  // Of the wgmma screen: of each tile of candidates the greatest norm and residual and the least offset (`weight` is
  // NaN where nothing is known of one of them), and what each candidate's scores take.
  Side* tile_bounds = nullptr;
  TileColumn* tile_columns = nullptr;
  // The anchors that look at all candidates, in any order; and for each slot and anchor the least key of those.
  uint32_t *redone = nullptr, *redone_count = nullptr;
  uint64_t* keys = nullptr;
  // How many candidates were rescored; kRedone where all were.
  uint32_t* rescored = nullptr;
  float* distance = nullptr;
  int64_t* index = nullptr;
  // Products of the anchors with candidates [first, first + columns), of a screen that reads them from memory.
  const float* scores = nullptr;
  int64_t first = 0, stride = 0;
  int columns = 0;

  TLA_HD int64_t at(int slot, int64_t i) const { return slot * search.b + i; }
  // The greatest score is the pick; the farthest has the least.
  TLA_HD bool negated(bool far) const { return search.farthest(far); }
};

// Calls f(pointer, count) for the arrays that every screen needs, of so many rows at a time.
template <class F>
void each_list_array(LargeParams& p, int64_t rows, int64_t capacity, bool keep_counts, const F& f) {
  const int64_t lists = rows * p.search.slots(), limits = p.search.semihard() ? rows : 0;
  f(p.anchor, rows);
  f(p.positive, limits);
  f(p.surely, limits);
  f(p.maybe, limits);
  f(p.best, lists);
  f(p.count, lists);
  f(p.keys, lists);
  f(p.list, lists * capacity);
  f(p.redone, rows);
  f(p.redone_count, 1);
  f(p.rescored, keep_counts ? p.search.b : rows);
}

// Anchors [first, first + count) alone.
inline SearchParams anchors_of(SearchParams p, int64_t first, int64_t count) {
  const auto advance = [&](const int64_t*& labels) { labels = labels == nullptr ? nullptr : labels + first; };
  p.anchor.data = static_cast<const char*>(p.anchor.data) + first * p.anchor.row_stride * size_of(p.anchor.type);
  if (p.positive.first.data != nullptr)
    p.positive.first.data =
        static_cast<const char*>(p.positive.first.data) + first * p.positive.step * size_of(p.positive.first.type);
  advance(p.labels.own);
  advance(p.labels.target);
  advance(p.labels.exclude);
  p.b = count;
  return p;
}

// The first column whose label is not below, or is above `label`.
TLA_DEVICE int bound_of(const LargeParams& p, int64_t label, bool above) {
  int begin = 0, end = static_cast<int>(p.search.m);
  while (begin < end) {
    const int middle = begin + (end - begin) / 2;
    const int64_t other = p.sorted_labels[middle];
    (above ? other <= label : other < label) ? begin = middle + 1 : end = middle;
  }
  return begin;
}

TLA_DEVICE Allowed allowed_of(const LargeParams& p, int64_t i, bool wanted) {
  const Classes c = p.classes[i];
  const int m = static_cast<int>(p.search.m);
  if (wanted) return {c.target_begin, c.target_end, m, m, c.excluded};
  if (p.search.same_class) return {c.own_begin, c.own_end, m, m, c.excluded};
  return {*p.closed, m, c.own_begin, c.own_end, c.excluded};
}

TLA_DEVICE bool comparable(const Side& side) { return side.residual == side.residual; }

// A pair's error is alpha |y| + beta r_y + gamma + square |y|^2 (an offset has -|y|^2 / 2): of <x, y> at most |x| r_y +
// r_x |y| by Cauchy-Schwarz is lost to residuals (one of the two norms that of the packed row), `product` |x| |y| to
// sums.
struct RowError {
  float alpha, beta, gamma;

  TLA_DEVICE RowError(const LargeParams& p, const Side& x)
      : alpha(x.residual + p.error.product * x.norm),
        beta(x.norm),
        gamma(p.error.fixed - 2 * p.error.square * x.offset) {}
  TLA_DEVICE float of(const LargeParams& p, const Side& y) const {
    return alpha * y.norm + beta * y.residual + gamma - 2 * p.error.square * y.offset;
  }
};

// What all of a row's scores have beside products and the candidates' offsets.
TLA_DEVICE float row_offset(Metric metric, const Side& x) { return is_cosine(metric) ? x.offset : 0; }

TLA_DEVICE float score_of(Metric metric, float product, const Side& x, const Side& y) {
  const float score = fused(product * x.weight, y.weight, y.offset) + row_offset(metric, x);
  return metric == Metric::kAngular ? std::fabs(score) : score;
}

// Lanes look for one end of a class each.
TLA_DEVICE void find_classes(const LargeParams& p, int64_t i) {
  const Rule rule(p.search, i);
  const int lane = lane_id();
  const int64_t label = lane < 2 ? rule.own : lane < 4 ? rule.target : kNeverLabel;
  int at = lane < 5 ? bound_of(p, label, /*above=*/lane % 2 == 1 || lane == 4) : 0;
  const int closed = shuffle(at, 4);
  at = at > closed ? at : closed;
  const int own_begin = shuffle(at, 0), own_end = shuffle(at, 1), target_begin = shuffle(at, 2),
            target_end = shuffle(at, 3);
  if (lane != 0) return;
  const bool excludes = rule.exclude >= 0 && rule.exclude < p.search.m;
  p.classes[i] = {own_begin, own_end, target_begin, rule.has_target ? target_end : target_begin,
                  excludes ? p.place[rule.exclude] : -1};
  if (i == 0) *p.closed = closed;
}

// A row before its screen.
template <class Op>
TLA_DEVICE void begin_row(const LargeParams& p, int64_t i) {
  const SearchParams& s = p.search;
  const Side side = p.anchor[i];
  if (p.order != nullptr) find_classes(p, i);
  if (s.semihard()) {
    const float bound = nearest_positive<Op, float>(s, i);
    double limit = 1.0 - bound, slack = 0x1p-22;
    if (!is_cosine(s.metric)) {
      const double square = static_cast<double>(bound) * bound;
      limit = -side.offset - square / 2;
      slack = 0x1p-21 * (square - 2.0 * side.offset);
    }
    float surely = static_cast<float>(limit - slack), maybe = static_cast<float>(limit + slack);
    if (p.fast) surely = maybe = static_cast<float>(limit);
    if (!(bound < from_bits(Key<float>::kInfinity)))  // nothing is farther than infinity, everything than NaN
      surely = maybe = bound == bound ? -from_bits(Key<float>::kInfinity) : from_bits(Key<float>::kInfinity);
    if (lane_id() == 0) p.positive[i] = bound, p.surely[i] = surely, p.maybe[i] = maybe;
  }
  if (lane_id() < s.slots()) {
    p.best[p.at(lane_id(), i)] = in_order(bits_of(-FLT_MAX));
    p.keys[p.at(lane_id(), i)] = Key<float>::none().bits;
    // A row that cannot be screened begins with a list that has overflowed.
    p.count[p.at(lane_id(), i)] = comparable(side) ? 0 : p.capacity + 1;
  }
}

template <class Op>
TLA_KERNEL(kThreads, 4)
begin_rows_kernel(const LargeParams p) {
  if (block_id() == 0 && thread_id() == 0) *p.redone_count = 0;
  each_row_of_warp(0, p.search.b, [&](int64_t i) { begin_row<Op>(p, i); });
}

}  // namespace tla::cuda
