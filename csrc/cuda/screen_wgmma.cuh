// The screen by wgmma, for sm_90a. In a block one warpgroup copies (wgmma_tiles.cuh), two have 64 x 256 products each
// in registers.
#pragma once

#include "wgmma_tiles.cuh"

namespace tla::cuda {

// A warp that multiplies: 16 anchors of its warpgroup's 64. A thread's accumulators are of rows lane / 4 + 8 h and
// columns 8 j + 2 (lane % 4) + e: accumulator 4 j + 2 h + e.
template <Metric metric, bool kOffsets>
struct WgmmaScreen {
  using S = WgmmaTile;
  static constexpr bool kEuclidean = metric == Metric::kEuclidean;
  static constexpr int kGroups = 4, kOfGroup = 128 / kGroups;  // accumulators that are looked at again together
  // A cosine's products are compared as they are, where it has no offsets. Scores are so many times that.
  static constexpr float kScale = 1.f / (1 << 2 * kPackedExponent), kUnit = kOffsets ? 1.f : kScale;
  static constexpr float kInfinite = std::numeric_limits<float>::infinity();
  // The greatest score, the least, the greatest that is farther than the positive.
  enum Pass { kNearest, kFarthest, kFarther };

  const WgmmaParams& w;
  const LargeParams& p;
  const WgmmaShared& shared;
  float (&acc)[128];
  Ring ring{};
  int first_row = 0;  // of the warp

  TLA_DEVICE int warp() const { return thread_id() / kWarp - 4; }
  TLA_DEVICE int row_of_lane(int h) const { return lane_id() / 4 + 8 * h; }
  TLA_DEVICE int column_of_lane() const { return lane_id() % 4 * 2; }
  TLA_DEVICE SlotRow& slot_row(int slot, int r) const { return shared.slot_rows[slot * S::kRows + warp() * 16 + r]; }
  TLA_DEVICE ScreenRow& screen_row(int r) const { return shared.rows[warp() * 16 + r]; }
  TLA_DEVICE TileColumn* columns() const { return shared.columns + warp() * S::kColumns; }
  TLA_DEVICE int list_of(int slot, int h) const {
    return slot * static_cast<int>(p.search.b) + first_row + row_of_lane(h);
  }
  TLA_DEVICE bool near(int slot) const { return p.search.semihard() && slot % 2 == 0; }

  TLA_DEVICE void run() {
    const int slots = p.search.slots();
    each_strip(w.strips, [&](int pair, int begin, int end) {
      begin_rows(pair);
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        const Side most = w.large.tile_bounds[tile];
        copy_columns(tile);
        multiply();
        if (kOffsets) copy_wait<0>();
        warp_sync();
#pragma unroll 1
        for (int slot = 0; slot < slots; ++slot) {
          const bool far = p.search.semihard() && slot % 2 == 1;
          if (near(slot))
            look<kFarther>(slot, tile * S::kColumns, most);
          else if (p.negated(far))
            look<kFarthest>(slot, tile * S::kColumns, most);
          else
            look<kNearest>(slot, tile * S::kColumns, most);
        }
        warp_sync();
      }
    });
  }

  TLA_DEVICE void begin_rows(int pair) {
    first_row = (pair * S::kCluster + cluster_rank()) * S::kRows + warp() * 16;
    const int i = first_row + lane_id();
    if (lane_id() < 16) {
      const Side side = i < p.search.b ? p.anchor[i] : Side{0, 0, 0, 0};
      const bool limits = p.search.semihard() && i < p.search.b, screened = i < p.search.b && comparable(side);
      screen_row(lane_id()) = {RowError(p, side), kEuclidean ? side.weight : side.offset, limits ? p.surely[i] : 0,
                               limits ? p.maybe[i] : 0};
      for (int slot = 0; slot < p.search.slots(); ++slot)
        slot_row(slot, lane_id()) = {screened ? allowed_of(p, i, slot > p.search.semihard()) : Allowed{0, 0, 0, 0, -1},
                                     -FLT_MAX};
    }
    warp_sync();
  }

