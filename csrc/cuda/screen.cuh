// The screen by mma.sync: a block a tile of 128 anchors x 128 candidates, whose products never leave its registers.
#pragma once

#include "lists.cuh"

namespace tla::cuda {

struct ScreenTile {
  static constexpr int kRows = 128;              // of either side
  static constexpr int kStep = 32, kStages = 3;  // columns a stage has
  static constexpr int kChunks = kStep / 8;      // of 16 bytes in a row of a stage
  static constexpr int kSide = kRows * kStep;    // halves of one side's stage
  static constexpr int kBytes = kStages * 2 * kSide * 2;
  static constexpr int kStaged = 64 + 8;  // of a row of products in shared memory: four rows' pairs in different banks
  static constexpr int kGroup = 16;       // tiles of anchors that share candidates while those are in cache
};

// A row of a tile, as one slot's pass over its scores takes it.
struct TileAnchor {
  Allowed allowed;
  float weight, offset;  // of products, to scores
  float error;           // the largest of the tile's pairs
  float surely, maybe;
  bool live;
};
struct ScreenBlock {
  using S = ScreenTile;
  const LargeParams& p;
  int64_t first_a, first_c;
  char* memory;  // [kBytes] stages; then what the passes share
  float (&acc)[4][8][4];

  TLA_DEVICE int warp() const { return thread_id() / kWarp; }
  TLA_DEVICE int row_of_warp() const { return warp() / 2 * 64; }
  TLA_DEVICE int column_of_warp() const { return warp() % 2 * 64; }

  // Where chunk k of a row stands in its stage: eight rows' chunks of one k lie in different banks.
  TLA_DEVICE static int place(int row, int k) { return row * S::kStep + (k ^ (row / 2 % S::kChunks)) * 8; }
  TLA_DEVICE uint16_t* stage(int step, int side) const {
    return reinterpret_cast<uint16_t*>(memory) + (step % S::kStages * 2 + side) * S::kSide;
  }

