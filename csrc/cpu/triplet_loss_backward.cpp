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

// A gradient's tensor, to be filled; of no elements where it was not asked for.
Tensor gradient_of(const Tensor& x, bool needed, std::initializer_list<int64_t> size) {
  return needed ? empty(size, x.scalar_type()) : empty({0}, x.scalar_type());
}

template <class T>
class Backward {
 public:
  Backward(const TripletInputs& in, const TripletOptions& o, const Tensor& grad)
      : in_(in),
        o_(o),
        upstream_(static_cast<const char*>(grad.const_data_ptr())),
        upstream_type_(type_of(grad)),
        upstream_step_(o.reduction == Reduction::kNone ? grad.stride(0) * size_of(upstream_type_) : 0),
        anchor_out_(in.dim()),
        positive_out_(in.dim()) {}

  std::tuple<Tensor, Tensor, Tensor> run(bool need_anchor, bool need_positive, bool need_negative, bool sparse) {
    const int64_t b = in_.rows(), d = in_.dim(), k = in_.positives();
    const Tensor &anchor = in_.anchor_tensor(), &positive = in_.positive_tensor(), &negative = in_.negative_tensor();
    const bool picks = in_.picks_positives();
    Tensor grad_anchor = gradient_of(anchor, need_anchor, {b, d});
    Tensor grad_positive = picks ? gradient_of(positive, need_positive, {positive.size(0), d})
                                 : gradient_of(positive, need_positive, {b, k, d});
    Tensor grad_negative = gradient_of(negative, need_negative, {sparse ? b : negative.size(0), d});
    if (need_anchor) anchor_out_ = {grad_anchor, d};
    if (need_positive && !picks) positive_out_ = {grad_positive, d};
    if (need_positive && picks) positive_shares_.resize(b);
    if (need_negative) negative_shares_.resize(b);

    torch::stable::parallel_for(0, b, grain((k + 2) * d), [&](int64_t begin, int64_t end) {
      TripletRow<T> row;
      std::vector<T> sum(d), other(d);
      for (int64_t i = begin; i < end; ++i) {
        if (!in_.left_out(i)) {
          differentiate(i, row, sum.data(), other.data());
        } else if (anchor_out_) {
          anchor_out_.clear(i, i + 1);
        }
      }
    });
    if (need_positive && picks)
      add_shares(positive, positive_shares_, false, {grad_positive, d}, [&](int64_t i) { return in_.positive_of(i); });
    if (need_negative)
      add_shares(negative, negative_shares_, sparse, {grad_negative, d}, [&](int64_t i) { return in_.negative_of(i); });
    return {grad_anchor, grad_positive, grad_negative};
  }

 private:
  double upstream(int64_t i) const {
    double g;
    row_kernels<double>().load(upstream_ + i * upstream_step_, upstream_type_, 1, 1, &g);
    return o_.reduction == Reduction::kMean ? g / in_.rows() : g;
  }

  // Row i's gradients, and what it sends to rows that others may have picked, too.
  void differentiate(int64_t i, TripletRow<T>& row, T* scratch, T* other) {
    const int64_t d = in_.dim(), k = in_.positives();
    const double g = upstream(i);
    row.read(in_, o_.metric, i);
    const T* a = row.anchor.x;
    T* sum = anchor_out_.start(i, scratch);
    int64_t active = 0;
    for (int64_t j = 0; j < k; ++j) {
      const Vector<T>& p = row.positives[j];
      Share share;
      if (row.has_negative && hinge_active(row.violation(o_.metric, o_.margin, j))) {
        ++active;
        share.pair = PairWeights::of(o_.metric, row.to_positive[j], a, p.x, d, g * o_.weight);
      }
      share.norm = norm_slope(o_, p, d, g);
      share.pair.add_x(a, p.x, d, sum);
      if (!positive_shares_.empty()) positive_shares_[i] = share;
      if (!positive_out_) continue;
      T* out = positive_out_.start(i * k + j, other);
      share.pair.add_y(a, p.x, d, out);
      add_scaled(share.norm, p.x, d, out);
      positive_out_.finish(i * k + j, out);
    }
    if (row.has_negative) {
      Share share;
      if (active > 0)
        share.pair = PairWeights::of(o_.metric, row.to_negative, a, row.negative.x, d, -g * o_.weight * active);
      share.norm = norm_slope(o_, row.negative, d, g);
      share.pair.add_x(a, row.negative.x, d, sum);
      if (!negative_shares_.empty()) negative_shares_[i] = share;
    }
    add_scaled(norm_slope(o_, row.anchor, d, g), a, d, sum);
    anchor_out_.finish(i, sum);
  }

  // An anchor and the row it picked, -1 for none.
  struct Picked {
    int64_t row, anchor;
    bool operator<(const Picked& other) const { return row != other.row ? row < other.row : anchor < other.anchor; }
  };

  // The gradient of a pool. The anchors that picked a row are added up in ascending order, so the bits never change;
  // dense: (N, D); sparse: (B, D), the sum in the place of the first anchor that picked the row.
  template <class PickOf>
  void add_shares(const Tensor& pool, const std::vector<Share>& shares, bool sparse, const GradientRows& out,
                  const PickOf& pick_of) {
    const int64_t b = in_.rows(), d = in_.dim();
    const Matrix rows = matrix(pool), anchors = in_.anchor();
    std::vector<Picked> picked(b);
    for (int64_t i = 0; i < b; ++i) picked[i] = {in_.left_out(i) ? -1 : std::max<int64_t>(-1, pick_of(i)), i};
    std::sort(picked.begin(), picked.end());

    // Puts the sum of the shares of picked[n], the first of its row, and those after it that picked the same into row
    // `to` of the gradient; returns what comes after them.
    const auto add_up = [&](int64_t n, int64_t to, std::vector<T>& scratch) {
      T *sum_buffer = scratch.data(), *x = sum_buffer + d, *y = x + d;
      const int64_t from = picked[n].row;
      const T* row = rows.row(from, y);
      T* sum = out.start(to, sum_buffer);
      double norm = 0;
      for (; n < b && picked[n].row == from; ++n) {
        const Share& share = shares[picked[n].anchor];
        share.pair.add_y(anchors.row(picked[n].anchor, x), row, d, sum);
        norm += share.norm;
      }
      add_scaled(norm, row, d, sum);
      out.finish(to, sum);
      return n;
    };

    if (sparse) {
      torch::stable::parallel_for(0, b, grain(2 * d), [&](int64_t begin, int64_t end) {
        std::vector<T> scratch(3 * d);
        for (int64_t n = begin; n < end; ++n) {
          const auto [row, anchor] = picked[n];
          if (row < 0 || (n > 0 && picked[n - 1].row == row))
            out.clear(anchor, anchor + 1);
          else
            add_up(n, anchor, scratch);
        }
      });
      return;
    }
    torch::stable::parallel_for(0, rows.rows, grain(d), [&](int64_t begin, int64_t end) {
      std::vector<T> scratch(3 * d);
      int64_t n = std::lower_bound(picked.begin(), picked.end(), Picked{begin, 0}) - picked.begin();
      for (int64_t row = begin; row < end; ++row) {
        const int64_t next = n < b ? std::min(end, picked[n].row) : end;
        out.clear(row, next);
        row = next;
        if (row < end) n = add_up(n, row, scratch);
      }
    });
  }

  const TripletInputs& in_;
  const TripletOptions& o_;
  const char* upstream_;
  Type upstream_type_;
  int64_t upstream_step_;
  std::vector<Share> positive_shares_, negative_shares_;
  GradientRows anchor_out_, positive_out_;
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
