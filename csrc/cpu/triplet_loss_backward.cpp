// triplet_loss_backward: everything is computed again from the rows, so forward saves nothing but its inputs and picks.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "gradient.h"
#include "triplet.h"

namespace tla::cpu {
namespace {

// What anchor i sends to the row it picked: the distance's gradient and the norm's, as a multiple of the row.
struct Share {
  PairWeights pair;
  double norm = 0;
};

template <class T>
double norm_slope(const TripletOptions& o, const Vector<T>& v, int64_t d, double upstream) {
  if (o.norm_weight == 0) return 0;
  const double g = upstream * o.norm_weight;
  if (o.norm == Norm::kMeanSquare) return 2 * g / d;
  return v.x2 == 0 ? 0 : g / std::sqrt(v.x2);
}

Tensor zeros_like_rows(const Tensor& like, int64_t rows, int64_t d) {
  return torch::stable::new_zeros(like, std::vector<int64_t>{rows, d});
}

// What stands for a gradient that was not asked for.
Tensor nothing(const Tensor& like) { return torch::stable::new_zeros(like, std::vector<int64_t>{0}); }

template <class T>
class Backward {
 public:
  Backward(const TripletInputs& in, const TripletOptions& o, const Tensor& grad)
      : in_(in), o_(o), upstream_(in.rows()) {
    const int64_t b = in.rows();
    const bool scalar = o.reduction != Reduction::kNone;
    row_kernels<double>().load(grad.const_data_ptr(), type_of(grad), scalar || b == 0 ? 0 : grad.stride(0), b,
                               upstream_.data());
    if (o.reduction == Reduction::kMean)
      for (double& u : upstream_) u /= b;
  }

  std::tuple<Tensor, Tensor, Tensor> run(bool need_anchor, bool need_positive, bool need_negative, bool sparse) {
    const int64_t b = in_.rows(), d = in_.dim(), k = in_.positives();
    Tensor grad_anchor = need_anchor ? zeros_like_rows(in_.anchor_tensor(), b, d) : nothing(in_.anchor_tensor());
    Tensor grad_positive = nothing(in_.positive_tensor()), grad_negative = nothing(in_.negative_tensor());
    if (need_positive && !in_.picks_positives())
      grad_positive = torch::stable::new_zeros(in_.positive_tensor(), std::vector<int64_t>{b, k, d});
    if (need_positive && in_.picks_positives()) positive_shares_.resize(b);
    if (need_negative) negative_shares_.resize(b);

    if (need_anchor) anchor_out_ = {grad_anchor.mutable_data_ptr(), type_of(grad_anchor)};
    if (need_positive && !in_.picks_positives())
      positive_out_ = {grad_positive.mutable_data_ptr(), type_of(grad_positive)};
    torch::stable::parallel_for(0, b, grain((k + 2) * d), [&](int64_t begin, int64_t end) {
      TripletRow<T> row;
      std::vector<T> sum(d), other(d);
      for (int64_t i = begin; i < end; ++i)
        if (!in_.left_out(i)) differentiate(i, row, sum, other);
    });
    if (need_positive && in_.picks_positives())
      grad_positive =
          gather_shares(in_.positive_tensor(), positive_shares_, false, [&](int64_t i) { return in_.positive_of(i); });
    if (need_negative)
      grad_negative =
          gather_shares(in_.negative_tensor(), negative_shares_, sparse, [&](int64_t i) { return in_.negative_of(i); });
    return {grad_anchor, grad_positive, grad_negative};
  }

 private:
  // Where rows of a gradient go; no data: nowhere.
  struct Output {
    void* data = nullptr;
    Type type = Type::kFloat32;
  };

