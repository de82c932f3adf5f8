// The search of few anchors among many candidates: workspace, launches.
#include "large.h"
#include "mine_bank.cuh"

namespace tla::cuda {

void mine_bank(const Device& device, const Tensor& anchor, const SearchSetup& setup, bool fast, const Tensor& distance,
               const Tensor& index) {
  LargeParams p;
  p.search = setup.params;
  p.fast = fast;
  p.distance = static_cast<float*>(distance.mutable_data_ptr());
  p.index = static_cast<int64_t*>(index.mutable_data_ptr());
  const BankPlan plan = plan_bank(p.search.m, p.search.d, size_of(p.search.candidates.type), device.gpu());
  Workspace workspace;
  workspace.take(anchor, [&](const auto& f) { each_array(p, plan, f); });
  launch_mine_bank(p, plan, device.gpu(), device.launcher());
}

}  // namespace tla::cuda
