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
    const uint32_t counted = p.count[at];
    if (counted > static_cast<uint32_t>(p.capacity)) {
      looked_at = kRedone;
      return true;
    }
    const int listed = static_cast<int>(counted);
    const float best = from_bits(out_of_order(p.best[at]));
    of_far = far;
    for (int n = 0; n < listed; n += kWarp) {
      const bool there = n + lane_id() < listed;
      const Entry entry = there ? p.list[at * p.capacity + n + lane_id()] : Entry{0, 0};
      for (unsigned left = ballot(there && !(entry.upper < best)); left != 0; left &= left - 1) {
        const int64_t column = shuffle(entry.column, first_set(left));
        const int64_t j = p.order != nullptr ? p.order[column] : column;
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
  if (looked_at == kRedone)
    p.redone[atomic_add(p.redone_count, 1u)] = static_cast<uint32_t>(i);
  else
    give(p, i, key, of_far);
}

template <class Op>
TLA_KERNEL(kThreads, 4)
rescore_kernel(const LargeParams p) {
  each_row_of_warp(0, p.search.b, [&](int64_t i) { rescore_row<Op>(p, i); });
}

// A warp looks at a candidate for so many rows, a lane keeps the key of a row's slot.
constexpr int kSlots = 4, kRowsRedone = kWarp / kSlots;
constexpr int kCandidatesRedone = 512;  // of a block at a time

template <class Op>
TLA_DEVICE void redo(const LargeParams& p, int64_t group, int64_t begin, int64_t end) {
  const SearchParams& s = p.search;
  const int slot = lane_id() % kSlots;
  const int64_t place = group * kRowsRedone + lane_id() / kSlots;
  const bool there = place < *p.redone_count && slot < s.slots();
  const int64_t own = there ? p.redone[place] : 0;
  const Rule rule(s, own);
  const bool of_wanted = slot > s.semihard(), far = s.semihard() && slot % 2 == 1;
  const float bound = there && s.semihard() ? p.positive[own] : 0;
  Key<float> best = Key<float>::none();
#pragma unroll 1
  for (int64_t j = begin + thread_id() / kWarp; j < end; j += kThreads / kWarp) {
    const int64_t label = s.labels.pool[j];
    const bool allowed = there && (of_wanted ? rule.wanted(j, label) : rule.other(j, label));
    for (unsigned left = ballot(allowed); left != 0;) {
      const int row = first_set(left) / kSlots;
      left &= ~(((1u << kSlots) - 1) << row * kSlots);
      const int64_t i = shuffle(own, row * kSlots);
      const float distance = warp_pair<Op, float>(s.metric, s.anchor, i, s.candidates, j, s.d).distance;
      const bool farther = far || !s.semihard() || !(distance <= bound);
      const Key<float> key = Key<float>::of(distance, j, p.negated(far));
      if (lane_id() / kSlots == row && allowed && farther && key < best) best = key;
    }
  }
  if (best.exists()) atomic_min(&p.keys[p.at(slot, own)], best.bits);
}

template <class Op>
TLA_KERNEL(kThreads, 4)
redo_kernel(const LargeParams p) {
  const int64_t slices = (p.search.m + kCandidatesRedone - 1) / kCandidatesRedone,
                groups = (*p.redone_count + kRowsRedone - 1) / kRowsRedone;
#pragma unroll 1
  for (int64_t n = block_id(); n < groups * slices; n += grid_blocks()) {
    const int64_t begin = n % slices * kCandidatesRedone, end = begin + kCandidatesRedone;
    redo<Op>(p, n / slices, begin, end < p.search.m ? end : p.search.m);
  }
}

// A thread a row that was redone.
template <class Op>
TLA_KERNEL(kThreads, 4)
finish_kernel(const LargeParams p) {
  const int64_t step = int64_t{grid_blocks()} * kThreads;
  for (int64_t n = int64_t{block_id()} * kThreads + thread_id(); n < *p.redone_count; n += step) {
    const int64_t i = p.redone[n];
    each_slot(p.search, [&](bool wanted, bool far) {
      const Key<float> key{p.keys[p.at(p.search.slot(wanted, far), i)]};
      give(p, i, key, far);
      return key.exists();
    });
  }
}

template <class F>
void with_screened_metric(Metric metric, const F& f) {
  is_cosine(metric) ? f.template operator()<Dot>() : f.template operator()<SquaredDifference>();
}
// From lists to picks.
template <class Launch>
void launch_rescore(const LargeParams& p, Gpu gpu, const Launch& launch) {
  const int64_t rows = p.search.b;
  with_screened_metric(p.search.metric, [&]<class Op>() {
    launch(rescore_kernel<Op>, plan_warps(rows, gpu), p);
    const int64_t pieces = ceil_div(rows, kRowsRedone) * std::max<int64_t>(1, ceil_div(p.search.m, kCandidatesRedone));
    launch(redo_kernel<Op>, LaunchShape{std::min(pieces, 8 * gpu.multiprocessors)}, p);
    launch(finish_kernel<Op>, LaunchShape{std::min(ceil_div(rows, kThreads), gpu.multiprocessors)}, p);
  });
}

}  // namespace tla::cuda
