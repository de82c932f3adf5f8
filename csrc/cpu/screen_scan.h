// How the screens look through a panel's scores; each compiles it for its own instruction set.
#pragma once

#include "screen.h"
#include "screen_vector.h"

namespace tla::cpu::screen {
namespace {

// The scan of a panel's scores, a candidate at a time, so that the work can stand between multiplications.
template <bool kLimited>
class Scanner {
  static constexpr int kParts = kPanel / kLanes;

 public:
  Scanner(const Anchors& a, const Candidates& c, int64_t panel, const float* scores)
      : c_(c),
        scores_(scores),
        first_(panel * kPanel),
        equal_(a.equal[panel]),
        alive_(a.alive[panel]),
        keep_(all(static_cast<int32_t>(a.keep))),
        flip_(all(static_cast<int32_t>(a.flip))) {
    for (int p = 0; p < kParts; ++p) {
      const int64_t i = first_ + kLanes * p;
      offset_[p] = load(a.offset + i);
      code_[p] = load(a.code + i);
      const Floats by_size = fmadd(load(a.size + i), all(c.by_size), add(load(a.own + i), all(c.rest)));
      const Floats error = fmadd(load(a.lost + i), all(c.by_lost), by_size);
      low_[p] = subtract(load(a.best + i), error);
      if constexpr (kLimited) high_[p] = add(load(a.limit + i), error);
    }
  }

  [[gnu::always_inline]] void step() {
    if (candidate_ >= kPanel) return;
    const Floats offset = all(c_.offset[candidate_]), scale = all(c_.scale[candidate_]);
    const Ints code = all(c_.code[candidate_]);
    Mask hit[kParts], same[kParts];
    for (int p = 0; p < kParts; ++p) {
      const Floats sum = fmadd(load(scores_ + candidate_ * kPanel + kLanes * p), scale, add(offset_[p], offset));
      const Floats score = keep_and_flip(sum, keep_, flip_);
      same[p] = equal(code_[p], code);
      hit[p] = not_below(score, low_[p]);
      if constexpr (kLimited) hit[p] = and_not_above(hit[p], score, high_[p]);
    }
    masks_[candidate_] = join(hit) & ~(join(same) ^ equal_);
    any_ |= masks_[candidate_];
    ++candidate_;
  }

  int64_t finish(const Anchors& a, Hit* hits) {
    while (candidate_ < kPanel) step();
    if ((any_ & alive_) == 0) return 0;
    int64_t found = 0;
    for (int64_t j = 0; j < kPanel; ++j)
      for (uint32_t mask = masks_[j] & alive_; mask != 0; mask &= mask - 1) {
        const int i = __builtin_ctz(mask);
        const float sum = __builtin_fmaf(scores_[j * kPanel + i], c_.scale[j], a.offset[first_ + i] + c_.offset[j]);
        uint32_t bits;
        std::memcpy(&bits, &sum, 4);
        bits = (bits & a.keep) ^ a.flip;
        Hit& hit = hits[found++];
        std::memcpy(&hit.score, &bits, 4);
        hit.anchor = static_cast<int16_t>(first_ + i);
        hit.candidate = static_cast<int16_t>(j);
      }
    return found;
  }

 private:
  const Candidates& c_;
  const float* scores_;
  const int64_t first_;
  const uint32_t equal_, alive_;
  const Ints keep_, flip_;
  Floats offset_[kParts], low_[kParts], high_[kParts];
  Ints code_[kParts];
  int64_t candidate_ = 0;
  uint32_t any_ = 0, masks_[kPanel];
};

// Product::multiply(panel, scores, between) writes a panel's products, scaled by the anchors, candidate by candidate;
// it calls `between` once for each 64 bytes of a row, if work beside its own costs it nothing.
template <bool kLimited, class Product>
int64_t scan_panels(const Anchors& a, const Candidates& c, float* scratch, Hit* hits) {
  const Product product(a, c);
  const int64_t scans = (kPanel + product.lines() - 1) / product.lines();
  const auto half = [&](int64_t panel) { return scratch + panel % 2 * kPanel * kPanel; };
  int64_t found = 0;
  product.multiply(0, half(0), [] {});
  for (int64_t panel = 0; panel < a.panels; ++panel) {
    Scanner<kLimited> scanner(a, c, panel, half(panel));
    if (panel + 1 < a.panels)
      product.multiply(panel + 1, half(panel + 1), [&]() __attribute__((always_inline)) {
        for (int64_t n = 0; n < scans; ++n) scanner.step();
      });
    found += scanner.finish(a, hits + found);
  }
  return found;
}

template <class Product>
int64_t scan(const Anchors& anchors, const Candidates& candidates, float* scratch, Hit* hits) {
  return anchors.limit ? scan_panels<true, Product>(anchors, candidates, scratch, hits)
                       : scan_panels<false, Product>(anchors, candidates, scratch, hits);
}

}  // namespace
}  // namespace tla::cpu::screen
