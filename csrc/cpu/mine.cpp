// mine: the picked candidate of each anchor and its distance.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <tuple>

#include "miner.h"
#include "pool.h"

namespace tla::cpu {
namespace {

const int64_t* data_or_null(const std::optional<Tensor>& t) {
  return t ? static_cast<const int64_t*>(t->const_data_ptr()) : nullptr;
}

std::optional<Tensor> dense(const std::optional<Tensor>& t) {
  return t ? std::optional<Tensor>(as_contiguous(*t)) : std::nullopt;
}

template <class T>
T distance_to(Metric metric, const T* a, double a2, const Matrix& m, int64_t i, std::vector<T>& scratch) {
  const T* row = m.row(i, scratch.data());
  return static_cast<T>(distance(metric, pair_sums(metric, a, a2, row, squared_norm(row, m.cols), m.cols)));
}

// The distance to the nearest positive; NaN where one is NaN or there is none, so that semihard falls back to hardest.
template <class T>
std::vector<double> nearest_positive(Metric metric, const Matrix& anchor, const Tensor& positive) {
  const int64_t b = anchor.rows, d = anchor.cols, k = positive.size(1);
  std::vector<double> nearest(b);
  torch::stable::parallel_for(0, b, grain((k + 1) * d), [&](int64_t begin, int64_t end) {
    std::vector<T> x(d), y(d);
    for (int64_t i = begin; i < end; ++i) {
      const Matrix positives = slice(positive, i);
      const T* a = anchor.row(i, x.data());
      const double a2 = squared_norm(a, d);
      double best = k == 0 ? std::nan("") : std::numeric_limits<double>::infinity();
      for (int64_t j = 0; j < k; ++j) {
        const double distance = distance_to(metric, a, a2, positives, j, y);
        if (std::isnan(distance) || distance < best) best = distance;
        if (std::isnan(best)) break;
      }
      nearest[i] = best;
    }
  });
  return nearest;
}

template <class T>
std::vector<Pick<T>> random_picks(Metric metric, const Matrix& anchor, const Matrix& candidates, const Labels& labels,
                                  const Tensor& uniform) {
  const LabelIndex index(labels.codes);
  const double* u = static_cast<const double*>(uniform.const_data_ptr());
  std::vector<Pick<T>> picks(anchor.rows);
  torch::stable::parallel_for(0, anchor.rows, grain(anchor.cols), [&](int64_t begin, int64_t end) {
    std::vector<T> x(anchor.cols), y(anchor.cols);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t count = index.count(labels.rules[i]);
      if (count <= 0) continue;
      const int64_t t = std::clamp<int64_t>(static_cast<int64_t>(std::floor(u[i] * count)), 0, count - 1);
      const T* a = anchor.row(i, x.data());
      picks[i].index = index.pick(labels.rules[i], t);
      picks[i].distance = distance_to(metric, a, squared_norm(a, anchor.cols), candidates, picks[i].index, y);
    }
  });
  return picks;
}

// The packed candidates, where the screen they are for is in use.
std::optional<PackedPool> packed_pool(const MineInputs& inputs, const Matrix& candidates, Metric metric) {
  const screen::Unit* const in_use = screen_in_use();
  if (!inputs.packed || !in_use) return std::nullopt;
  const std::optional<PackedPool> pool = PackedPool::of(*inputs.packed, candidates);
  if (!pool) throw std::invalid_argument("packed belongs to candidates of another shape");
  if (metric == Metric::kChebyshev || pool->directions() != is_cosine(metric))
    throw std::invalid_argument("packed belongs to another metric");
  return &pool->unit() == in_use ? pool : std::nullopt;
}

}  // namespace

