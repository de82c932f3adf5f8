// What a screen knows of rows: bounds on what packing and its products lose (docs/exactness.md derives them), and
// a block of anchors with what the scan compares.
#pragma once

#include "pool.h"
#include "search_state.h"

namespace tla::cpu {

// Bounds in units of |a| |c| (the cosines: of 1), for D columns. u = 2^-24.
struct ScreenErrors {
  double product;   // adding up D products of packed rows
  double distance;  // the canonical distance, norms, centers and offsets
  double smallest;  // what squares that underflow may hide of a norm
  double flushed;   // what products that underflow may hide of a sum

  explicit ScreenErrors(int64_t dim) {
    const double d = dim, u = 0x1p-24;
    product = (1.25 * d + 64) * u;
    distance = (0.5 * d + 128) * u;
    smallest = 1e-18 * std::sqrt(d);
    flushed = 4e-38 * d;
  }
};

// What packing found of a row, as bounds: |v|, |v - v'|, and by how much v misses the true one because float64 was
// converted first; and what is added to the screen's products for it.
struct RowBounds {
  float size, lost, converted, offset;

  // A row of which nothing is known has a NaN for its offset: it is always looked at.
  static RowBounds of(const screen::Facts& f, int64_t i, Metric metric, bool twice, const ScreenErrors& errors) {
    const double square = f.square[i], size2 = f.size[i];
    const bool known = is_cosine(metric) ? square < kHugeSquaredNorm<float> && !(square >= 0.5e-24 && square <= 2e-24)
                                         : size2 < kHugeSquaredNorm<float>;
    if (!known || !std::isfinite(square)) return {0, 0, 0, std::numeric_limits<float>::quiet_NaN()};
    const double converted = twice ? 0x1p-24 * (is_cosine(metric) ? 1 : std::sqrt(square)) : 0;
    return {static_cast<float>(1.002 * std::sqrt(size2) + errors.smallest + converted),
            static_cast<float>(1.002 * std::sqrt(f.lost[i]) + errors.smallest + converted),
            static_cast<float>(converted), is_cosine(metric) ? f.along[i] : -0.5f * f.size[i]};
  }
};

// A block of anchors, packed, with what the scan compares.
class ScreenedAnchors {
 public:
  template <class T>
  ScreenedAnchors(const screen::Unit& unit, const Search<T>& search, const Center& center, const Block<T>& block,
                  int64_t first, int64_t count)
      : errors_(search.dim()),
        panels_(ceil_div(count, screen::kPanel)),
        rows_(panels_ * unit.panel_bytes(search.dim())) {
    const int64_t n = panels_ * screen::kPanel, d = search.dim();
    for (std::vector<float>* v : {&scale_, &offset_, &square_, &size_, &lost_, &own_, &limit_}) v->assign(n, 0);
    best_.assign(n, -std::numeric_limits<float>::infinity());
    code_.assign(n, 0);
    equal_.assign(panels_, 0);
    alive_.assign(panels_, 0);
    RowsToPack rows(search.anchor);
    for (int64_t p = 0; p < panels_; ++p) {
      const int64_t at = p * screen::kPanel, here = std::min(screen::kPanel, count - at);
      screen::Facts facts;
      screen::Rows panel;
      if constexpr (sizeof(T) == 4)
        panel = RowsToPack::of_block({block.row(at), block.stride}, here, d);
      else
        panel = rows.gathered(here, [&](int64_t i) { return search.queries[first + at + i].row; });
      unit.pack_anchors(panel, center.view(search.metric), rows_.data() + p * unit.panel_bytes(d), facts);
      for (int64_t i = 0; i < here; ++i) set(search, center, first + at + i, at + i, facts, i);
    }
  }

  int64_t panels() const { return panels_; }

  screen::Anchors view(bool limited, bool farthest, Metric metric, int64_t d) const {
    return {panels_,
            d,
            rows_.data(),
            scale_.data(),
            offset_.data(),
            size_.data(),
            lost_.data(),
            own_.data(),
            best_.data(),
            limited ? limit_.data() : nullptr,
            code_.data(),
            equal_.data(),
            alive_.data(),
            metric == Metric::kAngular ? 0x7fffffffu : 0xffffffffu,
            farthest ? 0x80000000u : 0u};
  }

  // A bound on the error of anchor i's score with a candidate of the panel.
  float error(int64_t i, float by_size, float by_lost, float rest) const {
    return own_[i] + rest + size_[i] * by_size + lost_[i] * by_lost;
  }
  float best(int64_t i) const { return best_[i]; }
  // Of what anchor i has picked so far, which no candidate of a lower score can be.
  template <class T>
  void learn(int64_t i, const Anchor<T>& a, const Search<T>& search) {
    if (a.settled()) return void(alive_[i / screen::kPanel] &= ~(1u << i % screen::kPanel));
    if (a.best.index < 0) return;
    const float score = score_at(search.metric, square_[i], a.best.distance);
    best_[i] = search.farthest ? -score : score;
  }
  bool alive(int64_t i) const { return alive_[i / screen::kPanel] >> i % screen::kPanel & 1; }

 private:
  // Of a candidate at such a distance from an anchor of |v|^2 = `square`.
  static double score_at(Metric metric, double square, double distance) {
    return metric == Metric::kEuclidean ? 0.5 * (square - distance * distance) : 1 - distance;
  }

  template <class T>
  void set(const Search<T>& search, const Center& center, int64_t query, int64_t i, const screen::Facts& facts,
           int64_t lane) {
    const Metric metric = search.metric;
    const RowBounds row = RowBounds::of(facts, lane, metric, search.anchor.type == Type::kFloat64, errors_);
    const Query& q = search.queries[query];
    const bool euclidean = metric == Metric::kEuclidean;
    scale_[i] = facts.scale[lane];
    square_[i] = facts.size[lane];
    size_[i] = row.size;
    lost_[i] = row.lost;
    // <x, y> = <v, w> + <center, v> + |center|^2 + <center, w>. Euclidean scores are <v, w> - |w|^2 / 2: what they lack
    // of the distance is the same for all of an anchor's candidates.
    offset_[i] = !euclidean || std::isnan(row.offset) ? row.offset + center.square : 0;
    own_[i] = euclidean ? static_cast<float>(errors_.distance * facts.size[lane]) + row.size * row.converted : 0;
    double limit = std::numeric_limits<double>::infinity();
    if (std::isfinite(q.above)) {
      limit = score_at(metric, facts.size[lane], q.above);
      // A limit that float cannot hold leaves the anchor to be decided by distances.
      if (!(std::fabs(limit) < kHugeSquaredNorm<float>)) offset_[i] = std::numeric_limits<float>::quiet_NaN();
    }
    limit_[i] = static_cast<float>(limit);
    code_[i] = q.rule.code;
    equal_[i / screen::kPanel] |= static_cast<uint32_t>(q.rule.equal) << i % screen::kPanel;
    alive_[i / screen::kPanel] |= 1u << i % screen::kPanel;
  }

  const ScreenErrors errors_;
  const int64_t panels_;
  const Aligned<char> rows_;
  std::vector<float> scale_, offset_, square_, size_, lost_, own_, limit_, best_;
  std::vector<int32_t> code_;
  std::vector<uint32_t> equal_, alive_;
};

}  // namespace tla::cpu
