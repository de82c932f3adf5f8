// triplet_adv_loss on CUDA: checks, launch, registration.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "large.h"
#include "triplet_adv_loss.cuh"
#include "triplet_loss.cuh"
#include "triplet_tensors.h"

namespace tla::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> triplet_adv_loss(
    Tensor anchor, Tensor positive, Tensor candidates, Tensor labels, Tensor candidate_labels,
    std::optional<Tensor> target_labels, std::optional<Tensor> exclude, std::optional<Tensor> uniform, double margin,
    double weight, double norm_weight, std::string metric, std::string mining, std::string norm, std::string reduction,
    bool fast, std::string screens, const std::optional<Tensor>& /*packed*/) {
  const Device device(anchor);
  const TripletOptions options = triplet_options(margin, weight, norm_weight, metric, norm, reduction);
  SearchSetup setup(device, anchor, candidates, labels, candidate_labels, positive, target_labels, exclude, uniform,
                    options.metric, parse_mining(mining), /*same_class=*/false, /*loss=*/true, norm_weight != 0);
  const int64_t b = anchor.size(0), k = positive.size(1);
  const ScalarType type = result_type(anchor);
  Tensor loss = options.reduction == Reduction::kNone ? empty(anchor, {b}, type) : empty(anchor, {}, type);
  Tensor index = empty(anchor, {b}, ScalarType::Long), negative_distance = empty(anchor, {b}, type),
         positive_distance = empty(anchor, {b, k}, type);
  if (const Screen screen = screen_of(device, setup, screens); screen != Screen::kTiles) {
    mine_large(device, anchor, candidate_labels, setup, screen, fast, negative_distance, index);
    const Tensor rows = empty(anchor, {b}, ScalarType::Double);
    Arrays arrays;
    const TripletLossParams params{triplets_of(arrays, anchor, positive, candidates, std::nullopt, index),
                                   options,
                                   loss.mutable_data_ptr(),
                                   positive_distance.mutable_data_ptr(),
                                   negative_distance.mutable_data_ptr(),
                                   static_cast<double*>(rows.mutable_data_ptr())};
    launch_triplet_loss(params, setup.wide, device.gpu(), device.launcher());
    return {loss, index, positive_distance, negative_distance};
  }
  const int64_t norms = setup.workspace.reserve(b * sizeof(double));
  setup.allocate(anchor);
  const TripletAdvLossParams params{setup.params,
                                    options,
                                    loss.mutable_data_ptr(),
                                    static_cast<int64_t*>(index.mutable_data_ptr()),
                                    positive_distance.mutable_data_ptr(),
                                    negative_distance.mutable_data_ptr(),
                                    setup.workspace.at<double>(norms)};
  launch_triplet_adv_loss(params, setup.wide, device.launcher());
  return {loss, index, positive_distance, negative_distance};
}

}  // namespace
}  // namespace tla::cuda

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CUDA, m) { m.impl("triplet_adv_loss", TORCH_BOX(&tla::cuda::triplet_adv_loss)); }
