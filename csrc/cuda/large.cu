// The search of large problems: workspace, products by torch's BLAS, launches.
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <array>

#include "large.h"
#include "mine_large.cuh"

namespace tla::cuda {
namespace {

// out = a b^T in float32 of matrices in float16. This overload of mm knows no autocast and rounds nothing to half.
void multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(a), from(torch::stable::transpose(b, 0, 1)), from(ScalarType::Float),
                                    from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "dtype_out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // takes back what the stack holds
}

}  // namespace

bool takes_large(const SearchSetup& setup) {
  const SearchParams& s = setup.params;
  return is_large(s.b, s.m, s.d, setup.wide ? 8 : 4, s.metric != Metric::kChebyshev && !s.random());
}

void mine_large(const Device& device, const Tensor& anchor, const SearchSetup& setup, bool fast, const Tensor& distance,
                const Tensor& index) {
  const SearchParams& s = setup.params;
  const LargePlan plan = plan_large(s.b, s.m, s.d, device.gpu());
  const LargeBytes bytes = large_bytes(plan, s);
  Workspace workspace;
  const int64_t candidates = workspace.reserve(bytes.candidates), rows = workspace.reserve(bytes.anchor),
                limits = workspace.reserve(bytes.limits), best = workspace.reserve(bytes.best),
                count = workspace.reserve(bytes.count), list = workspace.reserve(bytes.list),
                keys = workspace.reserve(bytes.keys), redone = workspace.reserve(bytes.redone),
                rescored = workspace.reserve(bytes.rescored);
  workspace.allocate(anchor);
  const Tensor packed_anchor = empty(anchor, {plan.anchor_chunk, plan.padded}, ScalarType::Half),
               packed_candidates = empty(anchor, {s.m, plan.padded}, ScalarType::Half),
               scores = empty(anchor, {bytes.scores / 4}, ScalarType::Float);
  LargeParams p;
  p.search = s;
  p.fast = fast;
  p.packed_anchor = static_cast<const uint16_t*>(packed_anchor.const_data_ptr());
  p.packed_candidates = static_cast<const uint16_t*>(packed_candidates.const_data_ptr());
  p.anchor = workspace.at<Side>(rows);
  p.candidates = workspace.at<Side>(candidates);
  p.positive = workspace.at<float>(limits);
  p.surely = p.positive + plan.anchor_chunk;
  p.maybe = p.surely + plan.anchor_chunk;
  p.best = workspace.at<uint32_t>(best);
  p.count = workspace.at<uint32_t>(count);
  p.list = workspace.at<Entry>(list);
  p.capacity = plan.capacity;
  p.keys = workspace.at<uint64_t>(keys);
  p.redone_count = workspace.at<uint32_t>(redone);
  p.redone = p.redone_count + 1;
  p.rescored = workspace.at<uint32_t>(rescored);
  p.distance = static_cast<float*>(distance.mutable_data_ptr());
  p.index = static_cast<int64_t*>(index.mutable_data_ptr());
  const auto products = [&](int64_t anchors, int64_t first, int64_t columns) {
    const Tensor out = torch::stable::view(torch::stable::narrow(const_cast<Tensor&>(scores), 0, 0, anchors * columns),
                                           {anchors, columns});
    multiply(torch::stable::narrow(const_cast<Tensor&>(packed_anchor), 0, 0, anchors),
             torch::stable::narrow(const_cast<Tensor&>(packed_candidates), 0, first, columns), out);
    return static_cast<const float*>(scores.const_data_ptr());
  };
  launch_mine_large(p, plan, device.gpu(), device.launcher(), products);
}

}  // namespace tla::cuda
