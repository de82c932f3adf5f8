// AVX-512 VNNI: products of integers of 8 bits, a row's in steps of its own, added up without error.
#include "screen_pack.h"
#include "screen_scan.h"

namespace tla::cpu::screen {
namespace {

struct Int8 {
  static constexpr int64_t kColumns = 64, kParts = 4;

  // Of 16 columns from at on.
  template <Type kType>
  [[gnu::always_inline]] static __m512 load_part(const char* row, int64_t at, int64_t d) {
    return load<kType>(row, at, at + 16 <= d ? 0xffff : mask(d - at));
  }

  // Parts of a line are added up apart, so that none waits for another.
  static float total(const __m512 (&parts)[kParts]) {
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(parts[0], parts[1]), _mm512_add_ps(parts[2], parts[3])));
  }
  static float largest(const __m512 (&parts)[kParts]) {
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(parts[0], parts[1]), _mm512_max_ps(parts[2], parts[3])));
  }

  // Columns of a cache line lie as packing leaves them, on both sides alike.
  template <Type kType, bool kCentered, class Store>
  static void pack_row(const char* row, const char* later, int64_t d, const Center& center, Facts& facts, int64_t i,
                       const Store& store) {
    __m512 squares[kParts] = {}, most[kParts] = {}, lost[kParts] = {};
    for (int64_t k = 0; k < d; k += kColumns)
      for (int64_t p = 0; p < kParts; ++p) {
        const __m512 x = load_part<kType>(row, k + 16 * p, d);
        squares[p] = _mm512_fmadd_ps(x, x, squares[p]);
        most[p] = _mm512_max_ps(most[p], _mm512_abs_ps(x));
      }
    facts.square[i] = total(squares);
    const float by = center.unit ? inverse_norm(facts.square[i]) : 1;
    const __m512 scale = _mm512_set1_ps(by);
    float furthest = by * largest(most);
    facts.size[i] = by * by * facts.square[i];
    facts.along[i] = 0;
    if constexpr (kCentered) {
      __m512 size[kParts] = {}, along[kParts] = {};
      for (__m512& part : most) part = _mm512_setzero_ps();
      for (int64_t k = 0; k < d; k += kColumns)
        for (int64_t p = 0; p < kParts; ++p) {
          const __m512 mean = _mm512_loadu_ps(center.mean + k + 16 * p);
          const __m512 v = _mm512_fmsub_ps(load_part<kType>(row, k + 16 * p, d), scale, mean);
          most[p] = _mm512_max_ps(most[p], _mm512_abs_ps(v));
          size[p] = _mm512_fmadd_ps(v, v, size[p]);
          along[p] = _mm512_fmadd_ps(v, mean, along[p]);
        }
      furthest = largest(most);
      facts.size[i] = total(size);
      facts.along[i] = total(along);
    }
    // What is smaller, and squares of steps that underflow, is within ScreenErrors::smallest.
    const bool some = furthest >= 1e-30f;
    const float step = some ? furthest / 127 : 0;
    const __m512 steps = _mm512_set1_ps(some ? 127 / furthest : 0), scaled = _mm512_mul_ps(scale, steps);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t k = 0; k < d; k += kColumns) {
      __m512i part[kParts];
      for (int64_t p = 0; p < kParts; ++p) {
        const __m512 x = load_part<kType>(row, k + 16 * p, d);
        __m512 t = _mm512_mul_ps(x, scaled);
        if constexpr (kCentered)
          t = _mm512_mul_ps(_mm512_fmsub_ps(x, scale, _mm512_loadu_ps(center.mean + k + 16 * p)), steps);
        part[p] = _mm512_cvtps_epi32(t);
        const __m512 rest = _mm512_sub_ps(t, _mm512_cvtepi32_ps(part[p]));
        lost[p] = _mm512_fmadd_ps(rest, rest, lost[p]);
      }
      const __m512i line =
          _mm512_packs_epi16(_mm512_packs_epi32(part[0], part[1]), _mm512_packs_epi32(part[2], part[3]));
      sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), line);
      fetch<kType, kColumns>(later, k);
      store(line, i, k / kColumns);
    }
    facts.lost[i] = some ? step * step * total(lost) : facts.size[i];
    facts.scale[i] = step;
    facts.sum[i] = _mm512_reduce_add_epi32(sum);
  }
};

// The instruction takes one side's bytes without a sign: anchors have kShift added, which a candidate's sum takes away.
constexpr int kShift = 128;

struct StoreShiftedLane {
  char* panel;
  void operator()(__m512i line, int64_t row, int64_t n) const {
    StoreLane{panel}(_mm512_xor_si512(line, _mm512_set1_epi8(static_cast<char>(kShift))), row, n);
  }
};

class Product {
 public:
  Product(const Anchors& a, const Candidates& c) : a_(a), c_(c), lines_((a.d + 63) / 64) {}

  int64_t lines() const { return lines_; }

  template <class Between>
  void multiply(int64_t panel, float* scores, const Between&) const {
    constexpr int64_t kRows = 8;
    const char* const anchors = a_.rows + panel * lines_ * 2 * kTile;
    const __m512 scale[2] = {_mm512_loadu_ps(a_.scale + panel * kPanel),
                             _mm512_loadu_ps(a_.scale + panel * kPanel + 16)};
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
        for (int64_t h = 0; h < 2; ++h)
          _mm512_store_ps(scores + (j + r) * kPanel + 16 * h, _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][h]), scale[h]));
    }
  }

 private:
  const Anchors& a_;
  const Candidates& c_;
  const int64_t lines_;
};

}  // namespace

const Unit kVnni{2, Int8::kColumns, 16, pack<Int8, StoreRow>, pack<Int8, StoreShiftedLane>, scan<Product>};

}  // namespace tla::cpu::screen
