// bfloat16 products on the AMX matrix unit, and the scan of their scores: a screen, which decides nothing. With |r| the
// norm of what rounding took from a row, a product is wrong by at most |a| |r_c| + |r_a| |c| + |r_a| |r_c|
// (Cauchy-Schwarz) beside the additions' own rounding; packing measures |r|. Only where `amx_in_use()` (row_kernels.h).
#pragma once

#include <cstdint>

namespace tla::cpu::amx {

inline constexpr int64_t kPanel = 32;  // rows of either side that are multiplied at a time

// Elements a packed panel takes.
inline int64_t panel_size(int64_t d) { return (d + 31) / 32 * 32 * kPanel; }

// Round `count` <= kPanel rows to a panel; rows and columns beyond the end are zeros. Anchors are laid out in pairs of
// columns, one anchor a lane, so that scores come out with anchors side by side. `residuals` gets the rows' |r|^2.
void pack_candidates(const float* rows, int64_t stride, int64_t count, int64_t d, uint16_t* panel, float* residuals);
void pack_anchors(const float* rows, int64_t stride, int64_t count, int64_t d, uint16_t* panel, float* residuals);

// Sets up this thread's tiles for as long as it lives.
class Session {
 public:
  Session();
  ~Session();
  Session(const Session&) = delete;
};

// scores[j * ld + i] = <anchor i, candidate j> for a panel of candidates and `panels` panels of anchors.
void multiply(const uint16_t* candidates, const uint16_t* anchors, int64_t panels, int64_t d, float* scores,
              int64_t ld);

// Limits of anchors side by side, as in Scan, and by how much each grows with a product's relative error.
struct Limits {
  const float *low, *high, *scale;
  const int32_t *code, *equal;  // equal: -1 or 0
};

// The anchors for which a candidate's score, offset + weight * s[i] (|s[i]| where `absolute`), is a hit, in ascending
// order into `hits`; returns their number. `below` widens the lower limits beside `error` times the anchors' scales.
int64_t scan(const Limits& limits, const float* s, int64_t n, float offset, float weight, float error, float below,
             int32_t code, bool absolute, int32_t* hits);

}  // namespace tla::cpu::amx
