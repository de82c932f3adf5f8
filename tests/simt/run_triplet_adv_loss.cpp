#include "../../csrc/cuda/triplet_adv_loss.cuh"
#include "runner.h"

namespace tla::simt {

void run_triplet_adv_loss(const Problem& p) {
  SearchRun search(p, /*same_class=*/false, /*loss=*/true, p.number("norm_weight") != 0);
  const int64_t b = search.params.b, k = search.params.positive.count;
  const Array loss = new_loss(p, b), index = new_array("int64", {b}, p.seed() + 4),
              to_positive = new_array(p.result_type(), {b, k}, p.seed() + 5),
              to_negative = new_array(p.result_type(), {b}, p.seed() + 6);
  const Buffer norms = Buffer::output(b * sizeof(double), p.seed() + 7);
  const cuda::TripletAdvLossParams params{search.params,
                                          triplet_options(p),
                                          loss.memory.as<void>(),
                                          index.memory.as<int64_t>(),
                                          to_positive.memory.as<void>(),
                                          to_negative.memory.as<void>(),
                                          norms.as<double>()};
  cuda::launch_triplet_adv_loss(params, p.wide(), p.launch());
  answer("loss", loss);
  answer("index", index);
  answer("positive_distance", to_positive);
  answer("negative_distance", to_negative);
}

}  // namespace tla::simt
