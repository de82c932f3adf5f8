// The search of large problems: workspace, products by torch's BLAS, launches.
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <array>

#include "hopper.h"
#include "large.h"
#include "mine_large.cuh"
#include "screen_bank.cuh"

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

// What the wgmma screen asks of the host.
struct Hopper {
  TensorMap map(const uint16_t* data, int64_t rows, int64_t columns, int box_rows, int box_columns) const {
    return tensor_map(data, rows, columns, box_rows, box_columns);
  }
  template <class Kernel>
  int64_t clusters(Kernel kernel, const LaunchShape& shape) const {
    return std::max<int64_t>(1, clusters_at_once(reinterpret_cast<const void*>(kernel), shape));
  }
};

LargeProblem problem_of(const SearchSetup& setup) {
  const SearchParams& s = setup.params;
  return {s.b,
          s.m,
          s.d,
          setup.wide ? 8 : 4,
          size_of(s.candidates.type),
          s.metric != Metric::kChebyshev && !s.random(),
          bank_fits(s.candidates, s.m),
          s.semihard()};
}

}  // namespace

Screen screen_of(const Device& device, const SearchSetup& setup, std::string_view screens) {
  const LargeProblem problem = problem_of(setup);
  const Screens all(screens);
  const Screen screen = choose_screen(problem, all, device.gpu());
  if (screen != Screen::kWgmma) return screen;
  bool runs = true;
  with_wgmma_kernels(setup.params.metric, [&](auto kernel, bool offsets) {
    const LaunchShape shape = wgmma_shape(setup.params, 1, offsets);
    runs = runs && runs_on_hopper(device, reinterpret_cast<const void*>(kernel), shape);
  });
  if (runs) return screen;
  // Who names it alone, a self-test, wants it and nothing else.
  if (screens == "wgmma")
    throw std::runtime_error("tla_ops: the wgmma screen needs a build for sm_90a and a driver with tensor maps");
  return choose_screen(problem, all.without(screen), device.gpu());
}

void mine_large(const Device& device, const Tensor& anchor, const Tensor& candidate_labels, const SearchSetup& setup,
                Screen screen, bool fast, const Tensor& distance, const Tensor& index) {
  if (screen == Screen::kBank) return mine_bank(device, anchor, setup, fast, distance, index);
  const LargePlan plan = plan_large(problem_of(setup), screen);
  LargeParams p;
  p.search = setup.params;
  p.fast = fast;
  p.distance = static_cast<float*>(distance.mutable_data_ptr());
  p.index = static_cast<int64_t*>(index.mutable_data_ptr());
  const auto [sorted_labels, order] = stable_sort(candidate_labels);
  p.sorted_labels = static_cast<const int64_t*>(sorted_labels.const_data_ptr());
  p.order = static_cast<const int64_t*>(order.const_data_ptr());
  Workspace workspace;
  workspace.take(anchor, [&](const auto& f) { each_array(p, plan, f); });
  Tensor packed_anchor = empty(anchor, {plan.anchor_chunk, plan.padded}, ScalarType::Half),
         packed_candidates = empty(anchor, {p.search.m, plan.padded}, ScalarType::Half),
         scores =
             empty(anchor, {screen == Screen::kBlas ? plan.anchor_chunk * plan.candidate_chunk : 0}, ScalarType::Float);
  p.packed_anchor = static_cast<uint16_t*>(packed_anchor.mutable_data_ptr());
  p.packed_candidates = static_cast<uint16_t*>(packed_candidates.mutable_data_ptr());
  const auto products = [&](int64_t anchors, int64_t first, int64_t columns) {
    const Tensor out = torch::stable::view(torch::stable::narrow(scores, 0, 0, anchors * columns), {anchors, columns});
    multiply(torch::stable::narrow(packed_anchor, 0, 0, anchors),
             torch::stable::narrow(packed_candidates, 0, first, columns), out);
    return static_cast<const float*>(scores.const_data_ptr());
  };
  launch_mine_large(p, plan, device.gpu(), device.launcher(), products, Hopper());
}

}  // namespace tla::cuda
