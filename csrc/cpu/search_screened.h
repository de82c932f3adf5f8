// The search with a screen: what it cannot rule out is looked at a second time, by the sums that
// decide.
#pragma once

#include <utility>

#include "screened_anchors.h"

namespace tla::cpu {

// Candidates that the screen could not rule out, by anchor, until their turn comes to be looked at.
class Lists {
 public:
  static constexpr int32_t kRoom = 64;

  explicit Lists(int64_t anchors) : entries_(uninitialized<Entry>(anchors * kRoom)), counts_(anchors, 0) {}

  // `upper`: no candidate's canonical score is higher.
  void add(int64_t anchor, float upper, int64_t candidate) {
    entries_[anchor * kRoom + counts_[anchor]++] = {upper, static_cast<int32_t>(candidate)};
  }
  bool full(int64_t anchor) const { return counts_[anchor] == kRoom; }

  // Forgets what has fallen behind; returns what is left.
  int32_t compact(int64_t anchor, float best) {
    Entry* const list = entries_.get() + anchor * kRoom;
    counts_[anchor] = static_cast<int32_t>(
        std::remove_if(list, list + counts_[anchor], [&](const Entry& e) { return e.upper < best; }) - list);
    return counts_[anchor];
  }
  // Empties the list into `candidates`; returns their number.
  int32_t take(int64_t anchor, int64_t* candidates) {
    const int32_t count = counts_[anchor];
    for (int32_t n = 0; n < count; ++n) candidates[n] = entries_[anchor * kRoom + n].candidate;
    counts_[anchor] = 0;
    return count;
  }

 private:
  struct Entry {
    float upper;
    int32_t candidate;
  };
  std::unique_ptr<Entry[]> entries_;
  std::vector<int32_t> counts_;
};

template <class T>
class ScreenTask {
 public:
  ScreenTask(const screen::Unit& unit, const Search<T>& search, const Center& center, const PackedPool* pool,
             int64_t first, int64_t count, const Pick<T>* picks)
      : unit_(unit),
        search_(search),
        pool_(pool),
        errors_(search.dim()),
        center_(center),
        limited_(std::any_of(search.queries.begin() + first, search.queries.begin() + first + count,
                             [](const Query& q) { return std::isfinite(q.above); })),
        block_(search.gather_anchors(first, count, buffer_)),
        anchors_(search.make_anchors(block_, first, count, picks)),
        screened_(unit, search, center, block_, first, count),
        lists_(count),
        leaders_(count, -1) {}

  // Returns where it stopped: before the end where candidates crowd so close that looking at all of them pays.
  int64_t run(int64_t begin, int64_t end) {
    constexpr int64_t kPanel = screen::kPanel, kFirst = 16 * kPanel, kEarly = 128 * kPanel;
    const int64_t d = search_.dim(), count = anchors_.size();
    const Aligned<char> panel(pool_ ? 0 : unit_.panel_bytes(d));
    const Aligned<int32_t> scratch(screen::kScratch);
    const std::unique_ptr<screen::Hit[]> hits = uninitialized<screen::Hit>(screened_.panels() * kPanel * kPanel);
    RowsToPack rows(search_.candidates);
    screen::Facts measured;
    const auto from = [&](int64_t c) {
      while (c < end && search_.all_never(c, std::min(kPanel, end - c))) c += kPanel;
      return c;
    };
    int64_t c = from(begin), looked_at = 0;
    while (c < end) {
      const int64_t n = std::min(kPanel, end - c);
      if (!pool_) unit_.pack_candidates(rows.consecutive(c, n), center_.view(search_.metric), panel.data(), measured);
      const screen::Facts& facts = pool_ ? pool_->facts(c / kPanel) : measured;
      set_candidates(facts, c, n);
      const int64_t after = from(c + kPanel);
      screen::Rows next;
      if (!pool_ && after < end) next = rows.in_place(after, std::min(kPanel, end - after));
      const int64_t found = unit_.scan(screened_.view(limited_, search_.farthest, search_.metric, d),
                                       {pool_ ? pool_->panel(c / kPanel) : panel.data(), scale_, offset_, facts.sum,
                                        code_, by_size_, by_lost_, rest_, next},
                                       scratch.data(), hits.get());
      // The first panels, which set the limits, say nothing of how close candidates are.
      const int64_t seen = c - begin;
      if (seen >= kEarly && found > count * kPanel / 256)
        looked_at += look_now(hits.get(), found, c, n);
      else
        looked_at += list(hits.get(), found, c);
      if (seen <= kFirst) looked_at = 0;
      c = after;
      if (seen > kFirst && looked_at > (seen - kFirst) * count / 5) break;
    }
    for (int64_t i = 0; i < count; ++i) flush(i);
    return std::min(c, end);
  }

