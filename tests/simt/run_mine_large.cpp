#include "../../csrc/cuda/mine_large.cuh"
#include "runner.h"

namespace tla::simt {

void run_mine_large(const Problem& p) {
  const SearchRun search(p, p.flag("same_class"), /*loss=*/false, /*with_squares=*/false);
  const cuda::SearchParams& s = search.params;
  LargePlan plan = plan_large(s.b, s.m, s.d, p.gpu());
  plan.in_memory = p.flag("in_memory");
  plan.anchor_chunk = std::max<int64_t>(1, std::min(p.integer("anchor_chunk"), s.b));
  plan.candidate_chunk = std::max<int64_t>(1, std::min(p.integer("candidate_chunk"), s.m));
  plan.capacity = static_cast<int>(p.integer("capacity"));
  plan.keep_counts = true;
  const cuda::LargeBytes bytes = cuda::large_bytes(plan, s);
  uint64_t seed = p.seed();
  const auto workspace = [&](int64_t size) { return Buffer::output(size, ++seed); };
  const Buffer packed_candidates = workspace(bytes.packed_candidates), packed_anchor = workspace(bytes.packed_anchor),
               candidates = workspace(bytes.candidates), anchor = workspace(bytes.anchor),
               limits = workspace(bytes.limits), best = workspace(bytes.best), count = workspace(bytes.count),
               list = workspace(bytes.list), keys = workspace(bytes.keys), redone = workspace(bytes.redone);
  const Array distance = new_array("float32", {s.b}, p.seed() + 4), index = new_array("int64", {s.b}, p.seed() + 5),
              rescored = new_array("int32", {s.b}, p.seed() + 6);

  cuda::LargeParams q;
  q.search = s;
  q.fast = p.flag("fast");
  q.packed_anchor = packed_anchor.as<uint16_t>(), q.packed_candidates = packed_candidates.as<uint16_t>();
  q.anchor = anchor.as<cuda::Side>(), q.candidates = candidates.as<cuda::Side>();
  q.positive = limits.as<float>(), q.surely = q.positive + plan.anchor_chunk, q.maybe = q.surely + plan.anchor_chunk;
  q.best = best.as<uint32_t>(), q.count = count.as<uint32_t>();
  q.list = list.as<cuda::Entry>();
  q.keys = keys.as<uint64_t>();
  q.redone_count = redone.as<uint32_t>(), q.redone = q.redone_count + 1;
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
  if (s.b > 0) cuda::launch_mine_large(q, plan, p.gpu(), p.launch(), multiply);
  answer("distance", distance);
  answer("index", index);
  answer("rescored", rescored);
}

}  // namespace tla::simt
