// What is taken from rows before they are rounded: a mean of some candidates, so that what rounding loses is a share of
// how far rows are apart, not of how long they are. docs/exactness.md has the algebra; any mean is right.
#pragma once

#include "mine.cuh"

namespace tla::cuda {

constexpr int kSampled = 64;

struct Center {
  Rows rows;  // the candidates
  int64_t count = 0;
  int d = 0, padded = 0;
  Metric metric = Metric::kAngular;
  // Of each sampled row what makes it a direction, or 1, or 0 where floats cannot tell; and its square times that of
  // the former.
  float *factors = nullptr, *squares = nullptr;  // (kSampled)
  float* mean = nullptr;                         // (padded)
  int* used = nullptr;                           // whether rows are centered, as pack_kernel found it

  TLA_HD int64_t row(int n) const { return n * count / kSampled; }
};

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

// The mean's square where it is worth taking from rows, else 0. Rows of one length nearly, or short ones would be lost
// among long ones. By a warp; all of them find the same.
TLA_DEVICE double square_of_center(const Center& c) {
  if (c.mean == nullptr) return 0;
  double square = 0;
  float least = c.squares[0], most = least;
#pragma unroll 4
  for (int k = lane_id(); k < c.d; k += kWarp) square += static_cast<double>(c.mean[k]) * c.mean[k];
  for (int n = lane_id(); n < kSampled; n += kWarp) {
    least = c.squares[n] < least ? c.squares[n] : least;
    most = c.squares[n] > most ? c.squares[n] : most;
  }
  square = warp_total(square);
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const float other_least = shuffle_xor(least, mask), other_most = shuffle_xor(most, mask);
    least = other_least < least ? other_least : least;
    most = other_most > most ? other_most : most;
  }
  return least > most / 16 && square > most / 4 ? square : 0;
}

}  // namespace tla::cuda
