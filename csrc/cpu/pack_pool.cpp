// pack_pool and repack_pool: candidates packed for a screen, kept between searches.
#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>

#include "pool.h"

namespace tla::cpu {

Center::Center(const Matrix& candidates, const int32_t* codes, Metric metric) {
  constexpr int64_t kMost = 64, kShare = 32;
  const int64_t m = candidates.rows, d = candidates.cols, count = std::clamp<int64_t>(m / kShare, 1, kMost);
  std::vector<float> sum(d), scratch(d);
  double squares = 0;
  int64_t used = 0;
  for (int64_t n = 0; n < count && n < m; ++n) {
    const int64_t i = n * (m / count);
    if (codes != nullptr && codes[i] == kNeverCode) continue;
    const float* x = candidates.row(i, scratch.data());
    const double x2 = squared_norm(x, d), scale = is_cosine(metric) ? 1 / std::sqrt(x2) : 1;
    if (!(x2 > 2 * kTinySquaredNorm && x2 < kHugeSquaredNorm<float> / kMost)) continue;
    row_kernels<float>().axpy(static_cast<float>(scale), x, d, sum.data());
    squares += scale * scale * x2;
    ++used;
  }
  // Rows that have little in common are better off as they are.
  if (used == 0 || squared_norm(sum.data(), d) < 0.25 * squares * used) return;
  mean.assign(screen::padded(d), 0);
  for (int64_t k = 0; k < d; ++k) mean[k] = sum[k] / static_cast<float>(used);
  square = static_cast<float>(squared_norm(mean.data(), d));
}

namespace {

void pack_panels(const PackedPool& pool, const Matrix& candidates, int64_t first, int64_t last) {
  const Center center = pool.center();
  const screen::Center view{center.mean.empty() ? nullptr : center.mean.data(), pool.directions()};
  torch::stable::parallel_for(first, last, grain(screen::kPanel * candidates.cols), [&](int64_t begin, int64_t end) {
    RowsToPack rows(candidates);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t at = p * screen::kPanel, count = std::min(screen::kPanel, candidates.rows - at);
      pool.unit().pack_candidates(rows.consecutive(at, count), view, pool.panel(p), pool.facts(p));
    }
  });
}

// (0,) where the screen is not there or not used for the metric.
Tensor pack_pool(Tensor candidates, std::string metric) {
  const Metric m = parse_metric(metric);
  const Matrix rows = matrix(candidates);
  const screen::Unit* const unit = screen_in_use();
  if (!unit || m == Metric::kChebyshev || rows.cols < 1) return empty({0}, ScalarType::Byte);
  Tensor packed = empty({PackedPool::rows(rows.rows), PackedPool::row_bytes(rows.cols, *unit)}, ScalarType::Byte);
  const PackedPool pool(static_cast<char*>(packed.mutable_data_ptr()), rows.cols, *unit);
  pool.set_center(Center(rows, nullptr, m), is_cosine(m));
  pack_panels(pool, rows, 0, PackedPool::rows(rows.rows) - 1);
  return packed;
}

void repack_pool(Tensor packed, Tensor candidates, int64_t first, int64_t count) {
  const Matrix rows = matrix(candidates);
  const std::optional<PackedPool> pool = PackedPool::of(packed, rows);
  if (!pool) throw std::invalid_argument("repack_pool: packed belongs to candidates of another shape");
  if (first < 0 || count < 0 || first + count > rows.rows)
    throw std::invalid_argument("repack_pool: rows beyond the candidates");
  pack_panels(*pool, rows, first / screen::kPanel, (first + count + screen::kPanel - 1) / screen::kPanel);
}

}  // namespace

std::optional<PackedPool> PackedPool::of(const Tensor& packed, const Matrix& candidates) {
  char* const data = static_cast<char*>(const_cast<void*>(packed.const_data_ptr()));
  if (packed.scalar_type() != ScalarType::Byte || packed.dim() != 2 || packed.size(0) != rows(candidates.rows) ||
      packed.size(1) < kMeanAt || !packed.is_contiguous() || reinterpret_cast<uintptr_t>(data) % 64 != 0)
    return std::nullopt;
  const Head head = read(data);
  const screen::Unit* const unit = screen_of(head.format);
  if (!unit || head.d != candidates.cols || packed.size(1) != row_bytes(head.d, *unit)) return std::nullopt;
  return PackedPool(data, candidates.cols, *unit);
}

}  // namespace tla::cpu

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CPU, m) {
  m.impl("pack_pool", TORCH_BOX(&tla::cpu::pack_pool));
  m.impl("repack_pool", TORCH_BOX(&tla::cpu::repack_pool));
}
