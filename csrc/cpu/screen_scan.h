// How the screens look through a panel's scores; each compiles it for its own instruction set.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "screen.h"

namespace tla::cpu::screen {
namespace {

// The scan of a panel's scores, a candidate at a time, so that the work can stand between multiplications.
template <bool kLimited>
class Scanner {
 public:
  Scanner(const Anchors& a, const Candidates& c, int64_t panel, const float* scores)
      : c_(c),
        scores_(scores),
        first_(panel * kPanel),
        equal_(a.equal[panel]),
        alive_(a.alive[panel]),
        keep_(_mm512_set1_epi32(static_cast<int>(a.keep))),
        flip_(_mm512_set1_epi32(static_cast<int>(a.flip))) {
    for (int h = 0; h < 2; ++h) {
      const int64_t i = first_ + 16 * h;
      offset_[h] = _mm512_loadu_ps(a.offset + i);
      code_[h] = _mm512_loadu_si512(a.code + i);
      const __m512 by_size = _mm512_fmadd_ps(_mm512_loadu_ps(a.size + i), _mm512_set1_ps(c.by_size),
                                             _mm512_add_ps(_mm512_loadu_ps(a.own + i), _mm512_set1_ps(c.rest)));
      const __m512 error = _mm512_fmadd_ps(_mm512_loadu_ps(a.lost + i), _mm512_set1_ps(c.by_lost), by_size);
      low_[h] = _mm512_sub_ps(_mm512_loadu_ps(a.best + i), error);
      if constexpr (kLimited) high_[h] = _mm512_add_ps(_mm512_loadu_ps(a.limit + i), error);
    }
  }

  [[gnu::always_inline]] void step() {
    if (candidate_ >= kPanel) return;
    const __m512 offset = _mm512_set1_ps(c_.offset[candidate_]), scale = _mm512_set1_ps(c_.scale[candidate_]);
    const __m512i code = _mm512_set1_epi32(c_.code[candidate_]);
    __mmask16 hit[2], same[2];
    for (int h = 0; h < 2; ++h) {
      const __m512 sum = _mm512_fmadd_ps(_mm512_load_ps(scores_ + candidate_ * kPanel + 16 * h), scale,
                                         _mm512_add_ps(offset_[h], offset));
      const __m512 score = _mm512_castsi512_ps(
          _mm512_ternarylogic_epi32(_mm512_castps_si512(sum), keep_, flip_, 0x6a));  // (sum & keep) ^ flip
      same[h] = _mm512_cmpeq_epi32_mask(code_[h], code);
      hit[h] = _mm512_cmp_ps_mask(score, low_[h], _CMP_NLT_UQ);
      if constexpr (kLimited) hit[h] = _mm512_mask_cmp_ps_mask(hit[h], score, high_[h], _CMP_NGT_UQ);
    }
    const uint32_t hits = _mm512_kunpackw(hit[1], hit[0]), equal = _mm512_kunpackw(same[1], same[0]);
    masks_[candidate_] = hits & ~(equal ^ equal_);
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
  const __m512i keep_, flip_;
  __m512 offset_[2], low_[2], high_[2];
  __m512i code_[2];
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
