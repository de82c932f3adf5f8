// triplet_adv_loss: each anchor's negative mined from the pool, and the triplet loss with it.
#include <torch/csrc/stable/library.h>

#include "miner.h"
#include "triplet.h"

namespace tla::cpu {
namespace {

template <class T>
Tensor mined_index(const MineInputs& inputs, Metric metric, Mining mining) {
  const std::vector<Pick<T>> picks = mine_picks<T>(inputs, metric, mining, /*same_class=*/false);
  Tensor index = empty({static_cast<int64_t>(picks.size())}, ScalarType::Long);
  int64_t* out = static_cast<int64_t*>(index.mutable_data_ptr());
  for (const Pick<T>& pick : picks) *out++ = pick.index;
  return index;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> triplet_adv_loss(
    Tensor anchor, Tensor positive, Tensor candidates, Tensor labels, Tensor candidate_labels,
    std::optional<Tensor> target_labels, std::optional<Tensor> exclude, std::optional<Tensor> uniform, double margin,
    double weight, double norm_weight, std::string metric, std::string mining, std::string norm, std::string reduction,
    [[maybe_unused]] bool fast, const std::string&, std::optional<Tensor> packed) {
  const TripletOptions options = triplet_options(margin, weight, norm_weight, metric, norm, reduction);
  const MineInputs inputs{anchor,  candidates, labels, candidate_labels, positive, target_labels,
                          exclude, uniform,    packed};
  const Mining how = parse_mining(mining);
  const Tensor index = result_type(anchor) == ScalarType::Double ? mined_index<double>(inputs, options.metric, how)
                                                                 : mined_index<float>(inputs, options.metric, how);
  const auto [loss, positive_distance, negative_distance] =
      triplet_forward({anchor, positive, candidates, std::nullopt, index}, options);
  return {loss, index, positive_distance, negative_distance};
}

}  // namespace
}  // namespace tla::cpu

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CPU, m) { m.impl("triplet_adv_loss", TORCH_BOX(&tla::cpu::triplet_adv_loss)); }