template <class T>
std::vector<Pick<T>> mine_picks(const MineInputs& inputs, Metric metric, Mining mining, bool same_class) {
  const Matrix anchor = matrix(inputs.anchor), candidates = matrix(inputs.candidates);
  const Tensor own = as_contiguous(inputs.labels), pool = as_contiguous(inputs.candidate_labels);
  const std::optional<Tensor> target = dense(inputs.target_labels), exclude = dense(inputs.exclude);
  const Labels labels = read_labels(static_cast<const int64_t*>(pool.const_data_ptr()), candidates.rows,
                                    static_cast<const int64_t*>(own.const_data_ptr()), data_or_null(target),
                                    data_or_null(exclude), anchor.rows, same_class);
  const std::optional<PackedPool> kept = packed_pool(inputs, candidates, metric);
  const PackedPool* const packed = kept ? &*kept : nullptr;
  if (mining == Mining::kRandom)
    return random_picks<T>(metric, anchor, candidates, labels, as_contiguous(inputs.uniform.value()));

  std::vector<Query> queries(anchor.rows);
  for (int64_t i = 0; i < anchor.rows; ++i) queries[i] = {i, labels.rules[i]};
  const bool semihard = mining == Mining::kSemihard;
  if (semihard) {
    const std::vector<double> above = nearest_positive<T>(metric, anchor, inputs.positive.value());
    for (int64_t i = 0; i < anchor.rows; ++i) queries[i].above = above[i];
  }
  const bool farthest = same_class && mining == Mining::kHardest;
  std::vector<Pick<T>> picks = search<T>(metric, anchor, candidates, labels.codes, queries, farthest, packed);
  if (semihard) {
    // Where nothing is farther than the positive, the farthest is taken.
    std::vector<Query> left;
    for (int64_t i = 0; i < anchor.rows; ++i)
      if (picks[i].index < 0) left.push_back({i, labels.rules[i]});
    const std::vector<Pick<T>> found = search<T>(metric, anchor, candidates, labels.codes, left, true, packed);
    for (size_t i = 0; i < left.size(); ++i) picks[left[i].row] = found[i];
  }
  return picks;
}

template std::vector<Pick<float>> mine_picks(const MineInputs&, Metric, Mining, bool);
template std::vector<Pick<double>> mine_picks(const MineInputs&, Metric, Mining, bool);

namespace {

template <class T>
std::tuple<Tensor, Tensor> mine_as(const MineInputs& inputs, Metric metric, Mining mining, bool same_class) {
  const std::vector<Pick<T>> picks = mine_picks<T>(inputs, metric, mining, same_class);
  const int64_t b = picks.size();
  Tensor distance = empty({b}, result_type(inputs.anchor)), index = empty({b}, ScalarType::Long);
  T* d = static_cast<T*>(distance.mutable_data_ptr());
  int64_t* n = static_cast<int64_t*>(index.mutable_data_ptr());
  for (int64_t i = 0; i < b; ++i) d[i] = picks[i].distance, n[i] = picks[i].index;
  return {distance, index};
}

// `fast` changes nothing here: there is one search, and it is exact.
std::tuple<Tensor, Tensor> mine(Tensor anchor, Tensor candidates, Tensor labels, Tensor candidate_labels,
                                std::optional<Tensor> positive, std::optional<Tensor> target_labels,
                                std::optional<Tensor> exclude, std::optional<Tensor> uniform, std::string metric,
                                std::string mining, bool same_class, [[maybe_unused]] bool fast, const std::string&,
                                std::optional<Tensor> packed) {
  const MineInputs inputs{anchor,  candidates, labels, candidate_labels, positive, target_labels,
                          exclude, uniform,    packed};
  const Metric m = parse_metric(metric);
  const Mining how = parse_mining(mining);
  return result_type(anchor) == ScalarType::Double ? mine_as<double>(inputs, m, how, same_class)
                                                   : mine_as<float>(inputs, m, how, same_class);
}

}  // namespace
}  // namespace tla::cpu

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CPU, m) { m.impl("mine", TORCH_BOX(&tla::cpu::mine)); }
