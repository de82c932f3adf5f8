#include <algorithm>
#include <numeric>

#include "../../csrc/cuda/triplet_loss.cuh"
#include "../../csrc/cuda/triplet_loss_backward.cuh"
#include "runner.h"

namespace tla::simt {

void run_triplet_loss(const Problem& p) {
  cuda::TripletLossParams params;
  params.triplets = triplets(p);
  params.options = triplet_options(p);
  const int64_t b = params.triplets.b, k = params.triplets.positive.count;
  const Array loss = new_loss(p, b), to_positive = new_array(p.result_type(), {b, k}, p.seed() + 5),
              to_negative = new_array(p.result_type(), {b}, p.seed() + 6);
  const Buffer rows = Buffer::output(b * sizeof(double), p.seed() + 7);
  params.loss = loss.memory.as<void>();
  params.positive_distance = to_positive.memory.as<void>();
  params.negative_distance = to_negative.memory.as<void>();
  params.rows = rows.as<double>();
  cuda::launch_triplet_loss(params, p.wide(), p.gpu(), p.launch());
  answer("loss", loss);
  answer("positive_distance", to_positive);
  answer("negative_distance", to_negative);
}

void run_triplet_loss_backward(const Problem& p) {
  cuda::TripletBackwardParams params;
  params.triplets = triplets(p);
  params.options = triplet_options(p);
  const Array &grad = p.array("grad"), &anchor = p.array("anchor"), &positive = p.array("positive"),
              &negative = p.array("negative");
  const int64_t b = params.triplets.b, d = params.triplets.d, k = params.triplets.positive.count;
  const bool scalar = params.options.reduction != Reduction::kNone;
  params.upstream = {grad.data<void>(), type_named(grad.type), false, scalar ? 0 : grad.stride(0), 1};
  params.sparse = p.flag("sparse");
  params.positive_pool = p.has("positive_index") ? positive.size(0) : 0;
  params.negative_pool = p.has("negative_index") && !params.sparse ? negative.size(0) : 0;
  const Array by_anchor = new_array(anchor.type, {b, d}, p.seed() + 8),
              by_positive = new_array(positive.type, positive.sizes, p.seed() + 9),
              by_negative = new_array(negative.type, {params.sparse ? b : negative.size(0), d}, p.seed() + 10);
  if (p.flag("need_anchor")) params.grad_anchor = by_anchor.output();
  if (p.flag("need_positive")) params.grad_positive = by_positive.output();
  if (p.flag("need_negative")) params.grad_negative = by_negative.output();
  const Buffer weights = Buffer::output((b * k + 3 * b) * sizeof(cuda::PairWeights), p.seed() + 11),
               links = Buffer::output(2 * b * sizeof(int64_t), p.seed() + 12),
               pairs = Buffer::output(b * (k + 1) * cuda::kPairBytes, p.seed() + 13);
  params.pairs = pairs.as<void>();
  params.to_positive = weights.as<cuda::PairWeights>();
  params.to_negative = params.to_positive + b * k;
  for (int pool = 0; pool < 2; ++pool) {
    params.shares[pool] = params.to_negative + b * (pool + 1);
    params.next[pool] = links.as<int64_t>() + b * pool;
  }
  // Whether picks are sorted is the test's to say.
  const BackwardPlan plan = cuda::backward_plan(params, p.flag("sorted"), p.gpu());
  const Buffer picks = Buffer::output(2 * b * sizeof(int64_t), p.seed() + 14),
               pieces = Buffer::output(cuda::bytes_of_pieces(b, d), p.seed() + 15);
  params.pieces = pieces.as<double>();
  for (const cuda::Pool pool : {cuda::kPositives, cuda::kNegatives})
    if (plan.sorted && cuda::picked_from(params, pool)) params.picks[pool] = picks.as<int64_t>() + b * pool;
  std::vector<Buffer> kept;
  const auto sort = [&](cuda::Pool pool) {
    const int64_t* of = params.picks[pool];
    std::vector<int64_t> order(b), sorted(b);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) { return of[x] < of[y]; });
    std::transform(order.begin(), order.end(), sorted.begin(), [&](int64_t i) { return of[i]; });
    for (const auto& array : {sorted, order}) kept.push_back(Buffer::input(array.data(), b * sizeof(int64_t)));
    return cuda::SortedPicks{kept[kept.size() - 2].as<int64_t>(), kept.back().as<int64_t>()};
  };
  const auto clear = [](void* data, int64_t bytes) { std::memset(data, 0, bytes); };
  cuda::launch_triplet_loss_backward(params, plan, p.wide(), p.launch(), clear, sort);
  if (p.flag("need_anchor")) answer("anchor", by_anchor);
  if (p.flag("need_positive")) answer("positive", by_positive);
  if (p.flag("need_negative")) answer("negative", by_negative);
}

}  // namespace tla::simt
