#include "../../csrc/cuda/mine.cuh"
#include "runner.h"

namespace tla::simt {

void run_mine(const Problem& p) {
  SearchRun search(p, p.flag("same_class"), /*loss=*/false, /*with_squares=*/false);
  const int64_t b = search.params.b;
  const Array distance = new_array(p.result_type(), {b}, p.seed() + 4), index = new_array("int64", {b}, p.seed() + 5);
  const cuda::MineParams params{search.params, distance.memory.as<void>(), index.memory.as<int64_t>()};
  if (b > 0) cuda::launch_mine(params, p.wide(), p.launch());
  answer("distance", distance);
  answer("index", index);
  const TilePlan& plan = search.params.plan;
  const Array numbers = new_array("int64", {5}, 0);
  int64_t* out = numbers.memory.as<int64_t>();
  for (int64_t n : {plan.anchor_tile, plan.team, int{plan.cluster}, plan.teams, plan.tiles_b * plan.tiles_m})
    *out++ = n;
  answer("plan", numbers);
}

}  // namespace tla::simt
