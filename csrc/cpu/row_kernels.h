// The small interface between the operators and the vector code: sums over pairs of rows, and conversions. One file an
// instruction set implements it; `row_kernels()` picks one by CPUID.
#pragma once

#include <cstdint>
#include <string>

#include "../common/options.h"

namespace tla::cpu {

enum class Sum { kDot, kSquaredDifference, kMaxDifference };

template <class T>
struct RowKernels {
  // out[i * ldo + j] = the sum over d of row i of a and row j of c. A pair's sum has one fixed order of additions: its
  // bits depend on the two rows alone, wherever they stand and however the tile is cut.
  void (*pairs)(Sum sum, const T* a, int64_t lda, int64_t na, const T* c, int64_t ldc, int64_t nc, int64_t d, T* out,
                int64_t ldo);
  // out[j] = the sum of the squares of row j, with the bits that `pairs` gives for the row against itself.
  void (*squares)(const T* c, int64_t ldc, int64_t nc, int64_t d, T* out);
  // dst[k] = src[k * stride] for k < n.
  void (*load)(const void* src, Type type, int64_t stride, int64_t n, T* dst);
  // y += alpha * x
  void (*axpy)(T alpha, const T* x, int64_t n, T* y);
  // y += alpha * (x1 - x2)
  void (*axpy_difference)(T alpha, const T* x1, const T* x2, int64_t n, T* y);
};

template <class T>
const RowKernels<T>& row_kernels();

namespace screen {
struct Unit;
}

// What there is to screen a search with (screen.h), or null.
const screen::Unit* screen_in_use();
// The one whose panels have this format, if this machine runs it, or null.
const screen::Unit* screen_of(int64_t format);

// Makes `row_kernels` return the code for "amx", "avx512_vnni" or "avx2_int16" (avx512 or avx2, and a screen),
// "avx512", "avx2" or "plain", "" for the best this machine runs; returns the name in use before. For tests and
// benchmarks. Throws std::invalid_argument where the machine lacks it.
std::string use_instruction_set(std::string name);

}  // namespace tla::cpu
