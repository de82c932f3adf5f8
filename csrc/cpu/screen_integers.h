// Rows packed as integers, each in steps of its own: Traits has the integers of a line, `line`, and how large they get,
// `most(d)`, of rows of d columns.
#pragma once

#include "screen_pack.h"

namespace tla::cpu::screen {
namespace {

template <class Traits>
struct Whole {
  static constexpr int64_t kParts = 4, kColumns = kParts * kLanes;  // of a line

  // Parts of a line are added up apart, so that none waits for another.
  static float total(const Floats (&parts)[kParts]) {
    return sum_of(add(add(parts[0], parts[1]), add(parts[2], parts[3])));
  }
  static float largest(const Floats (&parts)[kParts]) {
    return largest_of(larger(larger(parts[0], parts[1]), larger(parts[2], parts[3])));
  }

  // Columns of a cache line lie as packing leaves them, on both sides alike.
  template <Type kType, bool kCentered, class Store>
  static void pack_row(const char* row, const char* later, int64_t d, const Center& center, Facts& facts, int64_t i,
                       const Store& store) {
    Floats squares[kParts] = {}, most[kParts] = {}, lost[kParts] = {};
    for (int64_t k = 0; k < d; k += kColumns)
      for (int64_t p = 0; p < kParts; ++p) {
        const Floats x = load_some<kType>(row, k + kLanes * p, d);
        squares[p] = fmadd(x, x, squares[p]);
        most[p] = larger(most[p], absolute(x));
      }
    facts.square[i] = total(squares);
    const float by = center.unit ? inverse_norm(facts.square[i]) : 1;
    const Floats scale = all(by);
    float furthest = by * largest(most);
    facts.size[i] = by * by * facts.square[i];
    facts.along[i] = 0;
    if constexpr (kCentered) {
      Floats size[kParts] = {}, along[kParts] = {};
      for (Floats& part : most) part = Floats{};
      for (int64_t k = 0; k < d; k += kColumns)
        for (int64_t p = 0; p < kParts; ++p) {
          const Floats mean = load(center.mean + k + kLanes * p);
          const Floats v = fmsub(load_some<kType>(row, k + kLanes * p, d), scale, mean);
          most[p] = larger(most[p], absolute(v));
          size[p] = fmadd(v, v, size[p]);
          along[p] = fmadd(v, mean, along[p]);
        }
      furthest = largest(most);
      facts.size[i] = total(size);
      facts.along[i] = total(along);
    }
    // What is smaller, and squares of steps that underflow, is within ScreenErrors::smallest.
    const bool some = furthest >= 1e-30f;
    const float step = some ? furthest / Traits::most(d) : 0;
    const Floats steps = all(some ? Traits::most(d) / furthest : 0), scaled = multiply(scale, steps);
    typename Traits::Sum sum;
    for (int64_t k = 0; k < d; k += kColumns) {
      Ints part[kParts];
      for (int64_t p = 0; p < kParts; ++p) {
        const Floats x = load_some<kType>(row, k + kLanes * p, d);
        Floats t = multiply(x, scaled);
        if constexpr (kCentered) t = multiply(fmsub(x, scale, load(center.mean + k + kLanes * p)), steps);
        part[p] = nearest(t);
        const Floats rest = subtract(t, to_floats(part[p]));
        lost[p] = fmadd(rest, rest, lost[p]);
      }
      const Line line = Traits::line(part);
      sum.add(line);
      fetch<kType, kColumns>(later, k);
      store(line, i, k / kColumns);
    }
    facts.lost[i] = some ? step * step * total(lost) : facts.size[i];
    facts.scale[i] = step;
    facts.sum[i] = sum.total();
  }
};

}  // namespace
}  // namespace tla::cpu::screen
