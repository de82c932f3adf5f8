// triplet_loss: the hinge with norm decay over given or picked triplets. Its backward stands in
// triplet_loss_backward.cpp.
#include <torch/csrc/stable/library.h>

#include "triplet.h"

namespace tla::cpu {

namespace {

template <class T>
double norm_of(Norm norm, const Vector<T>& v, int64_t d) {
  return norm == Norm::kL2 ? std::sqrt(v.x2) : v.x2 / d;
}

template <class T>
double row_loss(const TripletRow<T>& row, const TripletOptions& o, int64_t d) {
  double triplet = 0;
  for (size_t j = 0; j < row.positives.size() && row.has_negative; ++j) {
    const double violation = row.violation(o.metric, o.margin, j);
    if (hinge_active(violation)) triplet += violation;
  }
  double loss = o.weight * triplet;
  if (o.norm_weight != 0) {
    double norm = norm_of(o.norm, row.anchor, d);
    for (const Vector<T>& p : row.positives) norm += norm_of(o.norm, p, d);
    if (row.has_negative) norm += norm_of(o.norm, row.negative, d);
    loss += o.norm_weight * norm;
  }
  return loss;
}

template <class T>
std::tuple<Tensor, Tensor, Tensor> forward_as(const TripletInputs& in, const TripletOptions& o) {
  const int64_t b = in.rows(), d = in.dim(), k = in.positives();
  const ScalarType type = result_type(in.anchor_tensor());
  Tensor positive_distance = empty({b, k}, type), negative_distance = empty({b}, type);
  T* dp = static_cast<T*>(positive_distance.mutable_data_ptr());
  T* dn = static_cast<T*>(negative_distance.mutable_data_ptr());
  std::vector<double> losses(b, 0.0);
  constexpr T kNone = std::numeric_limits<T>::infinity();
  torch::stable::parallel_for(0, b, grain((k + 2) * d), [&](int64_t begin, int64_t end) {
    TripletRow<T> row;
    for (int64_t i = begin; i < end; ++i) {
      if (in.left_out(i)) {
        // The distances there are stay with whoever mined them.
        std::fill(dp + i * k, dp + (i + 1) * k, kNone);
        dn[i] = kNone;
        continue;
      }
      row.read(in, o.metric, i);
      for (int64_t j = 0; j < k; ++j) dp[i * k + j] = static_cast<T>(distance(o.metric, row.to_positive[j]));
      dn[i] = row.has_negative ? static_cast<T>(distance(o.metric, row.to_negative)) : kNone;
      losses[i] = row_loss(row, o, d);
    }
  });
  const bool scalar = o.reduction != Reduction::kNone;
  Tensor loss = scalar ? empty({}, type) : empty({b}, type);
  T* out = static_cast<T*>(loss.mutable_data_ptr());
  if (scalar) {
    double sum = 0;
    for (double l : losses) sum += l;
    out[0] = static_cast<T>(o.reduction == Reduction::kMean && b > 0 ? sum / b : sum);
  } else {
    std::copy(losses.begin(), losses.end(), out);
  }
  return {loss, positive_distance, negative_distance};
}

std::tuple<Tensor, Tensor, Tensor> triplet_loss(Tensor anchor, Tensor positive, Tensor negative,
                                                std::optional<Tensor> positive_index,
                                                std::optional<Tensor> negative_index, double margin, double weight,
                                                double norm_weight, std::string metric, std::string norm,
                                                std::string reduction) {
  return triplet_forward({anchor, positive, negative, positive_index, negative_index},
                         triplet_options(margin, weight, norm_weight, metric, norm, reduction));
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> triplet_forward(const TripletInputs& inputs, const TripletOptions& options) {
  return result_type(inputs.anchor_tensor()) == ScalarType::Double ? forward_as<double>(inputs, options)
                                                                   : forward_as<float>(inputs, options);
}

}  // namespace tla::cpu

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CPU, m) { m.impl("triplet_loss", TORCH_BOX(&tla::cpu::triplet_loss)); }
