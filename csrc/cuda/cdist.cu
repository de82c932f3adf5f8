// cdist and its backward on CUDA: checks, launch, registration.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cdist.cuh"
#include "tensors.h"

namespace tla::cuda {
namespace {

int64_t step_of(const Tensor& t) { return t.size(0) <= 1 ? 0 : t.stride(0); }

Tensor cdist(Tensor x1, Tensor x2, std::string metric) {
  const Device device(x1);
  const ScalarType type = result_type(x1);
  Tensor out = empty(x1, {x1.size(0), x1.size(1), x2.size(1)}, type);
  CdistParams params;
  params.x1 = rows_of(x1, step_of(x1));
  params.x2 = rows_of(x2, step_of(x2));
  params.step1 = step_of(x1);
  params.step2 = step_of(x2);
  params.n = x1.size(0);
  params.b = x1.size(1);
  params.m = x2.size(1);
  params.d = dim_of(x1);
  params.metric = parse_metric(metric);
  params.out = out.mutable_data_ptr();
  launch_cdist(params, type == ScalarType::Double, device.gpu(), device.launcher());
  return out;
}

std::tuple<Tensor, Tensor> cdist_backward(Tensor grad, Tensor x1, Tensor x2, std::string metric, bool need_x1,
                                          bool need_x2) {
  const Device device(x1);
  const auto gradient_by = [&](const Tensor& x, const Tensor& y, bool swapped, bool needed) {
    if (!needed) return empty(x, {0}, x.scalar_type());
    Tensor out = empty(x, {x.size(0), x.size(1), x.size(2)}, x.scalar_type());
    CdistBackwardParams params;
    params.x = rows_of(x, step_of(x));
    params.y = rows_of(y, step_of(y));
    params.upstream = {grad.const_data_ptr(), type_of(grad), false, grad.stride(swapped ? 2 : 1),
                       grad.stride(swapped ? 1 : 2)};
    params.step_x = step_of(x);
    params.step_y = step_of(y);
    params.step_upstream = grad.stride(0);
    params.n = x.size(0);
    params.b = x.size(1);
    params.m = y.size(1);
    params.d = dim_of(x);
    params.metric = parse_metric(metric);
    params.grad = output_of(out);
    launch_cdist_backward(params, result_type(x1) == ScalarType::Double, device.gpu(), device.launcher());
    return out;
  };
  Tensor by_x1 = gradient_by(x1, x2, false, need_x1);
  return {by_x1, gradient_by(x2, x1, true, need_x2)};
}

}  // namespace
}  // namespace tla::cuda

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CUDA, m) {
  m.impl("cdist", TORCH_BOX(&tla::cuda::cdist));
  m.impl("cdist_backward", TORCH_BOX(&tla::cuda::cdist_backward));
}
