// The AMX matrix unit: products of integers of 8 bits.
#include "screen_int8.h"
#include "screen_scan.h"

namespace tla::cpu::screen {
namespace {

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

// The unit multiplies a panel while the products of the one before are scanned.
class Product {
 public:
  Product(const Anchors& a, const Candidates& c) : a_(a), c_(c), lines_((a.d + 63) / 64) {}

  int64_t lines() const { return lines_; }

  template <class Between>
  [[gnu::always_inline]] void multiply(int64_t panel, int32_t* products, const Between& between) const {
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
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
      between();
    }
    _tile_stored(0, products, 4 * kPanel);
    _tile_stored(1, products + 16, 4 * kPanel);
    _tile_stored(2, products + 16 * kPanel, 4 * kPanel);
    _tile_stored(3, products + 16 * kPanel + 16, 4 * kPanel);
    asm volatile("" ::: "memory");
  }

 private:
  const Anchors& a_;
  const Candidates& c_;
  const int64_t lines_;
  const Session session_;
};

}  // namespace

const Unit kAmx{4, Format::kColumns, 8, pack<Format, StoreRow<kPanel>>, pack<Format, StoreLane<kPanel>>, scan<Product>};

}  // namespace tla::cpu::screen
