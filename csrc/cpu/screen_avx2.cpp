// AVX2: products of integers of 16 bits, a row's in steps of its own, so small that their sums fit into 32 bits.
#include <algorithm>

#include "screen_integers.h"
#include "screen_scan.h"

namespace tla::cpu::screen {
namespace {

struct Int16 {
  // No sum of d products is beyond 2^31 - 1.
  static float most(int64_t d) {
    return static_cast<float>(std::min<int64_t>(INT16_MAX, static_cast<int64_t>(std::sqrt(2147483647.0 / d))));
  }

  static Line line(const Ints (&part)[4]) {
    return {_mm256_packs_epi32(part[0], part[1]), _mm256_packs_epi32(part[2], part[3])};
  }

  // Nothing is shifted.
  struct Sum {
    void add(Line) {}
    int32_t total() const { return 0; }
  };
};
using Format = Whole<Int16>;

constexpr int64_t kRows = 4, kTogether = 16;  // candidates and anchors at a time: of sixteen registers, eight add up

class Product {
 public:
  Product(const Anchors& a, const Candidates& c) : a_(a), c_(c), lines_((a.d + 31) / 32) {}

  int64_t lines() const { return lines_; }

  template <class Between>
  void multiply(int64_t panel, int32_t* products, const Between&) const {
    // Half the anchors stay in the first-level cache while all candidates of the panel pass.
    for (int64_t half = 0; half < kPanel; half += kTogether) {
      const char* const anchors = a_.rows + (panel * kPanel + half) * lines_ * 64;
      for (int64_t j = 0; j < kPanel; j += kRows) {
        Ints sums[kRows][2];
        for (int64_t r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
        const char *left = c_.rows + j * lines_ * 64, *right = anchors;
        for (int64_t n = 0; n < lines_; ++n, left += kRows * 64, right += kTogether * 64)
#pragma GCC unroll 16
          for (int64_t u = 0; u < 64; u += 4) {
            const auto* const units = reinterpret_cast<const Ints*>(right + 16 * u);
            const Ints first = _mm256_load_si256(units), second = _mm256_load_si256(units + 1);
            for (int64_t r = 0; r < kRows; ++r) {
              int32_t unit;
              std::memcpy(&unit, left + 64 * r + u, 4);
              const Ints candidate = all(unit);
              sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(first, candidate));
              sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(second, candidate));
              // Keeps the compiler from multiplying all before it adds, for which there are too few registers.
              asm("" : "+x"(sums[r][0]), "+x"(sums[r][1]));
            }
          }
        for (int64_t r = 0; r < kRows; ++r)
          for (int64_t h = 0; h < 2; ++h) store(products + (j + r) * kPanel + half + 8 * h, sums[r][h]);
      }
    }
  }

 private:
  const Anchors& a_;
  const Candidates& c_;
  const int64_t lines_;
};

}  // namespace

const Unit kAvx2{
    3, Format::kColumns, 20, pack<Format, StoreRow<kRows>>, pack<Format, StoreLane<kTogether>>, scan<Product>};

}  // namespace tla::cpu::screen
