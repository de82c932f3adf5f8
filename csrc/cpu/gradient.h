// Gradients of distances as vectors: adding a pair's gradient to a row, and writing a row in the tensor's type.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstring>

#include "rows.h"

namespace tla::cpu {

// An upstream gradient times the derivatives of one distance d(x, y), for either side.
struct PairWeights {
  PairGradient g;
  int64_t coordinate = -1;  // chebyshev's, with the derivative by x there
  double slope = 0;

  template <class T>
  static PairWeights of(Metric metric, const PairSums& sums, const T* x, const T* y, int64_t d, double upstream) {
    PairWeights w;
    if (metric != Metric::kChebyshev) {
      w.g = gradient(metric, sums);
      w.g = {upstream * w.g.difference, upstream * w.g.self_x, upstream * w.g.self_y, upstream * w.g.cross};
      return w;
    }
    // The lowest coordinate that attains the maximum takes all of the gradient.
    for (int64_t k = 0; k < d && w.coordinate < 0; ++k) {
      const T difference = x[k] - y[k];
      if (std::fabs(difference) == static_cast<T>(sums.value) || std::isnan(difference)) {
        w.coordinate = k;
        w.slope = upstream * (difference > 0 ? 1 : difference < 0 ? -1 : 0 * difference);
      }
    }
    return w;
  }

  template <class T>
  void add_x(const T* x, const T* y, int64_t d, T* out) const {
    add(g.self_x, x, y, x, y, d, 1, out);
  }
  template <class T>
  void add_y(const T* x, const T* y, int64_t d, T* out) const {
    add(g.self_y, y, x, x, y, d, -1, out);
  }

 private:
  template <class T>
  void add(double self_weight, const T* self, const T* other, const T* x, const T* y, int64_t d, int sign,
           T* out) const {
    if (g.difference != 0) row_kernels<T>().axpy_difference(static_cast<T>(sign * g.difference), x, y, d, out);
    add_scaled(self_weight, self, d, out);
    add_scaled(g.cross, other, d, out);
    if (coordinate >= 0) out[coordinate] += static_cast<T>(sign * slope);
  }
};

// Row `i` of a contiguous tensor of rows of d elements.
template <class T>
void write_row(void* data, Type type, int64_t i, int64_t d, const T* row) {
  const auto as = [&](auto* out) {
    using S = std::remove_pointer_t<decltype(out)>;
    for (int64_t k = 0; k < d; ++k) out[i * d + k] = static_cast<S>(row[k]);
  };
  const auto half = [&](auto* out) {
    using S = std::remove_pointer_t<decltype(out)>;
    for (int64_t k = 0; k < d; ++k) out[i * d + k] = S(static_cast<float>(row[k]));
  };
  switch (type) {
    case Type::kFloat64:
      return as(static_cast<double*>(data));
    case Type::kFloat32:
      return as(static_cast<float*>(data));
    case Type::kBFloat16:
      return half(static_cast<torch::headeronly::BFloat16*>(data));
    case Type::kFloat16:
      return half(static_cast<torch::headeronly::Half*>(data));
  }
}

// The rows of a contiguous gradient; without a tensor they go nowhere.
class GradientRows {
 public:
  explicit GradientRows(int64_t d) : d_(d) {}
  GradientRows(const Tensor& t, int64_t d)
      : data_(static_cast<char*>(t.mutable_data_ptr())), type_(type_of(t)), row_bytes_(d * size_of(type_)), d_(d) {}

  explicit operator bool() const { return data_ != nullptr; }

  // Row i, cleared, to add to: in place where it holds T, otherwise in `scratch`, and `finish` rounds it.
  template <class T>
  T* start(int64_t i, T* scratch) const {
    T* row = data_ != nullptr && type_ == type_in<T>() ? reinterpret_cast<T*>(data_ + i * row_bytes_) : scratch;
    std::fill(row, row + d_, T(0));
    return row;
  }
  template <class T>
  void finish(int64_t i, const T* row) const {
    if (data_ != nullptr && type_ != type_in<T>()) write_row(data_, type_, i, d_, row);
  }

  // Zeros in rows [begin, end).
  void clear(int64_t begin, int64_t end) const {
    if (end > begin) std::memset(data_ + begin * row_bytes_, 0, (end - begin) * row_bytes_);
  }

 private:
  char* data_ = nullptr;
  Type type_ = Type::kFloat32;
  int64_t row_bytes_ = 0, d_ = 0;
};

}  // namespace tla::cpu
