// The pick of each row from its list, by the sums that decide; rows whose list ran over look at all candidates.
#pragma once

#include "lists.cuh"

namespace tla::cuda {

TLA_DEVICE void give(const LargeParams& p, int64_t i, Key<float> key, bool far) {
  p.distance[i] = key.exists() ? key.distance(p.search.farthest(far)) : from_bits(Key<float>::kInfinity);
  p.index[i] = key.exists() ? key.index() : -1;
}

// Calls f(wanted, far) for a row's slots in the order in which they count, until it says true.
template <class F>
TLA_DEVICE void each_slot(const SearchParams& s, const F& f) {
  for (int wanted = s.targets(); wanted >= 0; --wanted)
    for (int far = 0; far <= s.semihard(); ++far)
      if (f(wanted, far)) return;
}

template <class Op>
TLA_DEVICE void rescore_row(const LargeParams& p, int64_t i) {
  const SearchParams& s = p.search;
  uint32_t looked_at = 0;
  Key<float> key = Key<float>::none();
  bool of_far = false;
  each_slot(s, [&](bool wanted, bool far) {
    const int64_t at = p.at(s.slot(wanted, far), i);
    const int listed = static_cast<int>(p.count[at]);
    if (listed > p.capacity) {
      looked_at = kRedone;
      return true;
    }
    const float best = from_bits(out_of_order(p.best[at]));
    of_far = far;
    for (int n = 0; n < listed; n += kWarp) {
      const bool there = n + lane_id() < listed;
      const Entry entry = there ? p.list[at * p.capacity + n + lane_id()] : Entry{0, 0};
      for (unsigned left = ballot(there && !(entry.upper < best)); left != 0; left &= left - 1) {
        const int64_t j = shuffle(entry.column, first_set(left));
        const float distance = warp_pair<Op, float>(s.metric, s.anchor, i, s.candidates, j, s.d).distance;
        ++looked_at;
        const bool farther = p.fast || far || !s.semihard() || !(distance <= p.positive[i]);
        const Key<float> other = Key<float>::of(distance, j, p.negated(far));
        if (farther && other < key) key = other;
      }
    }
    return key.exists();
  });
  if (lane_id() != 0) return;
  p.rescored[i] = looked_at;
  if (looked_at != kRedone) give(p, i, key, of_far);
}

template <class Op>
TLA_KERNEL(kThreadsOfTile, 4)
rescore_kernel(const LargeParams p) {
  each_row_of_warp(0, p.search.b, [&](int64_t i) { rescore_row<Op>(p, i); });
}

// A block a row.
template <class Op>
TLA_KERNEL(kThreadsOfTile, 4)
redo_kernel(const LargeParams p) {
  constexpr int kWarps = kThreadsOfTile / kWarp, kSlots = 4;
  TLA_SHARED(Key<float>, keys, kWarps * kSlots);
  const SearchParams& s = p.search;
  const int warp = thread_id() / kWarp;
#pragma unroll 1
  for (int64_t i = block_id(); i < s.b; i += grid_blocks()) {
    if (p.rescored[i] != kRedone) continue;
    const Rule rule(s, i);
    const float bound = s.semihard() ? p.positive[i] : 0;
    if (lane_id() < kSlots) keys[warp * kSlots + lane_id()] = Key<float>::none();
    warp_sync();
#pragma unroll 1
    for (int64_t j = warp; j < s.m; j += kWarps) {
      const int64_t label = s.labels.pool[j];
      const bool other = rule.other(j, label), wanted = s.targets() && rule.wanted(j, label);
      if (!other && !wanted) continue;
      const float distance = warp_pair<Op, float>(s.metric, s.anchor, i, s.candidates, j, s.d).distance;
      const bool farther = !s.semihard() || !(distance <= bound);
      // A lane a slot.
      const int far = s.semihard() ? lane_id() % 2 : 0;
      const bool of_wanted = lane_id() >= 1 + s.semihard();
      if (lane_id() < s.slots() && (of_wanted ? wanted : other) && (far || farther)) {
        const Key<float> key = Key<float>::of(distance, j, p.negated(far));
        Key<float>& kept = keys[warp * kSlots + lane_id()];
        if (key < kept) kept = key;
      }
    }
    block_sync();
    if (thread_id() == 0) {
      Key<float> best = Key<float>::none();
      bool of_far = false;
      each_slot(s, [&](bool wanted, bool far) {
        for (int w = 0; w < kWarps; ++w) {
          const Key<float> key = keys[w * kSlots + s.slot(wanted, far)];
          if (key < best) best = key;
        }
        of_far = far;
        return best.exists();
      });
      give(p, i, best, of_far);
    }
    block_sync();
  }
}

}  // namespace tla::cuda