  void write(Pick<T>* out) const {
    for (const Anchor<T>& a : anchors_) *out++ = a.best;
  }

 private:
  void set_candidates(const screen::Facts& facts, int64_t c, int64_t n) {
    double size = 0, lost = 0, converted = 0;
    const bool twice = search_.candidates.type == Type::kFloat64;
    for (int64_t j = 0; j < screen::kPanel; ++j) {
      code_[j] = kNeverCode;
      offset_[j] = scale_[j] = 0;
      if (j >= n) continue;
      scale_[j] = facts.scale[j];
      const RowBounds row = RowBounds::of(facts, j, search_.metric, twice, errors_);
      code_[j] = search_.codes[c + j];
      offset_[j] = row.offset;
      if (code_[j] == kNeverCode) continue;
      size = std::max<double>(size, row.size);
      lost = std::max<double>(lost, row.lost);
      converted = std::max<double>(converted, row.converted);
    }
    const double packed = size + lost;
    by_size_ = static_cast<float>(1.001 * (lost + errors_.product * packed));
    by_lost_ = static_cast<float>(1.001 * (1 + errors_.product) * packed);
    // Of euclidean offsets, half a square, the conversion takes its share, too.
    const double rest =
        search_.metric == Metric::kEuclidean ? size * (errors_.distance * size + converted) : errors_.distance;
    rest_ = static_cast<float>(1.001 * (rest + errors_.flushed));
  }

  // Whether a hit still is one, of a candidate that the anchor may pick.
  bool passes(const screen::Hit& hit, int64_t c, float& error) const {
    if (!screened_.alive(hit.anchor)) return false;
    error = screened_.error(hit.anchor, by_size_, by_lost_, rest_);
    if (hit.score + error < screened_.best(hit.anchor)) return false;
    return anchors_[hit.anchor].query.rule.allows(c + hit.candidate, code_[hit.candidate]);
  }

  int64_t list(screen::Hit* hits, int64_t found, int64_t c) {
    int64_t looked_at = look_at_leaders(hits, found, c);
    float error;
    for (int64_t h = 0; h < found; ++h) {
      const screen::Hit& hit = hits[h];
      const int64_t i = hit.anchor;
      if (i == kLookedAt || !passes(hit, c, error)) continue;
      if (lists_.full(i) && lists_.compact(i, screened_.best(i)) > Lists::kRoom / 2) looked_at += flush(i);
      lists_.add(i, hit.score + error, c + hit.candidate);
    }
    return looked_at;
  }

  // Of each anchor's hits the one that is probably its best so far. The distance rules out more than the score would,
  // which may be off.
  int64_t look_at_leaders(screen::Hit* hits, int64_t found, int64_t c) {
    float error;
    for (int64_t h = 0; h < found; ++h) {
      const int64_t i = hits[h].anchor;
      int32_t& leader = leaders_[i];
      const float most = leader < 0 ? screened_.best(i) : hits[leader].score;
      if (!(hits[h].score > most) || !passes(hits[h], c, error)) continue;
      if (leader < 0) led_.push_back(i);
      leader = static_cast<int32_t>(h);
    }
    for (const int64_t i : led_) {
      screen::Hit& hit = hits[std::exchange(leaders_[i], -1)];
      const int64_t candidate = c + hit.candidate;
      look(i, &candidate, 1);
      hit.anchor = kLookedAt;
    }
    const int64_t looked_at = led_.size();
    led_.clear();
    return looked_at;
  }

