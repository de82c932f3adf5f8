// The products a search scores its candidates by: the fixed-order sums themselves, or, where that is faster, torch's
// BLAS as a screen, whose bits depend on the shape and which therefore decides nothing.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <limits>

#include "rows.h"

namespace tla::cpu {

template <class T>
Tensor as_tensor(const T* data, int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
  const int64_t sizes[] = {rows, cols}, strides[] = {row_stride, col_stride};
  AtenTensorHandle handle;
  const int32_t dtype = sizeof(T) == 8 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(const_cast<T*>(data), 2, sizes, strides, 0, dtype,
                                                                   aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// out (na, nc; leading dimension ldo) = a c^T by the CPU kernel itself: no autograd, no autocast, callable from any
// thread.
template <class T>
void blas_product(const Block<T>& a, int64_t na, const Block<T>& c, int64_t nc, int64_t d, T* out, int64_t ldo) {
  const Tensor result = as_tensor(out, na, nc, ldo, 1);
  const Tensor left = as_tensor(a.data, na, d, a.stride, 1), right = as_tensor(c.data, d, nc, 1, c.stride);
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(result.get(), left.get(), right.get()));
}

// torch may be set to round float32 operands to bfloat16 (unit roundoff 2^-8) or TF32 first
// (torch.set_float32_matmul_precision and its successors). The largest rounding of an operand, found by trying: 1 +
// 2^-12 survives neither. The probe is larger than the sizes for which torch keeps to plain float32.
template <class T>
double operand_rounding() {
  constexpr int64_t n = 32;
  std::vector<T> x(n * n, static_cast<T>(1 + 0x1p-12)), out(n * n);
  blas_product<T>({x.data(), n}, n, {x.data(), n}, n, n, out.data(), n);
  const double exact = n * (1 + 0x1p-12) * (1 + 0x1p-12);
  return std::fabs(out[0] - exact) < 1e-5 * n ? 0 : 0x1p-8;
}

template <class T>
struct Product {
  bool screens;
  double error;  // of a product, and of the score made from it, relative to |a| |c|

  static Product of_sums() { return {false, 8 * roundoff()}; }

  // |computed - true| <= D u |a| |c| for any order of D additions, and as much of the lane-wise sum that decides; the
  // rest covers norms and the score's own arithmetic. Rounded operands add twice their rounding.
  static Product of_blas(int64_t d) {
    return {true, (1.25 * static_cast<double>(d) + 64) * roundoff() + 2.02 * operand_rounding<T>()};
  }

  // The additions alone of a product whose operands' rounding is measured (amx.h).
  static Product of_measured(int64_t d) { return {true, (1.25 * static_cast<double>(d) + 64) * roundoff()}; }

  void run(Metric metric, const Block<T>& a, int64_t na, const Block<T>& c, int64_t nc, int64_t d, T* out,
           int64_t ldo) const {
    if (screens)
      blas_product(a, na, c, nc, d, out, ldo);
    else
      row_kernels<T>().pairs(sum_of(metric), a.data, a.stride, na, c.data, c.stride, nc, d, out, ldo);
  }

 private:
  static constexpr double roundoff() { return std::numeric_limits<T>::epsilon() / 2.0; }
};

}  // namespace tla::cpu