  // Row i's gradients, and what it sends to rows that others may have picked, too.
  void differentiate(int64_t i, TripletRow<T>& row, std::vector<T>& sum, std::vector<T>& other) {
    const int64_t d = in_.dim(), k = in_.positives();
    const double g = upstream_[i];
    row.read(in_, o_.metric, i);
    const T* a = row.anchor.x;
    std::fill(sum.begin(), sum.end(), T(0));
    int64_t active = 0;
    for (int64_t j = 0; j < k; ++j) {
      const Vector<T>& p = row.positives[j];
      Share share;
      if (row.has_negative && hinge_active(row.violation(o_.metric, o_.margin, j))) {
        ++active;
        share.pair = PairWeights::of(o_.metric, row.to_positive[j], a, p.x, d, g * o_.weight);
      }
      share.norm = norm_slope(o_, p, d, g);
      share.pair.add_x(a, p.x, d, sum.data());
      if (!positive_shares_.empty()) positive_shares_[i] = share;
      if (positive_out_.data == nullptr) continue;
      std::fill(other.begin(), other.end(), T(0));
      share.pair.add_y(a, p.x, d, other.data());
      add_scaled(share.norm, p.x, d, other.data());
      write_row(positive_out_.data, positive_out_.type, i * k + j, d, other.data());
    }
    if (row.has_negative) {
      Share share;
      if (active > 0)
        share.pair = PairWeights::of(o_.metric, row.to_negative, a, row.negative.x, d, -g * o_.weight * active);
      share.norm = norm_slope(o_, row.negative, d, g);
      share.pair.add_x(a, row.negative.x, d, sum.data());
      if (!negative_shares_.empty()) negative_shares_[i] = share;
    }
    add_scaled(norm_slope(o_, row.anchor, d, g), a, d, sum.data());
    if (anchor_out_.data != nullptr) write_row(anchor_out_.data, anchor_out_.type, i, d, sum.data());
  }

  // The gradient of a pool. The anchors that picked a row are added up in ascending order, so the bits never change;
  // dense: (N, D); sparse: (B, D), the sum in the place of the first anchor that picked the row.
  template <class PickOf>
  Tensor gather_shares(const Tensor& pool, const std::vector<Share>& shares, bool sparse, const PickOf& pick_of) {
    const int64_t b = in_.rows(), d = in_.dim();
    const Matrix rows = matrix(pool), anchors = in_.anchor();
    Tensor out = zeros_like_rows(pool, sparse ? b : rows.rows, d);
    std::vector<int64_t> order;
    for (int64_t i = 0; i < b; ++i)
      if (!in_.left_out(i) && pick_of(i) >= 0) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) { return pick_of(x) < pick_of(y); });
    std::vector<int64_t> groups;
    for (size_t n = 0; n < order.size(); ++n)
      if (n == 0 || pick_of(order[n]) != pick_of(order[n - 1])) groups.push_back(n);
    groups.push_back(order.size());
    char* data = static_cast<char*>(out.mutable_data_ptr());
    const Type type = type_of(out);
    torch::stable::parallel_for(0, groups.size() - 1, grain(2 * d), [&](int64_t begin, int64_t end) {
      std::vector<T> sum(d), x(d), y(d);
      for (int64_t group = begin; group < end; ++group) {
        const int64_t first = order[groups[group]];
        const T* row = rows.row(pick_of(first), y.data());
        std::fill(sum.begin(), sum.end(), T(0));
        double norm = 0;
        for (int64_t n = groups[group]; n < groups[group + 1]; ++n) {
          const Share& share = shares[order[n]];
          share.pair.add_y(anchors.row(order[n], x.data()), row, d, sum.data());
          norm += share.norm;
        }
        add_scaled(norm, row, d, sum.data());
        write_row(data, type, sparse ? first : pick_of(first), d, sum.data());
      }
    });
    return out;
  }

  const TripletInputs& in_;
  const TripletOptions& o_;
  std::vector<double> upstream_;
  std::vector<Share> positive_shares_, negative_shares_;
  Output anchor_out_, positive_out_;
};

std::tuple<Tensor, Tensor, Tensor> triplet_loss_backward(Tensor grad, Tensor anchor, Tensor positive, Tensor negative,
                                                         std::optional<Tensor> positive_index,
                                                         std::optional<Tensor> negative_index, double margin,
                                                         double weight, double norm_weight, std::string metric,
                                                         std::string norm, std::string reduction, bool need_anchor,
                                                         bool need_positive, bool need_negative, bool sparse) {
  const TripletInputs inputs(anchor, positive, negative, positive_index, negative_index);
  const TripletOptions options = triplet_options(margin, weight, norm_weight, metric, norm, reduction);
  return result_type(anchor) == ScalarType::Double
             ? Backward<double>(inputs, options, grad).run(need_anchor, need_positive, need_negative, sparse)
             : Backward<float>(inputs, options, grad).run(need_anchor, need_positive, need_negative, sparse);
}

}  // namespace
}  // namespace tla::cpu

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CPU, m) {
  m.impl("triplet_loss_backward", TORCH_BOX(&tla::cpu::triplet_loss_backward));
}