  // Looks at what is listed for anchor i.
  int64_t flush(int64_t i) {
    lists_.compact(i, screened_.best(i));
    int64_t candidates[Lists::kRoom];
    const int32_t n = lists_.take(i, candidates);
    look(i, candidates, n);
    return n;
  }

  void look(int64_t i, const int64_t* candidates, int64_t n) {
    Anchor<T>& a = anchors_[i];
    const Matrix& m = search_.candidates;
    if (!m.contiguous_rows<T>() && converted_.empty()) converted_.resize(Lists::kRoom * m.cols);
    const T* rows[Lists::kRoom];
    for (int64_t k = 0; k < n; ++k) rows[k] = m.row(candidates[k], converted_.data() + k * m.cols);
    T sums[Lists::kRoom], squares[Lists::kRoom];
    tile_kernels<T>().look(sum_of(search_.metric), a.x, rows, n, m.cols, sums, squares);
    for (int64_t k = 0; k < n; ++k)
      search_.decide(a, candidates[k], sums[k], rows[k], squared_norm_from(squares[k], rows[k], m.cols));
    screened_.learn(i, a, search_);
  }

  // Looks at a crowded panel's hits at once, while its rows are near.
  int64_t look_now(const screen::Hit* hits, int64_t found, int64_t c, int64_t n) {
    const int64_t d = search_.dim();
    const Block<T> block = consecutive(search_.candidates, c, n, rows_);
    for (auto& of_candidate : by_candidate_) of_candidate.clear();
    float error;
    for (int64_t h = 0; h < found; ++h)
      if (passes(hits[h], c, error)) by_candidate_[hits[h].candidate].push_back(hits[h].anchor);
    int64_t looked_at = 0;
    for (int64_t j = 0; j < n; ++j) {
      const std::vector<int32_t>& list = by_candidate_[j];
      if (list.empty()) continue;
      const T* y = block.row(j);
      const double y2 = squared_norm(y, d);
      constexpr int64_t kMost = 64;
      for (size_t begin = 0; begin < list.size(); begin += kMost) {
        const int64_t count = std::min<int64_t>(kMost, list.size() - begin);
        const T* rows[kMost];
        T sums[kMost];
        for (int64_t k = 0; k < count; ++k) rows[k] = anchors_[list[begin + k]].x;
        tile_kernels<T>().look(sum_of(search_.metric), y, rows, count, d, sums, nullptr);
        for (int64_t k = 0; k < count; ++k) {
          Anchor<T>& a = anchors_[list[begin + k]];
          search_.decide(a, c + j, sums[k], y, y2);
          screened_.learn(list[begin + k], a, search_);
        }
        looked_at += count;
      }
    }
    return looked_at;
  }

  const screen::Unit& unit_;
  const Search<T>& search_;
  const PackedPool* const pool_;
  const ScreenErrors errors_;
  const Center& center_;
  const bool limited_;
  std::vector<T> buffer_, rows_, converted_;
  const Block<T> block_;
  std::vector<Anchor<T>> anchors_;
  ScreenedAnchors screened_;
  Lists lists_;
  std::vector<int32_t> by_candidate_[screen::kPanel];
  static constexpr int16_t kLookedAt = -1;  // in place of a hit's anchor
  std::vector<int32_t> leaders_;            // an anchor's hit, while hits are gone through; -1: none
  std::vector<int64_t> led_;                // the anchors that have one
  // The panel's candidates.
  float scale_[screen::kPanel], offset_[screen::kPanel], by_size_ = 0, by_lost_ = 0, rest_ = 0;
  int32_t code_[screen::kPanel];
};

}  // namespace tla::cpu
