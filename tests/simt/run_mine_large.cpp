#include <algorithm>
#include <deque>
#include <numeric>

#include "../../csrc/cuda/mine_large.cuh"
#include "runner.h"

namespace tla::simt {

void run_mine_large(const Problem& p) {
  const SearchRun search(p, p.flag("same_class"), /*loss=*/false, /*with_squares=*/false);
  const cuda::SearchParams& s = search.params;
  LargePlan plan = plan_large({.anchors = s.b, .candidates = s.m, .dim = s.d}, parse_screen(p.text("screen")));
  plan.anchor_chunk = std::max<int64_t>(1, std::min(p.integer("anchor_chunk"), s.b));
  plan.candidate_chunk = std::max<int64_t>(1, std::min(p.integer("candidate_chunk"), s.m));
  plan.capacity = static_cast<int>(p.integer("capacity"));
  plan.keep_counts = true;
  cuda::LargeParams q;
  q.search = s;
  q.fast = p.flag("fast");
  uint64_t seed = p.seed();
  std::deque<Buffer> arrays;
  const auto allocate = [&]<class T>(T*& array, int64_t count) {
    arrays.push_back(Buffer::output(count * sizeof(T), ++seed));
    array = arrays.back().as<T>();
  };
  cuda::each_array(q, plan, allocate);
  allocate(q.packed_anchor, plan.anchor_chunk * plan.padded);
  allocate(q.packed_candidates, s.m * plan.padded);
  std::vector<int64_t> order(s.m), sorted_labels(s.m);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t x, int64_t y) { return s.labels.pool[x] < s.labels.pool[y]; });
  for (int64_t t = 0; t < s.m; ++t) sorted_labels[t] = s.labels.pool[order[t]];
  const Buffer orders = Buffer::input(order.data(), 8 * s.m), sorted = Buffer::input(sorted_labels.data(), 8 * s.m);
  q.order = orders.as<int64_t>(), q.sorted_labels = sorted.as<int64_t>();
  const Array distance = new_array("float32", {s.b}, p.seed() + 4), index = new_array("int64", {s.b}, p.seed() + 5),
              rescored = new_array("int32", {s.b}, p.seed() + 6);
  q.rescored = rescored.memory.as<uint32_t>();
  q.distance = distance.memory.as<float>();
  q.index = index.memory.as<int64_t>();

  // What a BLAS would write: exact products, added up in float in another order than any kernel's.
  Buffer scores = Buffer::input(nullptr, 0);
  const auto multiply = [&](int64_t rows, int64_t first, int columns) {
    std::vector<float> values(rows * columns);
    for (int64_t i = 0; i < rows; ++i)
      for (int c = 0; c < columns; ++c) {
        const uint16_t *x = q.packed_anchor + i * plan.padded, *y = q.packed_candidates + (first + c) * plan.padded;
        float& sum = values[i * columns + c];
        for (int k = plan.padded - 1; k >= 0; --k) sum += cuda::half_to_float(x[k]) * cuda::half_to_float(y[k]);
      }
    scores = Buffer::input(values.data(), values.size() * sizeof(float));
    return scores.as<float>();
  };
  struct {
    int64_t count;
    int64_t clusters(void (*)(cuda::WgmmaParams), const LaunchShape&) const { return count; }
    cuda::TensorMap map(const uint16_t* data, int64_t rows, int columns, int box_rows, int box_columns) const {
      return {data, rows, columns, columns, box_rows, box_columns};
    }
  } hopper{p.integer("clusters")};
  if (s.b > 0) cuda::launch_mine_large(q, plan, p.gpu(), p.launch(), multiply, hopper);
  answer("distance", distance);
  answer("index", index);
  answer("rescored", rescored);
}

}  // namespace tla::simt
