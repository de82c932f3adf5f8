// The screen of products that stand in memory, a warp a row.
#pragma once

#include "lists.cuh"

namespace tla::cuda {

template <bool kSemihard, bool kTargets>
TLA_DEVICE void screen_row(const LargeParams& p, int64_t i) {
  constexpr int kSlots = (1 + kSemihard) * (1 + kTargets), kColumns = 4;
  const SearchParams& s = p.search;
  const Side side = p.anchor[i];
  if (!comparable(side)) return;
  const RowError error(p, side);
  const Allowed others = allowed_of(p, i, false), of_target = allowed_of(p, i, true);
  const float surely = kSemihard ? p.surely[i] : 0, maybe = kSemihard ? p.maybe[i] : 0;
  float best[kSlots];
  uint32_t count[kSlots];
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    best[slot] = from_bits(out_of_order(p.best[p.at(slot, i)]));
    count[slot] = p.count[p.at(slot, i)];
  }
#pragma unroll 1
  for (int c = 0; c < p.columns; c += kWarp * kColumns) {
    float score[kColumns], off[kColumns];
    bool wanted[kColumns], other[kColumns];
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const int at = c + n * kWarp + lane_id();
      wanted[n] = other[n] = false;
      score[n] = off[n] = 0;
      if (at >= p.columns) continue;
      const int column = static_cast<int>(p.first) + at;
      const Side y = p.candidates[column];
      score[n] = score_of(s.metric, p.scores[i * p.stride + at], side, y);
      off[n] = error.of(p, y);
      other[n] = others(column);
      wanted[n] = kTargets && of_target(column);
    }
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const bool far = kSemihard && slot % 2 == 1, near = kSemihard && !far;
      const auto allowed = [&](int n) { return slot > kSemihard ? wanted[n] : other[n]; };
      const float sign = p.negated(far) ? -1.f : 1.f;
      float most = best[slot];
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        const float lower = sign * score[n] - off[n];
        if (allowed(n) && lower > most && (!near || score[n] + off[n] < surely)) most = lower;
      }
#pragma unroll
      for (int mask = kWarp / 2; mask > 0; mask /= 2) {
        const float than = shuffle_xor(most, mask);
        if (than > most) most = than;
      }
      best[slot] = most;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        // Negated, so that NaN passes.
        const float upper = sign * score[n] + off[n];
        const bool hit = allowed(n) && !(upper < most) && (!near || !(score[n] - off[n] >= maybe));
        const unsigned hits = ballot(hit);
        const uint32_t at = count[slot] + count_set(hits & ((1u << lane_id()) - 1));
        if (hit && at < static_cast<uint32_t>(p.capacity))
          p.list[p.at(slot, i) * p.capacity + at] = {upper, static_cast<uint32_t>(p.first + c + n * kWarp + lane_id())};
        count[slot] += count_set(hits);
      }
    }
  }
  warp_sync();
  if (lane_id() != 0) return;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    p.best[p.at(slot, i)] = in_order(bits_of(best[slot]));
    p.count[p.at(slot, i)] = count[slot];
  }
}

template <bool kSemihard, bool kTargets>
TLA_KERNEL(kThreads, 4)
screen_scores_kernel(const LargeParams p) {
  each_row_of_warp(0, p.search.b, [&](int64_t i) { screen_row<kSemihard, kTargets>(p, i); });
}

}  // namespace tla::cuda
