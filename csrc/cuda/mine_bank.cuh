// mine for few anchors among many candidates, which are read once as they are: a pass for 64 anchors at a time.
#pragma once

#include "rescore.cuh"
#include "screen_bank.cuh"

namespace tla::cuda {

// Anchors as the fragments that are multiplied: of a unit and 16 anchors a lane's four registers, one lane after the
// other.
template <class E>
struct PackedFragments {
  TLA_DEVICE static float rounded(float x) { return E::rounded(x); }
  TLA_DEVICE static void store(const PackParams& p, int64_t t, int k, const Pack<float, 4>& x) {
    using Bits = typename E::Bits;
    constexpr int kSize = sizeof(Bits), kWord = 4 / kSize;  // elements of a register
    const int anchor = static_cast<int>(t);
#pragma unroll
    for (int n = 0; n < 4; n += kWord) {
      Pack<Bits, kWord> word;
#pragma unroll
      for (int e = 0; e < kWord; ++e) word.at[e] = E::put(x.at[n + e]);
      const int unit = (k + n) * kSize / 32, at = (k + n) * kSize % 32 / 4;
      const int lane = anchor % 8 * 4 + at % 4, place = (unit * (kBankAnchors / 16) + anchor / 16) * kWarp + lane;
      char* to = reinterpret_cast<char*>(p.to) + place * 16 + (anchor / 8 % 2 * 2 + at / 4) * 4;
      *reinterpret_cast<Pack<Bits, kWord>*>(to) = word;
    }
  }
};

// A warp an anchor, and zeros where there is none.
template <class E>
TLA_KERNEL(kThreads, 4)
pack_fragments_kernel(const PackParams p) {
  each_row_of_warp(0, kBankAnchors, [&](int64_t t) {
    if (t < p.count) return pack_row<PackedFragments<E>>(p, t, /*mean2=*/0);
    for (int k = 4 * lane_id(); k < p.padded; k += 4 * kWarp) PackedFragments<E>::store(p, t, k, {});
  });
}

// Calls f(pointer, count) for every array of a search's workspace.
template <class F>
void each_array(LargeParams& p, const BankPlan& plan, const F& f) {
  each_list_array(p, std::min<int64_t>(p.search.b, kBankAnchors), plan.capacity, plan.keep_counts, f);
  f(p.packed_anchor, int64_t{plan.slices} * kBankAnchorSlice / 2);
}

// `p` is of all anchors, with its workspace for a pass.
template <class Launch>
void launch_mine_bank(LargeParams p, const BankPlan& plan, Gpu gpu, const Launch& launch) {
  const SearchParams all = p.search;
  const int64_t size = size_of(all.candidates.type);
  p.padded = static_cast<int>(plan.slices * kBankSlice / size);
  p.capacity = plan.capacity;
  p.error = p.fast ? ScoreError{} : bank_error(all.metric, all.d, p.padded, size);
  for (int64_t first = 0; first < all.b; first += kBankAnchors) {
    LargeParams part = p;
    part.search = anchors_of(all, first, std::min<int64_t>(kBankAnchors, all.b - first));
    part.distance += first;
    part.index += first;
    part.rescored += plan.keep_counts ? first : 0;
    const int64_t rows = part.search.b;
    with_bank_type(all.candidates.type, [&]<class E>() {
      launch(pack_fragments_kernel<E>, plan_warps(kBankAnchors, gpu),
             PackParams{part.search.anchor, rows, all.d, p.padded, all.metric, Center{}, !p.fast, nullptr, nullptr,
                        p.packed_anchor, p.anchor});
      with_screened_metric(all.metric, [&]<class Op>() { launch(begin_rows_kernel<Op>, plan_warps(rows, gpu), part); });
      if (all.m > 0)
        launch(screen_bank_kernel<E>, plan.shape, BankParams{part, plan.slices, plan.stages, plan.resident});
    });
    launch_rescore(part, gpu, launch);
  }
}

}  // namespace tla::cuda
