// triplet_loss on CUDA: checks, launch, registration.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "triplet_loss.cuh"
#include "triplet_tensors.h"

namespace tla::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor> triplet_loss(Tensor anchor, Tensor positive, Tensor negative,
                                                std::optional<Tensor> positive_index,
                                                std::optional<Tensor> negative_index, double margin, double weight,
                                                double norm_weight, std::string metric, std::string norm,
                                                std::string reduction) {
  const Device device(anchor);
  Arrays arrays;
  TripletLossParams params;
  params.triplets = triplets_of(arrays, anchor, positive, negative, positive_index, negative_index);
  params.options = triplet_options(margin, weight, norm_weight, metric, norm, reduction);
  const int64_t b = anchor.size(0), k = params.triplets.positive.count;
  const ScalarType type = result_type(anchor);
  Tensor loss = params.options.reduction == Reduction::kNone ? empty(anchor, {b}, type) : empty(anchor, {}, type);
  Tensor positive_distance = empty(anchor, {b, k}, type), negative_distance = empty(anchor, {b}, type);
  Tensor rows = empty(anchor, {b}, ScalarType::Double);
  params.loss = loss.mutable_data_ptr();
  params.positive_distance = positive_distance.mutable_data_ptr();
  params.negative_distance = negative_distance.mutable_data_ptr();
  params.rows = static_cast<double*>(rows.mutable_data_ptr());
  launch_triplet_loss(params, type == ScalarType::Double, device.gpu(), device.launcher());
  return {loss, positive_distance, negative_distance};
}

}  // namespace
}  // namespace tla::cuda

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CUDA, m) { m.impl("triplet_loss", TORCH_BOX(&tla::cuda::triplet_loss)); }
