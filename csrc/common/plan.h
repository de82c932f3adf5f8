// How a search is cut into tasks: pure host code, reachable from Python through `_build_info`.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tla {

struct SearchPlan {
  int64_t anchor_block;  // anchors a task keeps in cache while candidates stream by
  int64_t tile;          // candidates scored at a time
  int64_t blocks;        // tasks along the anchors
  int64_t splits;        // tasks along the candidates, each with its own best picks
  int64_t split_size;    // candidates a split has (the last one may have fewer)
  // Score by the sums that decide, or by a product first: torch's in float32, or the AMX unit's in bfloat16.
  enum Kind { kSums, kProduct, kAmx } kind;
};

struct Machine {
  bool wide = false;  // its own sums run at a matrix product's speed up to a block of anchors
  bool amx = false;
};

// A CUDA launch: blocks of kThreads threads, clusters of consecutive blocks, and whether all blocks wait for each other.
struct LaunchShape {
  int64_t blocks = 1;
  int cluster = 1;
  bool cooperative = false;
};

inline constexpr int kThreads = 128;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A search of `anchors` among `candidates` of `dim` elements of `element_size` bytes. `product`: the metric has a
// matrix form.
inline SearchPlan plan_search(int64_t anchors, int64_t candidates, int64_t dim, int64_t element_size, int64_t threads,
                              bool product, Machine machine) {
  constexpr int64_t kBlockBytes = 512 * 1024;  // a quarter to a half of a second-level cache
  constexpr int64_t kWorthATask = 1 << 18;     // multiply-adds that pay for a thread's start
  SearchPlan plan;
  const int64_t row_bytes = std::max<int64_t>(1, dim * element_size);
  plan.kind = SearchPlan::kSums;
  if (product && anchors >= 8 && dim >= 16 && candidates >= 64) {
    if (machine.amx)
      plan.kind = SearchPlan::kAmx;
    else if (anchors >= 96 || !machine.wide)
      plan.kind = SearchPlan::kProduct;
  }
  plan.anchor_block = std::clamp<int64_t>(kBlockBytes / row_bytes / 4 * 4, 4, 64);
  plan.tile = std::clamp<int64_t>(kBlockBytes / row_bytes, 16, 128);
  if (plan.kind == SearchPlan::kProduct) plan.anchor_block = plan.tile = 256;
  if (plan.kind == SearchPlan::kAmx) {
    // Anchors in bfloat16 stay in the second-level cache, a panel of candidates in the first.
    plan.anchor_block = std::clamp<int64_t>(5 * kBlockBytes / (4 * dim) / 32 * 32, 32, 1024);
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
  plan.splits = std::max<int64_t>(1, ceil_div(candidates, plan.split_size));
  return plan;
}

}  // namespace tla
