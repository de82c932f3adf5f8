// Rows of a tensor of any float type and any strides, read as contiguous rows of the type that is computed in, and the
// sums, norms and distances of a pair of rows.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "../common/metric.h"
#include "../common/tensor_types.h"
#include "row_kernels.h"

namespace tla::cpu {

// What a tensor of T holds.
template <class T>
constexpr Type type_in() {
  return sizeof(T) == 8 ? Type::kFloat64 : Type::kFloat32;
}

// A 2-D view: `rows` rows of `cols` elements. Strides count elements and may be anything, 0 included.
struct Matrix {
  const char* data = nullptr;
  Type type = Type::kFloat32;
  int64_t rows = 0, cols = 0, row_stride = 0, col_stride = 1;

  template <class T>
  bool contiguous_rows() const {
    return type == type_in<T>() && (col_stride == 1 || cols == 1);
  }

  // Row i as T: in place where it already is that, otherwise converted into `scratch` (cols elements).
  template <class T>
  const T* row(int64_t i, T* scratch) const {
    const char* p = data + i * row_stride * size_of(type);
    if (contiguous_rows<T>()) return reinterpret_cast<const T*>(p);
    row_kernels<T>().load(p, type, col_stride, cols, scratch);
    return scratch;
  }
};

inline Matrix matrix(const Tensor& t) {
  return {static_cast<const char*>(t.const_data_ptr()), type_of(t), t.size(0), t.size(1), t.stride(0), t.stride(1)};
}

// Slice i of a 3-D tensor.
inline Matrix slice(const Tensor& t, int64_t i) {
  const Type type = type_of(t);
  const char* data = static_cast<const char*>(t.const_data_ptr()) + i * t.stride(0) * size_of(type);
  return {data, type, t.size(1), t.size(2), t.stride(1), t.stride(2)};
}

// `count` rows side by side in memory: the matrix itself where that is possible, a copy in `buffer` otherwise.
template <class T>
struct Block {
  const T* data = nullptr;
  int64_t stride = 0;
  const T* row(int64_t i) const { return data + i * stride; }
};

template <class T, class RowOf>
Block<T> gather(const Matrix& m, int64_t count, std::vector<T>& buffer, const RowOf& row_of) {
  // Rows start on cache lines, and never a power of two apart, which would fold them onto few sets of the L1 cache.
  const int64_t line = 64 / sizeof(T);
  const int64_t stride = (m.cols + line - 1) / line * line + (m.cols % 256 == 0 ? line : 0);
  buffer.resize(count * stride + line);
  const uintptr_t address = reinterpret_cast<uintptr_t>(buffer.data());
  T* aligned = reinterpret_cast<T*>((address + 63) / 64 * 64);
  for (int64_t i = 0; i < count; ++i) {
    const T* row = m.row(row_of(i), aligned + i * stride);
    if (row != aligned + i * stride) std::copy(row, row + m.cols, aligned + i * stride);
  }
  return {aligned, stride};
}

template <class T>
Block<T> consecutive(const Matrix& m, int64_t first, int64_t count, std::vector<T>& buffer) {
  if (m.contiguous_rows<T>()) return {m.row(first, static_cast<T*>(nullptr)), m.row_stride};
  return gather(m, count, buffer, [first](int64_t i) { return first + i; });
}

inline Sum sum_of(Metric metric) {
  if (is_cosine(metric)) return Sum::kDot;
  return metric == Metric::kEuclidean ? Sum::kSquaredDifference : Sum::kMaxDifference;
}

template <class T>
T pair_sum(Sum sum, const T* x, const T* y, int64_t d) {
  T out;
  row_kernels<T>().pairs(sum, x, d, 1, y, d, 1, d, &out, 1);
  return out;
}

// |x|^2 from its sum in T. What T cannot hold, or nearly loses to underflow, is added up again in double.
template <class T>
double squared_norm_from(T sum, const T* x, int64_t d) {
  if (sum > 1e-30 && sum < kHugeSquaredNorm<T>) return sum;
  double exact = 0;
  for (int64_t k = 0; k < d; ++k) exact += static_cast<double>(x[k]) * x[k];
  return exact;
}

template <class T>
double squared_norm(const T* x, int64_t d) {
  T sum;
  row_kernels<T>().squares(x, d, 1, d, &sum);
  return squared_norm_from(sum, x, d);
}

// The sums of a pair from a sum that is already at hand. Where T may have overflowed, they are added up in double.
template <class T>
PairSums with_sum(Metric metric, T sum, const T* x, double x2, const T* y, double y2, int64_t d) {
  if (metric == Metric::kChebyshev || (x2 < kHugeSquaredNorm<T> && y2 < kHugeSquaredNorm<T>)) return {sum, x2, y2};
  PairSums exact{0, x2, y2};
  for (int64_t k = 0; k < d; ++k) {
    const double a = x[k], b = y[k];
    exact.value += metric == Metric::kEuclidean ? (a - b) * (a - b) : a * b;
  }
  return exact;
}

template <class T>
PairSums pair_sums(Metric metric, const T* x, double x2, const T* y, double y2, int64_t d) {
  return with_sum(metric, pair_sum(sum_of(metric), x, y, d), x, x2, y, y2, d);
}

// y += alpha x. What T could not hold of alpha (rows of extreme norms) is multiplied in double.
template <class T>
void add_scaled(double alpha, const T* x, int64_t d, T* y) {
  const double size = std::fabs(alpha);
  if (size == 0) return;
  if ((size > 1e-30 && size < 1e30) || std::isnan(alpha)) {
    row_kernels<T>().axpy(static_cast<T>(alpha), x, d, y);
  } else {
    for (int64_t k = 0; k < d; ++k) y[k] += static_cast<T>(alpha * x[k]);
  }
}

// Rows at a time a thread should take, so that a parallel region is worth its start.
inline int64_t grain(int64_t work_per_row) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, work_per_row)); }

// A contiguous tensor. Not torch::stable::empty, which goes through the dispatcher: ten times the time.
inline Tensor empty(std::initializer_list<int64_t> size, ScalarType type) {
  constexpr size_t kMost = 3;
  int64_t strides[kMost], stride = 1;
  for (size_t k = size.size(); k-- > 0;) {
    strides[k] = stride;
    stride *= std::max<int64_t>(1, size.begin()[k]);
  }
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(size.size(), size.begin(), strides, dtype, aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// The tensor itself where that is possible; asking torch for as much goes through the dispatcher.
inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

}  // namespace tla::cpu