  // While products are summed.
  TLA_DEVICE void copy_columns(int tile) const {
    if (!kOffsets) return;
    constexpr int kColumnsOfCopy = 16 / sizeof(TileColumn);
#pragma unroll
    for (int n = lane_id() * kColumnsOfCopy; n < S::kColumns; n += kWarp * kColumnsOfCopy)
      copy_async(columns() + n, p.tile_columns + int64_t{tile} * S::kColumns + n, true);
    copy_commit();
  }

  // A stage has been read by this warp: says so to both blocks, which copy into it.
  TLA_DEVICE void release(int stage) const {
    if (lane_id() < S::kCluster) barrier_arrive(shared.empty + stage, lane_id());
  }

  TLA_DEVICE void multiply() {
    const int steps = p.padded / S::kStep;
    int before = 0;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      const uint32_t stage = shared.address + ring.stage * S::kStage;
      const uint64_t a = tile_descriptor(stage + warp() / 4 * 64 * S::kLine), b = tile_descriptor(stage + S::kBox);
      barrier_wait(shared.full + ring.stage, ring.parity);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < S::kStep; k += 16)
        wgmma_m64n256k16_f16(acc, descriptor_at(a, k), descriptor_at(b, k), step > 0 || k > 0);
      wgmma_commit();
      wgmma_wait<1>();
      if (step > 0) release(before);
      before = ring.stage;
      ring.next();
    }
    wgmma_wait<0>();
    release(before);
  }

  // What is compared of the accumulators 4 j to 4 j + 3: x[h][e].
  template <bool kNegated>
  TLA_DEVICE void scores(int j, const float (&term)[2], float (&x)[2][2]) const {
    Pack<float, 4> c{};
    if (kOffsets) c = *reinterpret_cast<const Pack<float, 4>*>(columns() + 8 * j + column_of_lane());
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float score = acc[4 * j + 2 * h + e];
        if (kEuclidean)
          score = fused(score * term[h], c.at[2 * e], c.at[2 * e + 1]);
        else if (kOffsets)
          score = fused(score, kScale, c.at[2 * e + 1]) + term[h];
        if (metric == Metric::kAngular) score = std::fabs(score);
        x[h][e] = kNegated ? -score : score;
      }
  }

  // Where the greatest of a group's scores is kept: the limit of kFarther takes the registers that groups would.
  template <Pass pass>
  static constexpr int kept(int g) {
    return pass == kFarther ? 0 : g;
  }
  // Of each row's scores below a limit, the greatest of each group.
  template <Pass pass, bool kMasked>
  TLA_DEVICE void maxima(const uint64_t (&open)[2], const float (&term)[2], const float (&limit)[2],
                         float (&top)[2][kGroups]) const {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) top[0][g] = top[1][g] = -kInfinite;
#pragma unroll
    for (int g = 0; g < kGroups; ++g)
