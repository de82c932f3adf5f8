// Rows packed as integers, each in steps of its own: Traits has the integers of a line, `line`, and how large they get,
// `most(d)`, of rows of d columns.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

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

  // Calls line(k, whole) for the columns from k on of each cache line, `whole` where all of them are there.
  template <class OfLine>
  [[gnu::always_inline]] static void for_lines(int64_t d, const OfLine& line) {
    int64_t k = 0;
    for (; k + kColumns <= d; k += kColumns) line(k, std::true_type{});
    if (k < d) line(k, std::false_type{});
  }
  template <Type kType, class IsWhole>
  [[gnu::always_inline]] static Floats load_part(const char* row, int64_t at, int64_t d, IsWhole) {
    if constexpr (IsWhole::value) return load<kType>(row, at);
    return load_some<kType>(row, at, d);
  }

  // A row's passes stand apart, so that those of several rows can follow each other: a pass ends in sums that the next
  // one waits for.
  struct Row {
    const char* data;
    float scale, furthest;  // the largest element of what is rounded
  };

  template <Type kType>
  static void measure(Row& row, int64_t d, bool unit, Facts& facts, int64_t i) {
    Floats squares[kParts] = {}, most[kParts] = {};
    for_lines(d, [&](int64_t k, auto whole) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int64_t p = 0; p < kParts; ++p) {
        const Floats x = load_part<kType>(row.data, k + kLanes * p, d, whole);
        squares[p] = fmadd(x, x, squares[p]);
        most[p] = larger(most[p], absolute(x));
      }
    });
    facts.square[i] = total(squares);
    row.scale = unit ? inverse_norm(facts.square[i]) : 1;
    row.furthest = row.scale * largest(most);
    facts.size[i] = row.scale * row.scale * facts.square[i];
    facts.along[i] = 0;
  }

  template <Type kType>
  static void measure_centered(Row& row, const float* center, int64_t d, Facts& facts, int64_t i) {
    const Floats scale = all(row.scale);
    Floats most[kParts] = {}, size[kParts] = {}, along[kParts] = {};
    for_lines(d, [&](int64_t k, auto whole) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int64_t p = 0; p < kParts; ++p) {
        const Floats mean = load(center + k + kLanes * p);
        const Floats v = fmsub(load_part<kType>(row.data, k + kLanes * p, d, whole), scale, mean);
        most[p] = larger(most[p], absolute(v));
        size[p] = fmadd(v, v, size[p]);
        along[p] = fmadd(v, mean, along[p]);
      }
    });
    row.furthest = largest(most);
    facts.size[i] = total(size);
    facts.along[i] = total(along);
  }

  // Columns of a cache line lie as packing leaves them, on both sides alike.
  template <Type kType, bool kCentered, class Store>
  static void round(const Row& row, const char* later, const float* center, int64_t d, Facts& facts, int64_t i,
                    const Store& store) {
    // What is smaller, and squares of steps that underflow, is within ScreenErrors::smallest.
    const bool some = row.furthest >= 1e-30f;
    const float step = some ? row.furthest / Traits::most(d) : 0;
    const Floats scale = all(row.scale), steps = all(some ? Traits::most(d) / row.furthest : 0);
    const Floats scaled = multiply(scale, steps);
    Floats lost[kParts] = {};
    typename Traits::Sum sum;
    for_lines(d, [&](int64_t k, auto whole) __attribute__((always_inline)) {
      fetch<kType, kColumns>(later, k);
      Ints part[kParts];
#pragma GCC unroll 4
      for (int64_t p = 0; p < kParts; ++p) {
        const Floats x = load_part<kType>(row.data, k + kLanes * p, d, whole);
        Floats t = multiply(x, scaled);
        if constexpr (kCentered) t = multiply(fmsub(x, scale, load(center + k + kLanes * p)), steps);
        part[p] = nearest(t);
        const Floats rest = beyond_nearest(t, part[p]);
        lost[p] = fmadd(rest, rest, lost[p]);
      }
      const Line line = Traits::line(part);
      sum.add(line);
      store(line, i, k / kColumns);
    });
    facts.lost[i] = some ? step * step * total(lost) : facts.size[i];
    facts.scale[i] = step;
    facts.sum[i] = sum.total();
  }

  template <Type kType, class Store>
  static void pack_as(const Rows& rows, const Center& center, Facts& facts, const Store& store) {
    constexpr int64_t kTogether = 4;  // rows: the next ones are fetched while these are rounded
    const auto data = [&](int64_t i) { return rows.data + i * rows.stride; };
    std::memset(facts.sum, 0, sizeof(facts.sum));
    for (int64_t first = 0; first < rows.count; first += kTogether) {
      const int64_t count = std::min(kTogether, rows.count - first);
      Row row[kTogether];
      for (int64_t n = 0; n < count; ++n) {
        row[n].data = data(first + n);
        measure<kType>(row[n], rows.d, center.unit, facts, first + n);
      }
      for (int64_t n = 0; n < count && center.mean; ++n)
        measure_centered<kType>(row[n], center.mean, rows.d, facts, first + n);
      const auto round_row = center.mean ? round<kType, true, Store> : round<kType, false, Store>;
      for (int64_t n = 0; n < count; ++n)
        round_row(row[n], data(first + n + kTogether), center.mean, rows.d, facts, first + n, store);
    }
    for (int64_t i = rows.count; i < kPanel; ++i)
      for (int64_t n = 0; n * kColumns < rows.d; ++n) store(no_line(), i, n);
  }
};

template <class Format, class Store>
void pack(const Rows& rows, const Center& center, char* panel, Facts& facts) {
  const Store store{panel, (rows.d + Format::kColumns - 1) / Format::kColumns};
  if (rows.type == Type::kFloat32)
    Format::template pack_as<Type::kFloat32>(rows, center, facts, store);
  else if (rows.type == Type::kBFloat16)
    Format::template pack_as<Type::kBFloat16>(rows, center, facts, store);
  else
    Format::template pack_as<Type::kFloat16>(rows, center, facts, store);
}

}  // namespace
}  // namespace tla::cpu::screen
