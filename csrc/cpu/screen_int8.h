// Rows packed as integers of 8 bits.
#pragma once

#include "screen_integers.h"

namespace tla::cpu::screen {
namespace {

struct Int8 {
  static constexpr float most(int64_t) { return 127; }

  static Line line(const Ints (&part)[4]) {
    return _mm512_packs_epi16(_mm512_packs_epi32(part[0], part[1]), _mm512_packs_epi32(part[2], part[3]));
  }

  struct Sum {
    __m512i sums = _mm512_setzero_si512();
    void add(Line line) { sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), line); }
    int32_t total() const { return _mm512_reduce_add_epi32(sums); }
  };
};
using Format = Whole<Int8>;

}  // namespace
}  // namespace tla::cpu::screen
