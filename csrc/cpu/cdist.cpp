// cdist: the full matrix of distances, with the same bits that mining returns; and its backward.
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "gradient.h"

namespace tla::cpu {
namespace {

constexpr int64_t kBlock = 32;

template <class T>
std::vector<double> squared_norms(const Block<T>& rows, int64_t count, int64_t d) {
  std::vector<T> squares(count);
  std::vector<double> norms(count);
  row_kernels<T>().squares(rows.data, rows.stride, count, d, squares.data());
  for (int64_t i = 0; i < count; ++i) norms[i] = squared_norm_from(squares[i], rows.row(i), d);
  return norms;
}

// Calls f(sums, x, y, i, j) for every pair of a block of rows of x and all rows of y.
template <class T, class F>
void for_each_pair(Metric metric, const Matrix& x, int64_t first, int64_t count, const Matrix& y, const F& f) {
  const int64_t d = x.cols;
  std::vector<T> x_buffer, y_buffer, values(kBlock * kBlock);
  const Block<T> a = consecutive(x, first, count, x_buffer);
  const std::vector<double> x2 = squared_norms(a, count, d);
  for (int64_t j0 = 0; j0 < y.rows; j0 += kBlock) {
    const int64_t n = std::min(kBlock, y.rows - j0);
    const Block<T> c = consecutive(y, j0, n, y_buffer);
    const std::vector<double> y2 = squared_norms(c, n, d);
    row_kernels<T>().pairs(sum_of(metric), a.data, a.stride, count, c.data, c.stride, n, d, values.data(), kBlock);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < n; ++j)
        f(with_sum(metric, values[i * kBlock + j], a.row(i), x2[i], c.row(j), y2[j], d), a.row(i), c.row(j), first + i,
          j0 + j);
  }
}

template <class T>
void forward_as(Metric metric, const Tensor& x1, const Tensor& x2, Tensor& out) {
  const int64_t n = x1.size(0), b = x1.size(1), m = x2.size(1), blocks = (b + kBlock - 1) / kBlock;
  T* data = static_cast<T*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, n * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t batch = t / blocks, first = t % blocks * kBlock;
      for_each_pair<T>(metric, slice(x1, batch), first, std::min(kBlock, b - first), slice(x2, batch),
                       [&](const PairSums& sums, const T*, const T*, int64_t i, int64_t j) {
                         data[(batch * b + i) * m + j] = static_cast<T>(distance(metric, sums));
                       });
    }
  });
}

Tensor cdist(Tensor x1, Tensor x2, std::string metric) {
  const ScalarType type = result_type(x1);
  Tensor out = empty({x1.size(0), x1.size(1), x2.size(1)}, type);
  if (type == ScalarType::Double)
    forward_as<double>(parse_metric(metric), x1, x2, out);
  else
    forward_as<float>(parse_metric(metric), x1, x2, out);
  return out;
}

// The gradient by x: a block of its rows against all rows of y. `swapped`: x is the second argument of cdist.
template <class T>
void backward_as(Metric metric, const Tensor& grad, const Tensor& x, const Tensor& y, bool swapped, Tensor& out) {
  const int64_t n = x.size(0), b = x.size(1), d = x.size(2), blocks = (b + kBlock - 1) / kBlock;
  const Type grad_type = type_of(grad), out_type = type_of(out);
  torch::stable::parallel_for(0, n * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> sum(kBlock * d);
    for (int64_t t = begin; t < end; ++t) {
      const int64_t batch = t / blocks, first = t % blocks * kBlock, count = std::min(kBlock, b - first);
      std::fill(sum.begin(), sum.end(), T(0));
      const Matrix upstream = slice(grad, batch);
      for_each_pair<T>(metric, slice(x, batch), first, count, slice(y, batch),
                       [&](const PairSums& sums, const T* a, const T* c, int64_t i, int64_t j) {
                         const int64_t at = swapped ? j * upstream.row_stride + i * upstream.col_stride
                                                    : i * upstream.row_stride + j * upstream.col_stride;
                         T g;
                         row_kernels<T>().load(upstream.data + at * size_of(grad_type), grad_type, 1, 1, &g);
                         if (g == 0) return;
                         PairWeights::of(metric, sums, a, c, d, g).add_x(a, c, d, sum.data() + (i - first) * d);
                       });
      for (int64_t i = 0; i < count; ++i)
        write_row(out.mutable_data_ptr(), out_type, batch * b + first + i, d, sum.data() + i * d);
    }
  });
}

std::tuple<Tensor, Tensor> cdist_backward(Tensor grad, Tensor x1, Tensor x2, std::string metric, bool need_x1,
                                          bool need_x2) {
  const Metric m = parse_metric(metric);
  const auto gradient_by = [&](const Tensor& x, const Tensor& y, bool swapped, bool needed) {
    if (!needed) return torch::stable::new_zeros(x, std::vector<int64_t>{0});
    Tensor out = torch::stable::new_zeros(x, std::vector<int64_t>{x.size(0), x.size(1), x.size(2)});
    if (result_type(x1) == ScalarType::Double)
      backward_as<double>(m, grad, x, y, swapped, out);
    else
      backward_as<float>(m, grad, x, y, swapped, out);
    return out;
  };
  return {gradient_by(x1, x2, false, need_x1), gradient_by(x2, x1, true, need_x2)};
}

}  // namespace
}  // namespace tla::cpu

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CPU, m) {
  m.impl("cdist", TORCH_BOX(&tla::cpu::cdist));
  m.impl("cdist_backward", TORCH_BOX(&tla::cpu::cdist_backward));
}
