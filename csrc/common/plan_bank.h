// Few anchors among many candidates, read once as they are: pure host code, reachable from Python through
// `_build_info`.
#pragma once

#include "plan_large.h"

namespace tla {

// A warp of csrc/cuda/screen_bank.cuh takes 32 candidates at a time, 128 bytes of each, against all anchors of a pass.
inline constexpr int kBankWarps = 8, kBankRows = 32, kBankSlice = 128;
// What a block keeps of its anchors beside their elements.
inline constexpr int kBankTableBytes = kBankAnchors * (16 + 2 * 8 + 4 * 4);
inline constexpr int kBankStageBytes = kBankWarps * kBankRows * kBankSlice,
                     kBankAnchorSlice = kBankAnchors * kBankSlice;

struct BankPlan {
  int slices = 1;         // of a row
  bool resident = false;  // anchors stay in shared memory; else their slices come with the candidates'
  int stages = 2;
  int capacity = 4096;       // of a row's list of candidates to rescore
  bool keep_counts = false;  // of all rows, for tests
  LaunchShape shape;
};

// Shared memory that a block may ask for (CUDA programming guide, table of technical specifications).
inline int64_t shared_bytes_of_block(int capability) {
  if (capability == 80 || capability == 87) return 163 * 1024;
  if (capability >= 90 && capability < 120) return 227 * 1024;
  return 99 * 1024;
}

inline BankPlan plan_bank(int64_t candidates, int64_t dim, int64_t candidate_size, Gpu gpu) {
  BankPlan plan;
  plan.slices = static_cast<int>(std::max<int64_t>(1, ceil_div(dim * candidate_size, kBankSlice)));
  const int64_t room = shared_bytes_of_block(gpu.capability) - kBankTableBytes,
                anchors = int64_t{plan.slices} * kBankAnchorSlice;
  plan.resident = anchors + 2 * kBankStageBytes <= room;
  const int64_t stage = kBankStageBytes + (plan.resident ? 0 : kBankAnchorSlice);
  plan.stages = static_cast<int>(std::min<int64_t>(5, (room - (plan.resident ? anchors : 0)) / stage));
  plan.shape.blocks = std::clamp<int64_t>(ceil_div(candidates, kBankWarps * kBankRows), 1, gpu.multiprocessors);
  plan.shape.threads = kBankWarps * 32;
  plan.shape.shared_bytes = static_cast<int>((plan.resident ? anchors : 0) + plan.stages * stage + kBankTableBytes);
  return plan;
}

}  // namespace tla
