// One row of the triplet loss: its tensors, options and the values that forward and backward both compute.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "../common/options.h"
#include "rows.h"

namespace tla::cpu {

struct TripletOptions {
  double margin, weight, norm_weight;
  Metric metric;
  Norm norm;
  Reduction reduction;
};

// Where a row's positives and negative are read: (B, K, D) or a pool picked from; a pool picked from or (B, D).
struct TripletInputs {
  Tensor anchor, positive, negative;
  std::optional<Tensor> positive_index, negative_index;  // contiguous (B,) int64

  int64_t rows() const { return anchor.size(0); }
  int64_t dim() const { return anchor.size(1); }
  int64_t positives() const { return positive_index ? 1 : positive.size(1); }
  int64_t positive_of(int64_t i) const { return positive_index ? at(*positive_index, i) : i; }
  int64_t negative_of(int64_t i) const { return negative_index ? at(*negative_index, i) : i; }
  // Mined from one batch, a row without a positive or a negative is left out altogether.
  bool left_out(int64_t i) const { return positive_index && (positive_of(i) < 0 || negative_of(i) < 0); }

 private:
  static int64_t at(const Tensor& index, int64_t i) { return static_cast<const int64_t*>(index.const_data_ptr())[i]; }
};

// A row of features with its squared norm.
template <class T>
struct Vector {
  const T* x = nullptr;
  double x2 = 0;
  std::vector<T> buffer;

  void read(const Matrix& m, int64_t i) {
    if (!m.contiguous_rows<T>()) buffer.resize(m.cols);
    x = m.row(i, buffer.data());
    x2 = squared_norm(x, m.cols);
  }
};

template <class T>
struct TripletRow {
  Vector<T> anchor, negative;
  std::vector<Vector<T>> positives;
  bool has_negative = false;
  PairSums to_negative;
  std::vector<PairSums> to_positive;

  void read(const TripletInputs& in, Metric metric, int64_t i) {
    const int64_t d = in.dim(), k = in.positives();
    anchor.read(matrix(in.anchor), i);
    positives.resize(k);
    to_positive.resize(k);
    for (int64_t j = 0; j < k; ++j) {
      if (in.positive_index)
        positives[j].read(matrix(in.positive), in.positive_of(i));
      else
        positives[j].read(slice(in.positive, i), j);
      to_positive[j] = pair_sums(metric, anchor.x, anchor.x2, positives[j].x, positives[j].x2, d);
    }
    has_negative = in.negative_of(i) >= 0;
    if (!has_negative) return;
    negative.read(matrix(in.negative), in.negative_of(i));
    to_negative = pair_sums(metric, anchor.x, anchor.x2, negative.x, negative.x2, d);
  }

  // d(a, p_j) - d(a, n) + margin, from distances rounded to T as they are returned.
  double violation(Metric metric, double margin, int64_t j) const {
    return static_cast<double>(static_cast<T>(distance(metric, to_positive[j]))) -
           static_cast<T>(distance(metric, to_negative)) + margin;
  }
};

TripletOptions triplet_options(double margin, double weight, double norm_weight, const std::string& metric,
                               const std::string& norm, const std::string& reduction);

// (loss, positive_distance (B, K), negative_distance (B,))
std::tuple<Tensor, Tensor, Tensor> triplet_forward(const TripletInputs& inputs, const TripletOptions& options);

}  // namespace tla::cpu
