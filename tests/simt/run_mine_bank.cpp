#include <deque>

#include "../../csrc/cuda/mine_bank.cuh"
#include "runner.h"

namespace tla::simt {

void run_mine_bank(const Problem& p) {
  const SearchRun search(p, p.flag("same_class"), /*loss=*/false, /*with_squares=*/false);
  const cuda::SearchParams& s = search.params;
  if (!cuda::bank_fits(s.candidates, s.m)) fail("rows that are not copied as they are");
  BankPlan plan = plan_bank(s.m, s.d, size_of(s.candidates.type), p.gpu());
  plan.resident = p.flag("resident");
  plan.stages = static_cast<int>(p.integer("stages"));
  plan.shape.shared_bytes = plan.slices * kBankAnchorSlice * (plan.resident ? 1 : 0) +
                            plan.stages * (kBankStageBytes + (plan.resident ? 0 : kBankAnchorSlice)) + kBankTableBytes;
  plan.capacity = static_cast<int>(p.integer("capacity"));
  plan.keep_counts = true;
  cuda::LargeParams q;
  q.search = s;
  q.fast = p.flag("fast");
  uint64_t seed = p.seed();
  std::deque<Buffer> arrays;
  cuda::each_array(q, plan, [&]<class T>(T*& array, int64_t count) {
    arrays.push_back(Buffer::output(count * sizeof(T), ++seed));
    array = arrays.back().as<T>();
  });
  const Array distance = new_array("float32", {s.b}, p.seed() + 4), index = new_array("int64", {s.b}, p.seed() + 5),
              rescored = new_array("int32", {s.b}, p.seed() + 6);
  q.rescored = rescored.memory.as<uint32_t>();
  q.distance = distance.memory.as<float>();
  q.index = index.memory.as<int64_t>();
  cuda::launch_mine_bank(q, plan, p.gpu(), p.launch());
  const Array listed = new_array("int32", {static_cast<int64_t>(arrays[5].bytes() / 4)}, 0);
  if (s.b > 0) std::memcpy(listed.memory.as<char>(), q.count, arrays[5].bytes());
  answer("distance", distance);
  answer("index", index);
  answer("rescored", rescored);
  answer("listed", listed);
}

}  // namespace tla::simt
