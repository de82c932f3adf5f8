// The search's parameters from the operators' arguments.
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <array>

#include "mine.cuh"
#include "tensors.h"

namespace tla::cuda {

std::pair<Tensor, Tensor> stable_sort(const Tensor& t) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(t), from(std::optional<bool>(true)), from(int64_t{0}), from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

SearchSetup::SearchSetup(const Device& device, const Tensor& anchor, const Tensor& candidates, const Tensor& labels,
                         const Tensor& candidate_labels, const std::optional<Tensor>& positive,
                         const std::optional<Tensor>& target_labels, const std::optional<Tensor>& exclude,
                         const std::optional<Tensor>& uniform, Metric metric, Mining mining, bool same_class, bool loss,
                         bool squares) {
  wide = result_type(anchor) == ScalarType::Double;
  SearchParams& p = params;
  p.anchor = rows_of(anchor);
  p.candidates = rows_of(candidates);
  p.b = anchor.size(0);
  p.m = candidates.size(0);
  p.d = dim_of(anchor);
  if (p.m >= int64_t{1} << 32)
    throw std::invalid_argument("tla_ops: at most 2^32 - 1 candidates, got " + std::to_string(p.m));
  p.labels = {arrays(labels), arrays(candidate_labels), arrays(target_labels), arrays(exclude)};
  if (positive) p.positive = positives_of(*positive);
  if (uniform) {
    uniform_ = torch::stable::contiguous(*uniform);
    p.uniform = static_cast<const double*>(uniform_->const_data_ptr());
  }
  p.metric = metric;
  p.mining = mining;
  p.same_class = same_class;
  const bool random = mining == Mining::kRandom;
  // A pick at random leaves the other candidates' norms unread.
  p.plan = plan_tiles(p.b, p.m, p.d, wide ? 8 : 4, !random, loss || random ? p.b : 0, device.gpu());
  const SearchBytes bytes = search_bytes(p, wide, squares);
  keys_ = workspace.reserve(bytes.keys);
  squares_ = bytes.squares > 0 ? workspace.reserve(bytes.squares) : -1;
  sums_ = workspace.reserve(bytes.sums);
}

void SearchSetup::allocate(const Tensor& like) {
  workspace.allocate(like);
  params.keys = workspace.at(keys_);
  if (squares_ >= 0) params.squares = workspace.at<double>(squares_);
  params.sums = workspace.at(sums_);
}

}  // namespace tla::cuda
