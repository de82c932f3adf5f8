// The AMX matrix unit: products of bfloat16. Compiled for it, and for AVX-512 with bfloat16.
#include "screen_pack.h"
#include "screen_scan.h"

namespace tla::cpu::screen {
namespace {

struct Bfloat16 {
  static constexpr int64_t kColumns = 32;

  // Calls chunk(k, low, high) for 32 columns from k on, of which the masks say what is there.
  template <class Chunk>
  [[gnu::always_inline]] static void for_chunks(int64_t d, const Chunk& chunk) {
    int64_t k = 0;
    for (; k + 32 <= d; k += 32) chunk(k, 0xffff, 0xffff);
    if (k < d) chunk(k, mask(d - k), mask(d - k - 16));
  }

  // bfloat16 without a center is multiplied as it is and loses nothing: directions are a matter of the scale.
  template <class Store>
  static void pack_as_it_is(const char* row, const char* later, int64_t d, const Center& center, Facts& facts,
                            int64_t i, const Store& store) {
    __m512 even = _mm512_setzero_ps(), odd = even;
    for_chunks(d, [&](int64_t k, __mmask16 first, __mmask16 second) __attribute__((always_inline)) {
      const __m512i bits = _mm512_maskz_loadu_epi16(_mm512_kunpackw(second, first), row + 2 * k);
      store(bits, i, k / kColumns);
      fetch<Type::kBFloat16, kColumns>(later, k);
      const __m512 low = widen(_mm512_castsi512_si256(bits)), high = widen(_mm512_extracti64x4_epi64(bits, 1));
      even = _mm512_fmadd_ps(low, low, even);
      odd = _mm512_fmadd_ps(high, high, odd);
    });
    const float square = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
    facts.square[i] = square;
    facts.size[i] = !center.unit ? square : square < 1e-24f ? 0 : 1;
    facts.lost[i] = facts.along[i] = 0;
    facts.scale[i] = center.unit ? inverse_norm(square) : 1;
  }

  template <Type kType, bool kCentered, class Store>
  static void pack_row(const char* row, const char* later, int64_t d, const Center& center, Facts& facts, int64_t i,
                       const Store& store) {
    if constexpr (kType == Type::kBFloat16 && !kCentered) return pack_as_it_is(row, later, d, center, facts, i, store);
    __m512 even = _mm512_setzero_ps(), odd = even, size = even, lost = even, along = even;
    for_chunks(d, [&](int64_t k, __mmask16 first, __mmask16 second) __attribute__((always_inline)) {
      const __m512 low = load<kType>(row, k, first), high = load<kType>(row, k + 16, second);
      even = _mm512_fmadd_ps(low, low, even);
      odd = _mm512_fmadd_ps(high, high, odd);
    });
    const float square = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
    const __m512 scale = _mm512_set1_ps(center.unit ? inverse_norm(square) : 1);
    for_chunks(d, [&](int64_t k, __mmask16 first, __mmask16 second) __attribute__((always_inline)) {
      __m512 low = _mm512_mul_ps(load<kType>(row, k, first), scale);
      __m512 high = _mm512_mul_ps(load<kType>(row, k + 16, second), scale);
      if constexpr (kCentered) {
        const __m512 mean_low = _mm512_loadu_ps(center.mean + k), mean_high = _mm512_loadu_ps(center.mean + k + 16);
        low = _mm512_sub_ps(low, mean_low);
        high = _mm512_sub_ps(high, mean_high);
        along = _mm512_fmadd_ps(low, mean_low, _mm512_fmadd_ps(high, mean_high, along));
      }
      const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(high, low);
      store(rounded, i, k / kColumns);
      fetch<kType, kColumns>(later, k);
      const __m512 lost_low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(rounded)));
      const __m512 lost_high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64(rounded, 1)));
      size = _mm512_fmadd_ps(low, low, _mm512_fmadd_ps(high, high, size));
      lost = _mm512_fmadd_ps(lost_low, lost_low, _mm512_fmadd_ps(lost_high, lost_high, lost));
    });
    facts.square[i] = square;
    facts.size[i] = _mm512_reduce_add_ps(size);
    facts.lost[i] = _mm512_reduce_add_ps(lost);
    facts.along[i] = kCentered ? _mm512_reduce_add_ps(along) : 0;
    facts.scale[i] = 1;
  }
};

// This thread's tiles, for as long as it lives.
class Session {
 public:
  Session() {
    struct alignas(64) Config {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int t = 0; t < 8; ++t) config.bytes[t] = 64, config.rows[t] = 16;
    // The compiler does not know that tile loads read memory.
    asm volatile("" ::: "memory");
    _tile_loadconfig(&config);
  }
  ~Session() { _tile_release(); }
};

// The unit multiplies a panel while the scores of the one before are scanned. Anchors' scales are 1.
class Product {
 public:
  Product(const Anchors& a, const Candidates& c) : a_(a), c_(c), lines_((a.d + 31) / 32) {}

  int64_t lines() const { return lines_; }

  template <class Between>
  [[gnu::always_inline]] void multiply(int64_t panel, float* scores, const Between& between) const {
    const char *left = c_.rows, *right = a_.rows + panel * lines_ * 2 * kTile;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < lines_; ++k, left += 2 * kTile, right += 2 * kTile) {
      // Anchors come from the second-level cache, past the first, which candidates fill.
      _tile_stream_loadd(6, right, 64);
      _tile_loadd(4, left, 64);
      _tile_stream_loadd(7, right + kTile, 64);
      _tile_loadd(5, left + kTile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      between();
    }
    _tile_stored(0, scores, 4 * kPanel);
    _tile_stored(1, scores + 16, 4 * kPanel);
    _tile_stored(2, scores + 16 * kPanel, 4 * kPanel);
    _tile_stored(3, scores + 16 * kPanel + 16, 4 * kPanel);
    asm volatile("" ::: "memory");
  }

 private:
  const Anchors& a_;
  const Candidates& c_;
  const int64_t lines_;
  const Session session_;
};

}  // namespace

const Unit kAmx{
    1, Bfloat16::kColumns, 8, pack<Bfloat16, StoreRow<kPanel>>, pack<Bfloat16, StoreLane<kPanel>>, scan<Product>};

}  // namespace tla::cpu::screen