  TLA_DEVICE void fetch(int step) const {
    const int steps = p.padded / S::kStep;
    if (step < steps) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const uint16_t* from = side == 0 ? p.packed_anchor : p.packed_candidates;
        const int64_t first = side == 0 ? first_a : first_c, rows = side == 0 ? p.search.b : p.search.m;
#pragma unroll
        for (int n = 0; n < S::kRows * S::kChunks / kThreads; ++n) {
          const int at = n * kThreads + unknown(thread_id()), row = at / S::kChunks, k = at % S::kChunks;
          const bool there = first + row < rows;
          copy_async(stage(step, side) + place(row, k),
                     from + (there ? first + row : 0) * p.padded + step * S::kStep + 8 * k, there);
        }
      }
    }
    copy_commit();  // of an empty group, too: waits count them
  }

  // A warp has 64 x 64 of the tile: 4 x 8 products of 16 x 8.
  TLA_DEVICE void multiply() const {
    const int steps = p.padded / S::kStep, lane = lane_id();
#pragma unroll
    for (int step = 0; step < S::kStages - 1; ++step) fetch(step);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      copy_wait<S::kStages - 2>();
      block_sync();  // everybody's copies of this step are there, and the step before has been read
      fetch(step + S::kStages - 1);
#pragma unroll
      for (int k = 0; k < S::kChunks; k += 2) {
        uint32_t a[4][4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          load_matrices(a[i], stage(step, 0) + place(row_of_warp() + 16 * i + lane % 16, k + lane / 16));
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
          uint32_t b[4];
          // Columns 8 j on: both chunks of eight rows, then of the next eight.
          load_matrices(b,
                        stage(step, 1) + place(column_of_warp() + 8 * j + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
          const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            mma_m16n8k16_f16(acc[i][j], a[i], b0);
            mma_m16n8k16_f16(acc[i][j + 1], a[i], b1);
          }
        }
      }
    }
    copy_wait<0>();
    block_sync();  // the stages' memory is free
  }

  TLA_DEVICE TileAnchor* anchors() const { return reinterpret_cast<TileAnchor*>(memory); }
  TLA_DEVICE TileColumn* candidates() const { return reinterpret_cast<TileColumn*>(anchors() + S::kRows); }
  TLA_DEVICE Side* largest() const { return reinterpret_cast<Side*>(candidates() + S::kRows); }  // a warp's each
  TLA_DEVICE float* staged() const {
    return reinterpret_cast<float*>(largest() + kThreads / kWarp) + warp() * 16 * S::kStaged;
  }

  TLA_DEVICE static float warp_greatest(float x) {
#pragma unroll
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      const float other = shuffle_xor(x, mask);
      x = other > x ? other : x;
    }
    return x;
  }

  // A thread a row of either side: what the slot's pass needs of it.
  TLA_DEVICE void prepare(bool wanted, bool far) const {
    const SearchParams& s = p.search;
    const int t = thread_id();
    const int64_t j = first_c + t, i = first_a + t;
    TileColumn c{0, 0};
    Side most{0, 0, 0, 0};
    if (j < s.m) {
      const Side side = p.candidates[j];
      const bool known = comparable(side);
      c = {side.weight, known ? side.offset : side.residual};
      if (known) most = side;
    }
    candidates()[t] = c;
    most = {0, warp_greatest(most.norm), warp_greatest(most.residual), -warp_greatest(-most.offset)};
    if (lane_id() == 0) largest()[warp()] = most;
    block_sync();
    for (int w = 0; w < kThreads / kWarp; ++w) {
      const Side other = largest()[w];
      most.norm = other.norm > most.norm ? other.norm : most.norm;
      most.residual = other.residual > most.residual ? other.residual : most.residual;
      most.offset = other.offset < most.offset ? other.offset : most.offset;
    }
    TileAnchor a{{}, 0, 0, 0, 0, 0, false};
    if (i < s.b) {
      const Side side = p.anchor[i];
      a.live = comparable(side);
      a.allowed = allowed_of(p, i, wanted);
      a.weight = side.weight;
      a.offset = row_offset(s.metric, side);
      a.error = RowError(p, side).of(p, most);
      const bool near = s.semihard() && !far;
      a.surely = near ? p.surely[i] : from_bits(Key<float>::kInfinity);
      a.maybe = near ? p.maybe[i] : from_bits(Key<float>::kInfinity);
    }
    anchors()[t] = a;
    block_sync();
  }

  // What a lane has of a slot's candidates: columns lane and lane + 32 of its warp's 64.
  struct Columns {
    TileColumn at[2];
    int first;
    bool angular, negated;

    // Calls f(score, n) where the slot allows a row its pair with column n.
    template <class F>
    TLA_DEVICE void scores(const TileAnchor& a, const float* products, const F& f) const {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float product = products[n * kWarp + lane_id()];
        float score = fused(product * a.weight, at[n].weight, at[n].offset) + a.offset;
        if (angular) score = std::fabs(score);
        if (negated) score = -score;
        if (a.allowed(first + n * kWarp)) f(score, n);
      }
    }
  };

  // Sixteen rows of the tile from `row` on, for one slot; their products stand in shared memory.
  TLA_DEVICE void look(const Columns& columns, int row, int slot) const {
    const float* products = staged();
    // Of each row's scores that count for sure the greatest, less its error; a lane keeps one row's. -FLT_MAX, where
    // there is none, is below all.
    float greatest = -FLT_MAX;
#pragma unroll 2
    for (int r = 0; r < 16; ++r) {
      const TileAnchor a = anchors()[row + r];
      float most = -FLT_MAX;
      columns.scores(a, products + r * S::kStaged, [&](float score, int) {
        if (score > most && score < a.surely - a.error) most = score;
      });
      most = warp_greatest(most);
      if (lane_id() == r && most > -FLT_MAX) greatest = most - a.error;
    }
    // The best so far, of this tile and of all others.
    uint32_t best = in_order(bits_of(greatest));
    if (lane_id() < 16 && anchors()[row + lane_id()].live) {
      const uint32_t before = atomic_max(&p.best[p.at(slot, first_a + row + lane_id())], best);
      best = before > best ? before : best;
    }
#pragma unroll 2
    for (int r = 0; r < 16; ++r) {
      const TileAnchor a = anchors()[row + r];
      const float low = from_bits(out_of_order(shuffle(best, r))) - a.error;
      columns.scores(a, products + r * S::kStaged, [&](float score, int n) {
        // Negated, so that NaN passes.
        if (a.live && !(score < low) && !(score >= a.maybe + a.error))
          push(slot, row + r, score + a.error, columns.first + n * kWarp);
      });
    }
  }

  TLA_DEVICE void push(int slot, int row, float upper, int column) const {
    const int64_t at = p.at(slot, first_a + row);
    const uint32_t listed = atomic_add(&p.count[at], 1u);
    if (listed < static_cast<uint32_t>(p.capacity))
      p.list[at * p.capacity + listed] = {upper, static_cast<uint32_t>(column)};
    else  // the row is redone: nothing more of it is listed
      atomic_max(&p.best[at], in_order(Key<float>::kInfinity));
  }

  TLA_DEVICE void pass(bool wanted, bool far) const {
    prepare(wanted, far);
    const int first = column_of_warp() + lane_id();
    const Columns columns{{candidates()[first], candidates()[first + kWarp]},
                          static_cast<int>(first_c) + first,
                          p.search.metric == Metric::kAngular,
                          p.negated(far)};
    // Registers hold products of 16 x 8 in pairs of a row: through shared memory a row comes to a warp.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      warp_sync();
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          *reinterpret_cast<Pack<float, 2>*>(staged() + (lane_id() / 4 + 8 * half) * S::kStaged + 8 * j +
                                             lane_id() % 4 * 2) = {acc[i][j][2 * half], acc[i][j][2 * half + 1]};
      warp_sync();
      look(columns, row_of_warp() + 16 * i, p.search.slot(wanted, far));
    }
    block_sync();  // the next pass prepares
  }
};

TLA_KERNEL(kThreads, 2) screen_kernel(const LargeParams p) {
  using S = ScreenTile;
  TLA_SHARED(char, memory, S::kBytes);
  const SearchParams& s = p.search;
  const int tiles_a = static_cast<int>((s.b + S::kRows - 1) / S::kRows),
            tiles_c = static_cast<int>((s.m + S::kRows - 1) / S::kRows);
  // Groups of tiles of anchors one after the other; within a group candidates are the outer loop.
  const int group = block_id() / (S::kGroup * tiles_c), first = group * S::kGroup;
  const int height = tiles_a - first < S::kGroup ? tiles_a - first : S::kGroup;
  const int rest = block_id() - first * tiles_c;
  float acc[4][8][4] = {};
  const ScreenBlock screen{p, int64_t{first + rest % height} * S::kRows, int64_t{rest / height} * S::kRows, memory,
                           acc};
  screen.multiply();
#pragma unroll 1
  for (int slot = 0; slot < s.slots(); ++slot) screen.pass(slot > s.semihard(), s.semihard() && slot % 2 == 1);
}

}  // namespace tla::cuda
