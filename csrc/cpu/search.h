// The search for each row's nearest or farthest allowed candidate, in O(B + M) memory.
#pragma once

#include <limits>
#include <vector>

#include "labels.h"
#include "rows.h"

namespace tla::cpu {

class PackedPool;

template <class T>
struct Pick {
  T distance = std::numeric_limits<T>::infinity();
  int64_t index = -1;
};

struct Query {
  int64_t row = 0;
  Rule rule;
  // Only distances greater than this count (semihard); -inf or NaN: all do.
  double above = -std::numeric_limits<double>::infinity();
};

// Picks in the order of the queries. `packed`: what pack_pool made of the candidates for such a metric, or null. A NaN
// distance comes first, then the smallest (or, with `farthest`, the largest) distance, then the lowest index.
template <class T>
std::vector<Pick<T>> search(Metric metric, const Matrix& anchor, const Matrix& candidates,
                            const std::vector<int32_t>& codes, const std::vector<Query>& queries, bool farthest,
                            const PackedPool* packed = nullptr);

}  // namespace tla::cpu
