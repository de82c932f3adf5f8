// What every task of the search keeps of its anchors, and how it decides about a candidate.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "../common/plan.h"
#include "rows.h"
#include "search.h"
#include "tile_kernels.h"

namespace tla::cpu {

template <class T>
bool better(const Pick<T>& a, const Pick<T>& b, bool farthest) {
  if (a.index < 0 || b.index < 0) return b.index < 0 && a.index >= 0;
  const bool a_nan = std::isnan(a.distance), b_nan = std::isnan(b.distance);
  if (a_nan || b_nan) return a_nan && (!b_nan || a.index < b.index);
  if (a.distance != b.distance) return farthest ? a.distance > b.distance : a.distance < b.distance;
  return a.index < b.index;
}

// An array that nobody has written to yet.
template <class T>
std::unique_ptr<T[]> uninitialized(int64_t size) {
  return std::unique_ptr<T[]>(new T[size]);
}

// The same, starting on a cache line.
template <class T>
class Aligned {
 public:
  explicit Aligned(int64_t size) : storage_(uninitialized<T>(size + 64 / sizeof(T))) {}
  T* data() const { return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(storage_.get()) + 63) / 64 * 64); }

 private:
  std::unique_ptr<T[]> storage_;
};

// One anchor while candidates stream by.
template <class T>
struct Anchor {
  const T* x;
  double x2;
  Query query;
  Pick<T> best;

  // A NaN is the hardest there is.
  bool settled() const { return std::isnan(best.distance); }
  // Sums in T may overflow: every candidate has to be looked at.
  bool huge(Metric metric) const { return metric != Metric::kChebyshev && !(x2 < kHugeSquaredNorm<T>); }
};

// The search as every task of it sees it.
template <class T>
struct Search {
  Metric metric;
  const Matrix &anchor, &candidates;
  const std::vector<int32_t>& codes;
  const std::vector<Query>& queries;
  bool farthest;

  int64_t dim() const { return candidates.cols; }

  bool all_never(int64_t first, int64_t count) const {
    const int32_t* p = codes.data() + first;
    return std::all_of(p, p + count, [](int32_t code) { return code == kNeverCode; });
  }

  // In place where queries follow each other in memory.
  Block<T> gather_anchors(int64_t first, int64_t count, std::vector<T>& buffer) const {
    const int64_t row = queries[first].row;
    // Rows a power of two apart would fold onto few sets of the first-level cache.
    const bool spread = anchor.row_stride * sizeof(T) % 4096 != 0;
    if (anchor.template contiguous_rows<T>() && spread && queries[first + count - 1].row - row == count - 1)
      return {anchor.row(row, static_cast<T*>(nullptr)), anchor.row_stride};
    return gather(anchor, count, buffer, [&](int64_t i) { return queries[first + i].row; });
  }

  // Queries [first, first + count), with the picks found so far.
  std::vector<Anchor<T>> make_anchors(const Block<T>& block, int64_t first, int64_t count, const Pick<T>* picks) const {
    std::vector<Anchor<T>> anchors(count);
    for (int64_t i = 0; i < count; ++i)
      anchors[i] = {block.row(i), squared_norm(block.row(i), dim()), queries[first + i], picks[i]};
    return anchors;
  }

  // Decides about a candidate by its sum with the anchor. Returns whether it is one to choose from.
  bool decide(Anchor<T>& a, int64_t candidate, T sum, const T* y, double y2) const {
    if (!a.query.rule.allows(candidate, codes[candidate])) return false;
    const T d = static_cast<T>(distance(metric, with_sum(metric, sum, a.x, a.x2, y, y2, dim())));
    if (d <= a.query.above) return false;
    const Pick<T> pick{d, candidate};
    if (better(pick, a.best, farthest)) a.best = pick;
    return true;
  }
};

}  // namespace tla::cpu
