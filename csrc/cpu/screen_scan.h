// How the screens look through a panel's products; each compiles it for its own instruction set.
#pragma once

#include <algorithm>

#include "screen.h"
#include "screen_vector.h"

namespace tla::cpu::screen {
namespace {

// The scan of a panel's products, a candidate at a time, so that the work can stand between multiplications.
template <bool kLimited>
class Scanner {
  static constexpr int kParts = kPanel / kLanes;

 public:
  Scanner(const Anchors& a, const Candidates& c, int64_t panel, const int32_t* sums)
      : c_(c),
        sums_(sums),
        first_(panel * kPanel),
        equal_(a.equal[panel]),
        alive_(a.alive[panel]),
        keep_(all(static_cast<int32_t>(a.keep))),
        flip_(all(static_cast<int32_t>(a.flip))) {
    for (int p = 0; p < kParts; ++p) {
      const int64_t i = first_ + kLanes * p;
      scale_[p] = load(a.scale + i);
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
      const Floats product = multiply(to_floats(load(sums_ + candidate_ * kPanel + kLanes * p)), scale_[p]);
      const Floats score = keep_and_flip(fmadd(product, scale, add(offset_[p], offset)), keep_, flip_);
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
        const float product = static_cast<float>(sums_[j * kPanel + i]) * a.scale[first_ + i];
        const float score = __builtin_fmaf(product, c_.scale[j], a.offset[first_ + i] + c_.offset[j]);
        uint32_t bits;
        std::memcpy(&bits, &score, 4);
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
  const int32_t* sums_;
  const int64_t first_;
  const uint32_t equal_, alive_;
  const Ints keep_, flip_;
  Floats scale_[kParts], offset_[kParts], low_[kParts], high_[kParts];
  Ints code_[kParts];
  int64_t candidate_ = 0;
  uint32_t any_ = 0, masks_[kPanel];
};

// Fetches the rows that are packed next into the second-level cache, some lines at a call.
class Fetcher {
  static constexpr int64_t kMost = 8;  // lines at a call: more would keep loads waiting

 public:
  Fetcher(const Rows& rows, int64_t calls) : rows_(rows), bytes_(rows.d * size_of(rows.type)) {
    const int64_t lines = rows.count * (bytes_ / 64 + 1);
    at_once_ = std::min(kMost, lines / std::max<int64_t>(1, calls) + 1);
  }

  [[gnu::always_inline]] void step() {
    for (int64_t n = 0; n < at_once_ && row_ < rows_.count; ++n) {
      _mm_prefetch(rows_.data + row_ * rows_.stride + at_, _MM_HINT_T1);
      at_ += 64;
      if (at_ >= bytes_) at_ = 0, ++row_;
    }
  }

 private:
  const Rows& rows_;
  const int64_t bytes_;
  int64_t at_once_, row_ = 0, at_ = 0;
};

// Product::multiply(panel, sums, between) writes a panel's products, candidate by candidate; it calls `between` once
// for each 64 bytes of a row, if work beside its own costs it nothing.
template <bool kLimited, class Product>
int64_t scan_panels(const Anchors& a, const Candidates& c, int32_t* scratch, Hit* hits) {
  const Product product(a, c);
  const int64_t scans = (kPanel + product.lines() - 1) / product.lines();
  const auto half = [&](int64_t panel) { return scratch + panel % 2 * kPanel * kPanel; };
  Fetcher fetcher(c.next, (a.panels - 1) * product.lines());
  int64_t found = 0;
  product.multiply(0, half(0), [] {});
  for (int64_t panel = 0; panel < a.panels; ++panel) {
    Scanner<kLimited> scanner(a, c, panel, half(panel));
    if (panel + 1 < a.panels)
      product.multiply(panel + 1, half(panel + 1), [&]() __attribute__((always_inline)) {
        for (int64_t n = 0; n < scans; ++n) scanner.step();
        fetcher.step();
      });
    found += scanner.finish(a, hits + found);
  }
  return found;
}

template <class Product>
int64_t scan(const Anchors& anchors, const Candidates& candidates, int32_t* scratch, Hit* hits) {
  return anchors.limit ? scan_panels<true, Product>(anchors, candidates, scratch, hits)
                       : scan_panels<false, Product>(anchors, candidates, scratch, hits);
}

}  // namespace
}  // namespace tla::cpu::screen
