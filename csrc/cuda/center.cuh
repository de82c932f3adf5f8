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
