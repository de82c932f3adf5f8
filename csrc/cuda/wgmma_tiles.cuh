// What the wgmma screen's blocks work on, in which order, and the warpgroup that copies it. A cluster of two blocks
// takes a pair of tiles of 128 anchors and streams down a strip of candidates, 256 at a time, which both blocks share:
// each copies half of them, to both.
#pragma once

#include "../common/plan_strips.h"
#include "hopper.cuh"
#include "lists.cuh"

namespace tla::cuda {

struct WgmmaTile {
  static constexpr int kRows = 128, kColumns = 256, kStep = 64, kStages = 4, kCluster = 2;
  static constexpr int kThreads = 3 * 128, kWarps = 8;  // warps that multiply
  static constexpr int kBoxRows = 128, kBox = kBoxRows * kStep * 2;
  static constexpr int kStage = 3 * kBox;  // anchors, and two halves of the candidates
  static constexpr int kLine = kStep * 2;  // bytes of a row in a box
  static constexpr int kAlignment = 1024;
};

// What a screen has of a row, and each slot of it.
struct alignas(16) ScreenRow {
  RowError error;
  float term;  // its weight for the euclidean metric, else its offset
  float surely, maybe;
};
struct alignas(8) SlotRow {
  Allowed allowed;
  float best;
};

static_assert(WgmmaTile::kCluster * WgmmaTile::kRows == kPairRows && WgmmaTile::kColumns == kStripColumns);

struct WgmmaParams {
  LargeParams large;
  TensorMap anchor, candidates;  // by boxes of kBoxRows x kStep
  Strips strips;
};

// The dynamic shared memory of a block.
struct WgmmaShared {
  char* stages;
  uint32_t address;  // of the stages
  uint64_t *full, *empty;
  ScreenRow* rows;      // [kRows]
  SlotRow* slot_rows;   // [slots][kRows]
  TileColumn* columns;  // [kWarps][kColumns]: a warp's own

  static constexpr int kBarrierBytes = 2 * WgmmaTile::kStages * 8;
  TLA_HD static int bytes(int slots, bool with_columns) {
    using S = WgmmaTile;
    const int rows = S::kRows * static_cast<int>(sizeof(ScreenRow) + slots * sizeof(SlotRow));
    return S::kAlignment + S::kStages * S::kStage + kBarrierBytes + rows +
           (with_columns ? S::kWarps * S::kColumns * static_cast<int>(sizeof(TileColumn)) : 0);
  }
  TLA_DEVICE WgmmaShared(char* memory, int slots) {
    using S = WgmmaTile;
    const uint32_t begin = shared_address(memory);
    address = (begin + S::kAlignment - 1) / S::kAlignment * S::kAlignment;
    stages = memory + (address - begin);
    full = reinterpret_cast<uint64_t*>(stages + S::kStages * S::kStage);
    empty = full + S::kStages;
    rows = reinterpret_cast<ScreenRow*>(empty + S::kStages);
    slot_rows = reinterpret_cast<SlotRow*>(rows + S::kRows);
    columns = reinterpret_cast<TileColumn*>(slot_rows + slots * S::kRows);
  }
};

// The stages in turn; `parity` of the phase that their barriers are in.
struct Ring {
  int stage = 0, parity = 0;
  TLA_DEVICE void next() {
    if (++stage == WgmmaTile::kStages) stage = 0, parity ^= 1;
  }
};

// Calls f(pair, first tile, end) for all that a cluster has to do: the same in both of its blocks and in all roles.
template <class F>
TLA_DEVICE void each_strip(const Strips& s, const F& f) {
  const int whole = s.group * s.strips, step = grid_blocks() / WgmmaTile::kCluster;
#pragma unroll 1
  for (int n = block_id() / WgmmaTile::kCluster; n < s.pairs * s.strips; n += step) {
    const int first = n / whole * s.group, rest = n % whole;
    const int height = s.pairs - first < s.group ? s.pairs - first : s.group;
    const int begin = rest / height * s.strip, end = begin + s.strip;
    f(first + rest % height, begin, end < s.tiles ? end : s.tiles);
  }
}

// One thread of a block: its anchors to itself, its half of the candidates to both blocks.
TLA_DEVICE void copy_tiles(const WgmmaParams& w, const WgmmaShared& shared) {
  using S = WgmmaTile;
  const int rank = cluster_rank();
  prefetch_map(w.anchor);
  prefetch_map(w.candidates);
  Ring ring;
  each_strip(w.strips, [&](int pair, int begin, int end) {
#pragma unroll 1
    for (int tile = begin; tile < end; ++tile)
#pragma unroll 1
      for (int k = 0; k < w.large.padded; k += S::kStep) {
        uint64_t* full = shared.full + ring.stage;
        char* stage = shared.stages + ring.stage * S::kStage;
        // Both blocks have read what both blocks have copied here before.
        barrier_wait(shared.empty + ring.stage, ring.parity ^ 1);
        barrier_expect(full, S::kStage);
        load_tile(stage, w.anchor, (pair * S::kCluster + rank) * S::kRows, k, full);
        load_tile(stage + (1 + rank) * S::kBox, w.candidates, tile * S::kColumns + rank * S::kBoxRows, k, full, 3);
        ring.next();
      }
  });
}

}  // namespace tla::cuda
