#include "../../csrc/cuda/cdist.cuh"
#include "runner.h"

namespace tla::simt {

void run_cdist(const Problem& p) {
  const Array &x1 = p.array("anchor"), &x2 = p.array("candidates");
  const Array out = new_array(p.result_type(), {x1.size(0), x1.size(1), x2.size(1)}, p.seed() + 4);
  cuda::CdistParams params;
  params.x1 = x1.rows(x1.step());
  params.x2 = x2.rows(x2.step());
  params.step1 = x1.step();
  params.step2 = x2.step();
  params.n = x1.size(0);
  params.b = x1.size(1);
  params.m = x2.size(1);
  params.d = static_cast<int>(x1.size(2));
  params.metric = parse_metric(p.text("metric"));
  params.out = out.memory.as<void>();
  cuda::launch_cdist(params, p.wide(), p.gpu(), p.launch());
  answer("distance", out);
}

void run_cdist_backward(const Problem& p) {
  const bool swapped = p.flag("swapped");
  const Array &x = p.array(swapped ? "candidates" : "anchor"), &y = p.array(swapped ? "anchor" : "candidates"),
              &grad = p.array("grad");
  const Array out = new_array(x.type, x.sizes, p.seed() + 4);
  cuda::CdistBackwardParams params;
  params.x = x.rows(x.step());
  params.y = y.rows(y.step());
  params.upstream = {grad.data<void>(), type_named(grad.type), false, grad.stride(swapped ? 2 : 1),
                     grad.stride(swapped ? 1 : 2)};
  params.step_x = x.step();
  params.step_y = y.step();
  params.step_upstream = grad.stride(0);
  params.n = x.size(0);
  params.b = x.size(1);
  params.m = y.size(1);
  params.d = static_cast<int>(x.size(2));
  params.metric = parse_metric(p.text("metric"));
  params.grad = out.output();
  cuda::launch_cdist_backward(params, p.wide(), p.gpu(), p.launch());
  answer("grad", out);
}

}  // namespace tla::simt
