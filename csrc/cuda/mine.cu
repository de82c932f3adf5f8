// mine on CUDA: checks, launch, registration.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "large.h"
#include "mine.cuh"
#include "tensors.h"

namespace tla::cuda {
namespace {

// `fast` takes the screen of a large search at its word; the search by tiles is exact.
std::tuple<Tensor, Tensor> mine(Tensor anchor, Tensor candidates, Tensor labels, Tensor candidate_labels,
                                std::optional<Tensor> positive, std::optional<Tensor> target_labels,
                                std::optional<Tensor> exclude, std::optional<Tensor> uniform, std::string metric,
                                std::string mining, bool same_class, bool fast, std::string screens,
                                const std::optional<Tensor>& /*packed*/) {
  const Device device(anchor);
  SearchSetup setup(device, anchor, candidates, labels, candidate_labels, positive, target_labels, exclude, uniform,
                    parse_metric(metric), parse_mining(mining), same_class, /*loss=*/false, /*squares=*/false);
  const int64_t b = anchor.size(0);
  Tensor distance = empty(anchor, {b}, result_type(anchor)), index = empty(anchor, {b}, ScalarType::Long);
  if (const Screen screen = screen_of(device, setup, screens); screen != Screen::kTiles) {
    mine_large(device, anchor, candidate_labels, setup, screen, fast, distance, index);
    return {distance, index};
  }
  setup.allocate(anchor);
  const MineParams params{setup.params, distance.mutable_data_ptr(), static_cast<int64_t*>(index.mutable_data_ptr())};
  if (b > 0) launch_mine(params, setup.wide, device.launcher());
  return {distance, index};
}

}  // namespace
}  // namespace tla::cuda

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CUDA, m) { m.impl("mine", TORCH_BOX(&tla::cuda::mine)); }
