// Which way a large CUDA search goes, and in what pieces: pure host code, reachable from Python through `_build_info`.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "plan.h"

namespace tla {

// What a search goes by: tiles of float32 sums, or a screen by half-precision products that stay in registers
// (mma.sync), or stand in memory, of a chunk of anchors and one of candidates at a time (a BLAS).
enum class Screen { kTiles, kMma, kBlas };
inline constexpr std::string_view kScreens[] = {"tiles", "mma", "blas"};

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

 private:
  unsigned bits_ = 1;
};

struct LargeProblem {
  int64_t anchors = 0, candidates = 0, dim = 0, element_size = 4;
  bool product = true;  // the metric has a matrix form, and the search is not of a pick at random
};

// Packing, a screen and rescoring are several launches, which arithmetic pays for; few anchors read each candidate too
// seldom to pay for its packed copy.
inline Screen choose_screen(const LargeProblem& p, const Screens& screens, Gpu gpu) {
  const double work = static_cast<double>(p.anchors) * static_cast<double>(p.candidates) * static_cast<double>(p.dim);
  const bool large = p.product && p.element_size <= 4 && p.anchors >= 64 && work >= 0x1p31;
  if (!large || p.candidates > INT32_MAX) return Screen::kTiles;
  // mma.sync is the whole matrix unit up to Ada, and a part of Hopper's.
  if (screens.has(Screen::kBlas) && (gpu.capability >= 90 || !screens.has(Screen::kMma))) return Screen::kBlas;
  return screens.has(Screen::kMma) ? Screen::kMma : Screen::kTiles;
}

struct LargePlan {
  Screen screen = Screen::kBlas;
  int64_t anchor_chunk = 2048, candidate_chunk = 4096;  // 32 MB of products
  int capacity = 64;                                    // of a row's list of candidates to rescore
  int padded = 64;                                      // columns of a packed row
  bool keep_counts = false;                             // of all rows, for tests
};
inline LargePlan plan_large(const LargeProblem& p, Screen screen) {
  LargePlan plan;
  plan.screen = screen;
  plan.anchor_chunk = std::clamp<int64_t>(p.anchors, 1, screen == Screen::kBlas ? 2048 : 8192);
  plan.candidate_chunk = std::clamp<int64_t>(p.candidates, 1, plan.candidate_chunk);
  plan.padded = static_cast<int>(ceil_div(std::max<int64_t>(p.dim, 1), 64) * 64);
  return plan;
}

}  // namespace tla
