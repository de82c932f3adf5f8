// How a search is cut into tasks: pure host code, reachable from Python through `_build_info`.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tla {

struct SearchPlan {
  int64_t anchor_block;  // anchors a task keeps in cache while candidates stream by
  int64_t tile;          // candidates scored at a time (kTiles: what the instruction set takes, about as many)
  int64_t blocks;        // tasks along the anchors
  int64_t splits;        // tasks along the candidates, each with its own best picks
  int64_t split_size;    // candidates a split has (the last one may have fewer)
  // By the sums that decide, row by row or (for more anchors) column by column, or by a screen's products first.
  enum Kind { kSums, kTiles, kScreened } kind;
};

// Fewer anchors are searched as fast without a screen, even where candidates have been packed for it.
inline constexpr int64_t kLeastScreened = 8;

struct Screening {
  bool screen = false;  // there is one, and the metric has a matrix form
  int64_t anchors = kLeastScreened;
};

inline constexpr int kThreads = 128;

// A CUDA launch: clusters of consecutive blocks, and whether all blocks wait for each other.
struct LaunchShape {
  int64_t blocks = 1;
  int cluster = 1;
  bool cooperative = false;
  int threads = kThreads;
  int shared_bytes = 0;  // dynamic shared memory
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A search of `anchors` among `candidates` of `dim` elements that are computed in `element_size` bytes.
inline SearchPlan plan_search(int64_t anchors, int64_t candidates, int64_t dim, int64_t element_size, int64_t threads,
                              Screening machine) {
  constexpr int64_t kWorthATask = 1 << 18;  // multiply-adds that pay for a thread's start
  SearchPlan plan;
  const int64_t row_bytes = std::max<int64_t>(1, dim * element_size);
  plan.kind = SearchPlan::kSums;
  // Bounds grow with the columns, of whose products in 8 bits no more fit into 32 (of 16 bits fewer are used); lists
  // keep candidates in 32 bits.
  if (machine.screen && anchors >= machine.anchors && dim >= 16 && dim <= 65536 && candidates >= 64 &&
      candidates <= INT32_MAX)
    plan.kind = SearchPlan::kScreened;
  else if (anchors >= 24 && dim >= 16)
    plan.kind = SearchPlan::kTiles;
  if (plan.kind == SearchPlan::kSums) {
    constexpr int64_t kBlockBytes = 512 * 1024;  // a quarter to a half of a second-level cache
    plan.anchor_block = std::clamp<int64_t>(kBlockBytes / row_bytes / 4 * 4, 4, 64);
    plan.tile = std::clamp<int64_t>(kBlockBytes / row_bytes, 16, 64);
  } else if (plan.kind == SearchPlan::kTiles) {
    // The more anchors, the less often a candidate is laid out; they stream by from the second-level cache or beyond.
    constexpr int64_t kBlockBytes = 2560 * 1024;
    plan.anchor_block = std::clamp<int64_t>(kBlockBytes / row_bytes / 32 * 32, 32, 1024);
    plan.tile = 16;
  } else {
    // Anchors in at most two bytes an element stay in the second-level cache, a panel of candidates in the first.
    constexpr int64_t kBlockBytes = 1280 * 1024;
    plan.anchor_block = std::clamp<int64_t>(kBlockBytes / (2 * dim) / 32 * 32, 32, 1024);
    plan.tile = 32;
  }
  plan.blocks = ceil_div(anchors, plan.anchor_block);
  plan.splits = 1;
  const double work = static_cast<double>(anchors) * candidates * dim;
  const int64_t tasks = std::min<int64_t>(threads, static_cast<int64_t>(work / kWorthATask) + 1);
  // Few blocks: cut the candidates, too, finely enough that uneven threads wait for little.
  if (plan.blocks > 0 && plan.blocks < 4 * tasks && tasks > 1) {
    const int64_t wanted = plan.blocks < tasks ? ceil_div(tasks, plan.blocks) : ceil_div(4 * tasks, plan.blocks);
    plan.splits = std::clamp<int64_t>(candidates / plan.tile, 1, wanted);
  }
  plan.split_size = std::max<int64_t>(1, ceil_div(candidates, plan.splits));
  // Panels of a packed pool are not cut.
  if (plan.kind == SearchPlan::kScreened) plan.split_size = ceil_div(plan.split_size, 32) * 32;
  plan.splits = std::max<int64_t>(1, ceil_div(candidates, plan.split_size));
  return plan;
}

// --- CUDA: tiles of anchors x candidates, searched by teams of blocks

struct Gpu {
  int64_t multiprocessors = 1;
  int capability = 80;  // 90 for 9.0
};

// A tile's pairs are summed by a team of `team` blocks, each of which takes 8 / team parts of D. Teams stand in a grid
// of teams_b x teams_m; team (b, m) takes the tiles (b, b + teams_b, ...) x (m, m + teams_m, ...). Behind them stand
// `row_blocks` blocks for what is done row by row.
struct TilePlan {
  int anchor_tile = 64, candidate_tile = 32;
  int tiles_b = 0, tiles_m = 0, teams_b = 0, teams_m = 0, teams = 0, row_blocks = 0;
  int team = 1;
  bool cluster = false;  // a team's blocks read each other's shared memory; otherwise they meet in global memory
  LaunchShape shape;
};

// Blocks that a multiprocessor holds at once by their registers: the kernels' __launch_bounds__.
constexpr int blocks_by_registers(bool wide) { return wide ? 2 : 3; }

// Shared memory of a kernel that keeps a tile: a piece of 256 bytes of each row, two parts' sums, norms, bounds and
// keys, and a little for other things.
inline constexpr int64_t kTileSharedBytes = 48 * 1024, kOtherSharedBytes = 64;

// Blocks of such a kernel which a multiprocessor holds at once.
inline int64_t tile_blocks_per_multiprocessor(int capability, bool wide) {
  constexpr int64_t kReserved = 1024;  // the system's, of each block
  int64_t kilobytes = 64;              // CUDA programming guide, table of technical specifications
  if (capability >= 120)
    kilobytes = 100;
  else if (capability >= 90)
    kilobytes = 228;
  else if (capability == 80 || capability == 87)
    kilobytes = 164;
  else if (capability >= 86)
    kilobytes = 100;
  return std::min<int64_t>(blocks_by_registers(wide), kilobytes * 1024 / (kTileSharedBytes + kReserved));
}

// Anchors of a tile: fewer for small batches, and always for float64.
inline constexpr int kPairsOfTile = 2048;
inline int anchor_tile(int64_t anchors, bool wide) { return wide || anchors <= 32 ? 32 : 64; }

// `tiles`: the pairs are searched at all; `rows`: work of a warp each beside it.
inline TilePlan plan_tiles(int64_t anchors, int64_t candidates, int64_t dim, int64_t element_size, bool tiles,
                           int64_t rows, Gpu gpu) {
  TilePlan plan;
  const bool wide = element_size > 4;
  plan.anchor_tile = anchor_tile(anchors, wide);
  plan.candidate_tile = kPairsOfTile / plan.anchor_tile;
  const int64_t resident = gpu.multiprocessors * tile_blocks_per_multiprocessor(gpu.capability, wide);
  int64_t row_blocks = std::min(ceil_div(rows, kThreads / 32), std::max<int64_t>(1, tiles ? resident / 4 : resident));
  if (tiles) {
    const int64_t tiles_b = ceil_div(anchors, plan.anchor_tile), tiles_m = ceil_div(candidates, plan.candidate_tile);
    const int64_t all = tiles_b * tiles_m;
    const bool clusters = gpu.capability >= 90;
    // Clusters do not fill the last few multiprocessors of a group.
    const int64_t usable = clusters ? resident * 3 / 4 : resident;
    for (int team : {4, 8}) {
      // No part of D is shorter than 64, and a team of several blocks has one tile.
      const bool divides = !wide && all > 0 && ceil_div(dim, 64) >= team;
      if (divides && all * team + ceil_div(row_blocks, team) * team <= usable) plan.team = team;
    }
    plan.cluster = clusters && plan.team > 1;
    row_blocks = ceil_div(row_blocks, plan.team) * plan.team;
    const int64_t room = std::max<int64_t>(1, ((plan.cluster ? usable : resident) - row_blocks) / plan.team);
    const int64_t teams_b = all > 0 ? std::min(tiles_b, room) : 0;
    const int64_t teams_m = all > 0 ? std::min(tiles_m, room / teams_b) : 0;
    plan.tiles_b = static_cast<int>(tiles_b);
    plan.tiles_m = static_cast<int>(tiles_m);
    plan.teams_b = static_cast<int>(teams_b);
    plan.teams_m = static_cast<int>(teams_m);
    plan.teams = plan.teams_b * plan.teams_m;
  }
  plan.row_blocks = static_cast<int>(row_blocks);
  plan.shape.blocks = std::max(1, plan.teams * plan.team + plan.row_blocks);
  plan.shape.cluster = plan.cluster ? plan.team : 1;
  plan.shape.cooperative = true;
  return plan;
}

// Work of a warp a row in a cooperative launch (triplet_loss).
inline LaunchShape plan_rows(int64_t rows, bool wide, Gpu gpu) {
  LaunchShape shape;
  shape.blocks = std::clamp<int64_t>(ceil_div(rows, kThreads / 32), 1, blocks_by_registers(wide) * gpu.multiprocessors);
  shape.cooperative = true;
  return shape;
}

// What anchors send to a pool's row is added up in pieces of so many anchors, whatever the plan.
inline constexpr int64_t kSharesOfPiece = 256;

// Whether picks are sorted, for which several launches are paid, or every anchor and every row of the pool looks
// through all picks. `picks`: of a pool, whose gradient is asked for.
inline bool sorts_picks(int64_t anchors, bool picks) { return picks && anchors > 512; }

// triplet_loss_backward: blocks that take an anchor each, and behind them blocks whose warps clear eight rows of a pool
// at a time; where picks are sorted, pools are cleared before, and blocks take full pieces and then rows.
struct BackwardPlan {
  bool sorted = false;
  int64_t anchor_blocks = 0;
  LaunchShape shape, pieces, rows;
};
inline BackwardPlan plan_backward(int64_t anchors, int64_t pool_rows, bool sorted, Gpu gpu) {
  const int64_t most = 16 * gpu.multiprocessors;
  BackwardPlan plan;
  plan.sorted = sorted;
  plan.anchor_blocks = std::min(anchors, most);
  plan.shape.blocks = plan.anchor_blocks + (sorted ? 0 : std::min(ceil_div(pool_rows, 8 * kThreads / 32), most));
  plan.pieces.blocks = sorted ? std::min(anchors / kSharesOfPiece, most) : 0;
  plan.rows.blocks = sorted ? plan.anchor_blocks : 0;
  return plan;
}

// cdist: n matrices of b x m distances; a block takes a tile at a time, its backward a row.
struct CdistPlan {
  int anchor_tile = 64;
  LaunchShape shape;
};
inline CdistPlan plan_cdist(int64_t n, int64_t b, int64_t m, bool wide, Gpu gpu) {
  CdistPlan plan;
  plan.anchor_tile = anchor_tile(b, wide);
  const int64_t tiles = n * ceil_div(b, plan.anchor_tile) * ceil_div(m, kPairsOfTile / plan.anchor_tile);
  plan.shape.blocks = std::min(tiles, 64 * gpu.multiprocessors);
  return plan;
}
inline LaunchShape plan_cdist_backward(int64_t n, int64_t b, Gpu gpu) {
  LaunchShape shape;
  shape.blocks = std::min(n * b, 64 * gpu.multiprocessors);
  return shape;
}

// A warp a row, in turns.
inline LaunchShape plan_warps(int64_t rows, Gpu gpu) {
  return {std::clamp<int64_t>(ceil_div(rows, kThreads / 32), 1, 16 * gpu.multiprocessors)};
}

}  // namespace tla
