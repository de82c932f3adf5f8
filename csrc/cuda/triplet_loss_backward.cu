// triplet_loss_backward on CUDA: checks, launch, registration.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "triplet_loss_backward.cuh"
#include "triplet_tensors.h"

namespace tla::cuda {
namespace {

// A gradient, or what stands for one that was not asked for.
Tensor gradient_of(const Tensor& x, bool needed, const std::vector<int64_t>& size, Output& out) {
  Tensor grad = empty(x, needed ? size : std::vector<int64_t>{0}, x.scalar_type());
  if (needed) out = output_of(grad);
  return grad;
}

std::tuple<Tensor, Tensor, Tensor> triplet_loss_backward(Tensor grad, Tensor anchor, Tensor positive, Tensor negative,
                                                         std::optional<Tensor> positive_index,
                                                         std::optional<Tensor> negative_index, double margin,
                                                         double weight, double norm_weight, std::string metric,
                                                         std::string norm, std::string reduction, bool need_anchor,
                                                         bool need_positive, bool need_negative, bool sparse) {
  const Device device(anchor);
  Arrays arrays;
  TripletBackwardParams params;
  params.triplets = triplets_of(arrays, anchor, positive, negative, positive_index, negative_index);
  params.options = triplet_options(margin, weight, norm_weight, metric, norm, reduction);
  const int64_t b = anchor.size(0), d = anchor.size(1), k = params.triplets.positive.count;
  const bool scalar = params.options.reduction != Reduction::kNone;
  params.upstream = {grad.const_data_ptr(), type_of(grad), false, scalar ? 0 : grad.stride(0), 1};
  params.sparse = sparse;
  params.positive_pool = positive_index ? positive.size(0) : 0;
  params.negative_pool = negative_index && !sparse ? negative.size(0) : 0;
  Tensor grad_anchor = gradient_of(anchor, need_anchor, {b, d}, params.grad_anchor);
  Tensor grad_positive = gradient_of(
      positive, need_positive,
      positive_index ? std::vector<int64_t>{positive.size(0), d} : std::vector<int64_t>{b, k, d}, params.grad_positive);
  Tensor grad_negative = gradient_of(negative, need_negative, {sparse ? b : negative.size(0), d}, params.grad_negative);

  Workspace workspace;
  const int64_t pairs = workspace.reserve(b * (k + 1) * kPairBytes);
  const int64_t weights = workspace.reserve(b * (k + 1) * sizeof(PairWeights));
  const int64_t shares = workspace.reserve(2 * b * sizeof(PairWeights));
  const int64_t links = workspace.reserve(2 * b * sizeof(int64_t));
  const BackwardPlan plan = backward_plan(params, device.gpu());
  const int64_t pieces = workspace.reserve(plan.sorted ? bytes_of_pieces(b, d) : 0);
  workspace.allocate(anchor);
  params.pairs = workspace.at(pairs);
  params.to_positive = workspace.at<PairWeights>(weights);
  params.to_negative = params.to_positive + b * k;
  for (int pool = 0; pool < 2; ++pool) {
    params.shares[pool] = workspace.at<PairWeights>(shares) + pool * b;
    params.next[pool] = workspace.at<int64_t>(links) + pool * b;
  }
  params.pieces = workspace.at<double>(pieces);
  std::vector<Tensor> picks, kept;
  for (const Pool pool : {kPositives, kNegatives}) {
    picks.push_back(empty(anchor, {plan.sorted && picked_from(params, pool) ? b : 0}, ScalarType::Long));
    if (picks[pool].numel() > 0) params.picks[pool] = static_cast<int64_t*>(picks[pool].mutable_data_ptr());
  }
  const auto sort = [&](Pool pool) {
    const auto [sorted, anchors] = stable_sort(picks[pool]);
    kept.insert(kept.end(), {sorted, anchors});
    return SortedPicks{static_cast<const int64_t*>(sorted.const_data_ptr()),
                       static_cast<const int64_t*>(anchors.const_data_ptr())};
  };
  const auto clear = [&](void* data, int64_t bytes) { device.clear(data, bytes); };
  launch_triplet_loss_backward(params, plan, result_type(anchor) == ScalarType::Double, device.launcher(), clear, sort);
  return {grad_anchor, grad_positive, grad_negative};
}

}  // namespace
}  // namespace tla::cuda

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CUDA, m) {
  m.impl("triplet_loss_backward", TORCH_BOX(&tla::cuda::triplet_loss_backward));
}
