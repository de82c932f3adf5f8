// The mean of some candidates.
#pragma once

#include "center.cuh"

namespace tla::cuda {

TLA_DEVICE void sample_row(const Center& c, int n) {
  const bool cosine = is_cosine(c.metric);
  const int64_t row = c.row(n);
  const float x2 = warp_sums<Dot, float>(c.rows, row, c.rows, row, c.d).x2;
  const bool holds = x2 > 1e-18f && x2 < 1e18f;
  if (lane_id() != 0) return;
  c.factors[n] = !holds ? 0.f : cosine ? 1 / std::sqrt(x2) : 1.f;
  c.squares[n] = !holds ? 0.f : cosine ? 1.f : x2;
}

TLA_KERNEL(kThreads, 4) sample_kernel(const Center c) {
  each_row_of_warp(0, kSampled, [&](int64_t n) { sample_row(c, static_cast<int>(n)); });
}

// A thread a column.
TLA_KERNEL(kThreads, 4) mean_kernel(const Center c) {
  const int k = block_id() * kThreads + thread_id();
  if (k >= c.padded) return;
  float sum = 0;
#pragma unroll 4
  for (int n = 0; n < kSampled; ++n)
    if (k < c.d && c.factors[n] > 0) sum += element<float>(c.rows, c.row(n), k) * c.factors[n];
  c.mean[k] = sum / kSampled;
}

}  // namespace tla::cuda
