// A screen of products in few bits: it decides nothing, it rules candidates out. docs/exactness.md has the bounds. Rows
// (for the cosines: their directions) are packed less a center, which takes away what all of them have in common, and
// what rounding takes from them is measured. One file an instruction set implements it; `screen_in_use()`
// (row_kernels.h) is the one to use.
#pragma once

#include <cstdint>

#include "../common/options.h"

namespace tla::cpu::screen {

inline constexpr int64_t kPanel = 32;  // rows of either side that are multiplied at a time

// Columns that are read of a center.
inline constexpr int64_t padded(int64_t d) { return (d + 63) / 64 * 64; }

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
  float lost[kPanel];    // |v - scale * v'|^2
  float along[kPanel];   // <center, v>
  float scale[kPanel];   // by which products are multiplied
  int32_t sum[kPanel];   // of the elements of v', where these are integers
};

// A block of anchors, each array as long as its panels. With sum = scale_a scale_c <v'_a, v'_c> + offset_a + offset_c,
// a score is sum, or |sum|, or the negative of these: ((sum as bits) & keep) ^ flip. A score is within own + size *
// by_size + lost * by_lost + rest of the canonical one. A hit is a candidate of the right class with score + error >=
// best and score - error <= limit (where there are limits); a NaN is one always.
struct Anchors {
  int64_t panels, d;
  const char* rows;
  const float *scale, *offset, *size, *lost, *own, *best;
  const float* limit;  // or null
  const int32_t* code;
  const uint32_t *equal, *alive;  // a bit an anchor: whether its class counts (or all others do), whether it can be hit
  uint32_t keep, flip;
};

struct Candidates {
  const char* rows;
  const float *scale, *offset;
  const int32_t *sum, *code;
  float by_size, by_lost, rest;
  Rows next;  // the rows that are packed next, where they can be fetched meanwhile
};

struct Hit {
  float score;
  int16_t anchor, candidate;
};

inline constexpr int64_t kScratch = 2 * kPanel * kPanel;  // integers

// What an instruction set brings. Panels and `scratch` start on cache lines.
struct Unit {
  int64_t format;   // of its panels, by which packed ones are known; every unit has its own
  int64_t columns;  // of a row in 64 bytes of a panel
  int64_t anchors;  // fewer are searched as fast without it, where candidates have yet to be packed
  // Rows beyond the last one are zeros.
  void (*pack_candidates)(const Rows& rows, const Center& center, char* panel, Facts& facts);
  // One anchor a lane, so that scores come out with anchors side by side.
  void (*pack_anchors)(const Rows& rows, const Center& center, char* panel, Facts& facts);
  // Writes the hits, panel of anchors by panel, and returns their number; `hits` has room for all pairs.
  int64_t (*scan)(const Anchors& anchors, const Candidates& candidates, int32_t* scratch, Hit* hits);

  int64_t panel_bytes(int64_t d) const { return (d + columns - 1) / columns * 64 * kPanel; }
};

// Where the compiler knows such instructions.
extern const Unit kAmx, kVnni, kAvx2;

}  // namespace tla::cpu::screen