#pragma unroll
      for (int n = 0; n < kOfGroup / 4; ++n) {
        const int j = g * kOfGroup / 4 + n, at = kept<pass>(g);
        float x[2][2];
        scores<pass == kFarthest>(j, term, x);
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if (kMasked && (open[h] >> (2 * j + e) & 1) == 0) x[h][e] = -kInfinite;
            if (pass != kFarther || x[h][e] < limit[h]) top[h][at] = std::fmax(top[h][at], x[h][e]);
          }
      }
  }
  TLA_DEVICE static float greatest(const float (&top)[kGroups]) {
    return std::fmax(std::fmax(top[0], top[1]), std::fmax(top[2], top[3]));
  }

  // Which of a lane's columns a row may pick: bit 2 j + e.
  TLA_DEVICE uint64_t below(int columns) const {
    columns -= column_of_lane();
    if (columns <= 0) return 0;
    const int count = columns / 8 * 2 + (columns % 8 < 2 ? columns % 8 : 2);
    return count < 64 ? (uint64_t{1} << count) - 1 : ~uint64_t{0};
  }
  TLA_DEVICE uint64_t allowed_columns(const Allowed& a, int first) const {
    return below(a.end - first) & ~below(a.begin - first) &
           ~(below(a.hole_end - first) & ~below(a.hole_begin - first)) &
           ~(below(a.excluded + 1 - first) & ~below(a.excluded - first));
  }

  // Scores are computed anew from here on: kept, they would need twice the registers that there are.
  TLA_DEVICE void forget(float (&term)[2]) const {
    unknown(acc);
    warp_sync();
    term[0] = screen_row(row_of_lane(0)).term, term[1] = screen_row(row_of_lane(1)).term;
  }

  template <Pass pass>
  TLA_DEVICE void look(int slot, int first, const Side& most) const {
    first = unknown(first);
    uint64_t open[2];
    float term[2], limit[2], error[2], low[2], top[2][kGroups];
    const bool odd = most.weight != most.weight;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const ScreenRow& row = screen_row(row_of_lane(h));
      open[h] = allowed_columns(slot_row(slot, row_of_lane(h)).allowed, first);
      term[h] = row.term;
      error[h] = row.error.of(p, most);
      if (pass == kFarther) limit[h] = (row.maybe + error[h]) / kUnit;
    }
    if (ballot((open[0] | open[1]) != 0) == 0) return;
    unknown(acc);
    // A row has all columns, or none, or some.
    if (ballot(open[0] + 1 > 1 || open[1] + 1 > 1) == 0)
      maxima<pass, false>(open, term, limit, top);
    else
      maxima<pass, true>(open, term, limit, top);
    bool beats = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      low[h] = lowest(open[h] != 0, slot_row(slot, row_of_lane(h)).best, error[h]);
      beats = beats || (open[h] != 0 && odd) || greatest(top[h]) >= low[h];
    }
    if (ballot(beats) == 0) return;
    forget(term);
    float sure[2] = {greatest(top[0]), greatest(top[1])};
    if (pass == kFarther) {  // what may not be farther does not count
      float of_group[2][kGroups];
#pragma unroll
      for (int h = 0; h < 2; ++h) limit[h] = (screen_row(row_of_lane(h)).surely - error[h]) / kUnit;
      maxima<pass, true>(open, term, limit, of_group);
      sure[0] = greatest(of_group[0]), sure[1] = greatest(of_group[1]);
      forget(term);
    }
    // The four lanes of a row agree on its best, of this tile and of all others.
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (open[h] == 0) sure[h] = -kInfinite;
      sure[h] = std::fmax(sure[h], shuffle_xor(sure[h], 1));
      sure[h] = std::fmax(sure[h], shuffle_xor(sure[h], 2));
      const float lower = sure[h] * kUnit - error[h];
      float best = lane_id() % 4 == 0 ? slot_row(slot, row_of_lane(h)).best : 0;
      if (lane_id() % 4 == 0 && lower > best) {
        const int at = list_of(slot, h);
        const float before = from_bits(out_of_order(atomic_max(&p.best[at], in_order(bits_of(lower)))));
        best = before > lower ? before : lower;
        slot_row(slot, row_of_lane(h)).best = best;
      }
      low[h] = lowest(open[h] != 0, shuffle(best, lane_id() / 4 * 4), error[h]);
    }
    // By constants: accumulators are registers.
    const auto of_group = [&]<int g>(std::integral_constant<int, g>) {
      if (ballot(odd || top[0][kept<pass>(g)] >= low[0] || top[1][kept<pass>(g)] >= low[1]) != 0)
        list<pass, g>(slot, first, open, term, error, low, odd);
    };
    of_group(std::integral_constant<int, 0>()), of_group(std::integral_constant<int, 1>());
    of_group(std::integral_constant<int, 2>()), of_group(std::integral_constant<int, 3>());
  }

  TLA_DEVICE static float lowest(bool live, float best, float error) {
    const float low = (best - error) / kUnit;
    return !live ? kInfinite : low > -FLT_MAX ? low : -FLT_MAX;
  }
  // Lists what may be better than it looks among a group's accumulators.
  template <Pass pass, int g>
  TLA_DEVICE void list(int slot, int first, const uint64_t (&open)[2], const float (&term)[2], const float (&error)[2],
                       const float (&low)[2], bool odd) const {
    unsigned bits = 0;  // accumulator n of the group
#pragma unroll
    for (int n = 0; n < kOfGroup; n += 4) {
      float x[2][2];
      scores<pass == kFarthest>((g * kOfGroup + n) / 4, term, x);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (odd || !(x[i / 2][i % 2] < low[i / 2])) bits |= 1u << (n + i);
    }
#pragma unroll 1
    for (; bits != 0; bits &= bits - 1) {
      const int n = first_set(bits), h = n / 2 % 2, j = (g * kOfGroup + n) / 4;
      if (((h == 0 ? open[0] : open[1]) >> (2 * j + n % 2) & 1) == 0) continue;
      float product = 0;
#pragma unroll
      for (int i = 0; i < kOfGroup; ++i) {
        const float other = acc[g * kOfGroup + i];  // not under the condition, where it would be accumulator n
        product = i == n ? other : product;
      }
      const int column = first + 8 * j + column_of_lane() + n % 2;
      push<pass>(slot, h, product, column, h == 0 ? error[0] : error[1], h == 0 ? low[0] : low[1]);
    }
  }

  template <Pass pass>
  TLA_DEVICE void push(int slot, int h, float product, int column, float error, float low) const {
    const Side y = p.candidates[column];
    float score = score_of(metric, product, p.anchor[first_row + row_of_lane(h)], y);
    if (pass == kFarthest) score = -score;
    if (!comparable(y)) score = y.residual;
    // Negated, so that NaN passes.
    if (score / kUnit < low || (pass == kFarther && score >= screen_row(row_of_lane(h)).maybe + error)) return;
    const int at = list_of(slot, h);
    const uint32_t listed = atomic_add(&p.count[at], 1u);
    if (listed < static_cast<uint32_t>(p.capacity))
      p.list[int64_t{at} * p.capacity + listed] = {score + error, static_cast<uint32_t>(column)};
    else  // the row is redone: nothing more of it is listed
      atomic_max(&p.best[at], in_order(Key<float>::kInfinity));
  }
};

