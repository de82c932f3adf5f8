// A screen of bfloat16 products on the AMX matrix unit: it decides nothing, it rules candidates out. docs/exactness.md
// has the bounds. Rows (for the cosines: their directions) are packed less a center, which takes away what all of them
// have in common, and what rounding takes from them is measured. Only where `amx_in_use()` (row_kernels.h).
#pragma once

#include <cstdint>

#include "../common/options.h"

namespace tla::cpu::amx {

inline constexpr int64_t kPanel = 32;  // rows of either side that are multiplied at a time

inline constexpr int64_t padded(int64_t d) { return (d + 31) / 32 * 32; }

// Rows as they lie in memory: float32, bfloat16 or float16, elements side by side.
struct Rows {
  const char* data = nullptr;
  int64_t stride = 0;  // bytes
  Type type = Type::kFloat32;
  int64_t count = 0, d = 0;
};

struct Center {
  const float* mean;  // padded(d) elements, or null: the origin
  bool unit;          // of directions: rows are divided by their norms first
};

// What packing found of each row x (for the cosines: of its direction), which became v = x - center and then scale *
// v'.
struct Facts {
  float square[kPanel];  // |x|^2
  float size[kPanel];    // |v|^2
  float lost[kPanel];    // |v - v'|^2
  float along[kPanel];   // <center, v>
  float scale[kPanel];   // by which products are multiplied
};

// Elements of a packed panel: kPanel rows, those beyond the end zeros.
inline int64_t panel_size(int64_t d) { return padded(d) * kPanel; }

// bfloat16 that is multiplied as it lies there loses nothing, so directions of such rows are a matter of their scale.
// Panels start on cache lines. Anchors are laid out in pairs of columns, one anchor a lane, so that scores come out
// with anchors side by side.
void pack_candidates(const Rows& rows, const Center& center, uint16_t* panel, Facts& facts);
// Their scale is 1.
void pack_anchors(const Rows& rows, const Center& center, uint16_t* panel, Facts& facts);

// A block of anchors, each array as long as its panels. With sum = scale_c <v'_a, v'_c> + offset_a + offset_c, a score
// is sum, or |sum|, or the negative of these: ((sum as bits) & keep) ^ flip. A score is within own + size * by_size +
// lost * by_lost + rest of the canonical one. A hit is a candidate of the right class with score + error >= best and
// score - error <= limit (where there are limits); a NaN is one always.
struct Anchors {
  int64_t panels, d;
  const uint16_t* rows;
  const float *offset, *size, *lost, *own, *best;
  const float* limit;  // or null
  const int32_t* code;
  const uint32_t *equal, *alive;  // a bit an anchor: whether its class counts (or all others do), whether it can be hit
  uint32_t keep, flip;
};

struct Candidates {
  const uint16_t* rows;
  const float *scale, *offset;
  const int32_t* code;
  float by_size, by_lost, rest;
};

struct Hit {
  float score;
  int16_t anchor, candidate;
};

inline constexpr int64_t kScratch = 2 * kPanel * kPanel;  // floats

// Writes the hits, panel of anchors by panel, and returns their number. `scratch` and panels start on cache lines;
// `hits` has room for all pairs.
int64_t scan(const Anchors& anchors, const Candidates& candidates, float* scratch, Hit* hits);

}  // namespace tla::cpu::amx
