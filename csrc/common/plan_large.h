// Which way a large CUDA search goes, and in what pieces: pure host code, reachable from Python through `_build_info`.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "plan.h"

namespace tla {

// What a search goes by: tiles of float32 sums, or a screen by half-precision products. Those stay in registers
// (mma.sync, or wgmma on Hopper), or stand in memory, of a chunk of anchors and one of candidates at a time (a BLAS). A
// bank's screen reads candidates once, as they are.
enum class Screen { kTiles, kMma, kBlas, kWgmma, kBank };
inline constexpr std::string_view kScreens[] = {"tiles", "mma", "blas", "wgmma", "bank"};

inline Screen parse_screen(std::string_view name) {
  const auto found = std::find(std::begin(kScreens), std::end(kScreens), name);
  if (found == std::end(kScreens)) throw std::invalid_argument("unknown screen: " + std::string(name));
  return static_cast<Screen>(found - std::begin(kScreens));
}

// The screens that may be used: names with spaces between them. Tiles always may.
class Screens {
 public:
  explicit Screens(std::string_view names) {
    while (!names.empty()) {
      const size_t end = std::min(names.find(' '), names.size());
      bits_ |= 1u << static_cast<int>(parse_screen(names.substr(0, end)));
      names.remove_prefix(std::min(end + 1, names.size()));
    }
  }
  bool has(Screen screen) const { return bits_ >> static_cast<int>(screen) & 1; }
  Screens without(Screen screen) const {
    Screens others = *this;
    others.bits_ &= ~(1u << static_cast<int>(screen));
    return others;
  }

 private:
  unsigned bits_ = 1;
};

struct LargeProblem {
  int64_t anchors = 0, candidates = 0, dim = 0;
  int64_t element_size = 4, candidate_size = 4;  // bytes, of what is summed and of what a candidate has
  bool product = true;   // the metric has a matrix form, and the search is not of a pick at random
  bool in_place = true;  // a bank's rows can be copied as they are
  bool semihard = false;
};

inline constexpr int kBankAnchors = 64;  // that a pass over a bank serves

// A packed copy costs as much time as reading candidates once more and a copy of 16 bits twice: as many passes are
// cheaper. Smaller banks do not pay for several launches.
inline bool is_bank(const LargeProblem& p, Gpu gpu) {
  const double elements = static_cast<double>(p.candidates) * static_cast<double>(p.dim);
  return p.in_place && p.product && p.element_size <= 4 && p.candidate_size <= 4 && gpu.capability >= 80 &&
         p.anchors > 0 && p.candidates <= INT32_MAX && elements >= 0x1p24 &&
         ceil_div(p.anchors, kBankAnchors) * p.candidate_size <= p.candidate_size + 4;
}

// Packing, a screen and rescoring are several launches, which arithmetic pays for; few anchors read each candidate too
// seldom to pay for its packed copy, which is wider than short rows.
inline Screen choose_screen(const LargeProblem& p, const Screens& screens, Gpu gpu) {
  if (screens.has(Screen::kBank) && is_bank(p, gpu)) return Screen::kBank;
  const double work = static_cast<double>(p.anchors) * static_cast<double>(p.candidates) * static_cast<double>(p.dim);
  const bool large = p.product && p.element_size <= 4 && p.anchors >= 64 && p.dim >= 32 && work >= 0x1p31;
  if (!large || p.candidates > INT32_MAX) return Screen::kTiles;
  if (screens.has(Screen::kWgmma) && gpu.capability == 90) return Screen::kWgmma;
  // mma.sync is the whole matrix unit up to Ada, and a part of Hopper's.
  const bool mma = screens.has(Screen::kMma) && gpu.capability >= 80;
  if (screens.has(Screen::kBlas) && (gpu.capability >= 90 || !mma)) return Screen::kBlas;
  return mma ? Screen::kMma : Screen::kTiles;
}

struct LargePlan {
  Screen screen = Screen::kBlas;
  int64_t anchor_chunk = 2048, candidate_chunk = 4096;  // 32 MB of products
  int capacity = 128;                                   // of a row's list of candidates to rescore
  int padded = 64;                                      // columns of a packed row
  bool keep_counts = false;                             // of all rows, for tests
};
inline LargePlan plan_large(const LargeProblem& p, Screen screen) {
  LargePlan plan;
  plan.screen = screen;
  int64_t most = screen == Screen::kBlas ? 2048 : screen == Screen::kMma ? 8192 : 16384;
  // Of semihard candidates all are listed whose score is too near the positive's to tell on which side they are.
  if (p.semihard) plan.capacity = 2048, most = 1024;
  plan.anchor_chunk = std::clamp<int64_t>(p.anchors, 1, most);
  plan.candidate_chunk = std::clamp<int64_t>(p.candidates, 1, plan.candidate_chunk);
  plan.padded = static_cast<int>(ceil_div(std::max<int64_t>(p.dim, 1), 64) * 64);
  return plan;
}

}  // namespace tla