// Of both kernels of a cosine one has nothing to do: whether rows have offsets is known on the device alone.
template <Metric metric, bool kOffsets>
TLA_KERNEL(WgmmaTile::kThreads, 1)
screen_wgmma_kernel(const TLA_GRID_CONSTANT WgmmaParams w) {
#if TLA_HOPPER
  using S = WgmmaTile;
  if (is_cosine(metric) && (*w.large.center.used != 0) != kOffsets) return;
  TLA_DYNAMIC_SHARED(memory);
  const WgmmaShared shared(memory, w.large.search.slots());
  if (thread_id() == 0) {
    for (int stage = 0; stage < S::kStages; ++stage) {
      barrier_init(shared.full + stage, 1);
      barrier_init(shared.empty + stage, S::kWarps * S::kCluster);
    }
    fence_barrier_init();
  }
  cluster_sync();
  if (thread_id() < 128) {
    give_registers<24>();
    if (thread_id() == 0) copy_tiles(w, shared);
  } else {
    take_registers<240>();
    float acc[128];
    WgmmaScreen<metric, kOffsets>{w, w.large, shared, acc}.run();
  }
  // Until here the other block copies into this one's memory, and arrives at its barriers.
  cluster_sync();
#else
  __trap();
#endif
}

}  // namespace tla::cuda
