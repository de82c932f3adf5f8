// One row of the triplet loss: its tensors, options and the values that forward and backward both compute.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "../common/options.h"
#include "rows.h"
#include "tile_kernels.h"

namespace tla::cpu {

// Where a row's positives and negative are read: (B, K, D) or a pool picked from; a pool picked from or (B, D).
class TripletInputs {
 public:
  TripletInputs(const Tensor& anchor, const Tensor& positive, const Tensor& negative,
                const std::optional<Tensor>& positive_index, const std::optional<Tensor>& negative_index)
      : tensors_{anchor, positive, negative}, anchor_(matrix(anchor)), negative_(matrix(negative)) {
    positive_picks_ = keep(positive_index, 0);
    negative_picks_ = keep(negative_index, 1);
    if (picks_positives()) {
      positive_ = matrix(positive);
    } else {
      positives_ = positive.size(1);
      positive_step_ = positive.stride(0) * size_of(type_of(positive));
      positive_ = {static_cast<const char*>(positive.const_data_ptr()),
                   type_of(positive),
                   positives_,
                   positive.size(2),
                   positive.stride(1),
                   positive.stride(2)};
    }
  }
  TripletInputs(const TripletInputs&) = delete;

  const Tensor& anchor_tensor() const { return tensors_[0]; }
  const Tensor& positive_tensor() const { return tensors_[1]; }
  const Tensor& negative_tensor() const { return tensors_[2]; }

  const Matrix& anchor() const { return anchor_; }
  const Matrix& negative() const { return negative_; }
  // Row i's positives, or the pool they are picked from.
  Matrix positive(int64_t i) const {
    Matrix m = positive_;
    if (!picks_positives()) m.data += i * positive_step_;
    return m;
  }
  bool picks_positives() const { return indices_[0].has_value(); }

  int64_t rows() const { return anchor_.rows; }
  int64_t dim() const { return anchor_.cols; }
  int64_t positives() const { return positives_; }
  int64_t positive_of(int64_t i) const { return picks_positives() ? positive_picks_[i] : i; }
  int64_t negative_of(int64_t i) const { return indices_[1] ? negative_picks_[i] : i; }
  // Mined from one batch, a row without a positive or a negative is left out altogether.
  bool left_out(int64_t i) const { return picks_positives() && (positive_of(i) < 0 || negative_of(i) < 0); }

 private:
  const int64_t* keep(const std::optional<Tensor>& index, int slot) {
    if (!index) return nullptr;
    indices_[slot] = as_contiguous(*index);
    return static_cast<const int64_t*>(indices_[slot]->const_data_ptr());
  }

  Tensor tensors_[3];
  std::optional<Tensor> indices_[2];
  Matrix anchor_, positive_, negative_;
  int64_t positives_ = 1, positive_step_ = 0;
  const int64_t *positive_picks_ = nullptr, *negative_picks_ = nullptr;
};

// A row of features with its squared norm.
template <class T>
struct Vector {
  const T* x = nullptr;
  double x2 = 0;
  std::vector<T> buffer;

  // Without its norm.
  void read(const Matrix& m, int64_t i) {
    if (!m.contiguous_rows<T>()) buffer.resize(m.cols);
    x = m.row(i, buffer.data());
  }
};

template <class T>
struct TripletRow {
  Vector<T> anchor, negative;
  std::vector<Vector<T>> positives;
  bool has_negative = false;
  PairSums to_negative;
  std::vector<PairSums> to_positive;
  // Of the positives, and behind them the negative, if there is one.
  std::vector<const T*> rows;
  std::vector<T> sums, squares;

  void read(const TripletInputs& in, Metric metric, int64_t i) {
    const int64_t d = in.dim(), k = in.positives();
    has_negative = in.negative_of(i) >= 0;
    positives.resize(k);
    to_positive.resize(k);
    for (auto* of_row : {&sums, &squares}) of_row->resize(k + 1);
    rows.resize(k + 1);
    anchor.read(in.anchor(), i);
    anchor.x2 = squared_norm(anchor.x, d);
    for (int64_t j = 0; j < k; ++j) {
      positives[j].read(in.positive(i), in.picks_positives() ? in.positive_of(i) : j);
      rows[j] = positives[j].x;
    }
    if (has_negative) {
      negative.read(in.negative(), in.negative_of(i));
      rows[k] = negative.x;
    }
    // Side by side: a sum's steps wait for each other.
    tile_kernels<T>().look(sum_of(metric), anchor.x, rows.data(), k + has_negative, d, sums.data(), squares.data());
    for (int64_t j = 0; j < k; ++j) to_positive[j] = finish(metric, positives[j], j, d);
    if (has_negative) to_negative = finish(metric, negative, k, d);
  }

  // d(a, p_j) - d(a, n) + margin, from distances rounded to T as they are returned.
  double violation(Metric metric, double margin, int64_t j) const {
    return static_cast<double>(static_cast<T>(distance(metric, to_positive[j]))) -
           static_cast<T>(distance(metric, to_negative)) + margin;
  }

 private:
  PairSums finish(Metric metric, Vector<T>& v, int64_t j, int64_t d) {
    v.x2 = squared_norm_from(squares[j], v.x, d);
    return with_sum(metric, sums[j], anchor.x, anchor.x2, v.x, v.x2, d);
  }
};

// (loss, positive_distance (B, K), negative_distance (B,))
std::tuple<Tensor, Tensor, Tensor> triplet_forward(const TripletInputs& inputs, const TripletOptions& options);

}  // namespace tla::cpu
