// AVX-512 VNNI: products of integers of 8 bits, a row's in steps of its own, added up without error.
#include "screen_int8.h"
#include "screen_scan.h"

namespace tla::cpu::screen {
namespace {

// The instruction takes one side's bytes without a sign: anchors have kShift added, which a candidate's sum takes away.
constexpr int kShift = 128;

struct StoreShiftedLane {
  char* panel;
  int64_t lines;
  void operator()(Line line, int64_t row, int64_t n) const {
    StoreLane<kPanel>{panel, lines}(_mm512_xor_si512(line, _mm512_set1_epi8(static_cast<char>(kShift))), row, n);
  }
};

class Product {
 public:
  Product(const Anchors& a, const Candidates& c) : a_(a), c_(c), lines_((a.d + 63) / 64) {}

  int64_t lines() const { return lines_; }

  template <class Between>
  void multiply(int64_t panel, int32_t* products, const Between&) const {
    constexpr int64_t kRows = 8;
    const char* const anchors = a_.rows + panel * lines_ * 2 * kTile;
    for (int64_t j = 0; j < kPanel; j += kRows) {
      __m512i sums[kRows][2];
      for (int64_t r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm512_set1_epi32(-kShift * c_.sum[j + r]);
      const char *left = c_.rows + j * 64, *right = anchors;
      for (int64_t n = 0; n < lines_; ++n, left += 2 * kTile, right += 2 * kTile)
        for (int64_t u = 0; u < 64; u += 4) {
          const __m512i first = _mm512_load_si512(right + 16 * u), second = _mm512_load_si512(right + kTile + 16 * u);
          for (int64_t r = 0; r < kRows; ++r) {
            int32_t unit;
            std::memcpy(&unit, left + 64 * r + u, 4);
            const __m512i candidate = _mm512_set1_epi32(unit);
            sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], first, candidate);
            sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], second, candidate);
          }
        }
      for (int64_t r = 0; r < kRows; ++r)
        for (int64_t h = 0; h < 2; ++h) _mm512_store_si512(products + (j + r) * kPanel + 16 * h, sums[r][h]);
    }
  }

 private:
  const Anchors& a_;
  const Candidates& c_;
  const int64_t lines_;
};

}  // namespace

const Unit kVnni{
    2, Format::kColumns, 16, pack<Format, StoreRow<kPanel>>, pack<Format, StoreShiftedLane>, scan<Product>};

}  // namespace tla::cpu::screen
