#include "labels.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "../common/options.h"

namespace tla::cpu {
namespace {

bool fits(int64_t label) { return label > INT32_MIN && label <= INT32_MAX; }

// Labels become codes by a plain narrowing where all of them fit, by their rank in a sorted list of classes otherwise.
class Encoder {
 public:
  Encoder(const int64_t* candidate_labels, int64_t candidates, const int64_t* labels, const int64_t* targets,
          int64_t anchors) {
    const auto small = [](const int64_t* p, int64_t n) {
      return p == nullptr || std::all_of(p, p + n, [](int64_t v) { return fits(v) || v == kNeverLabel; });
    };
    if (small(candidate_labels, candidates) && small(labels, anchors) && small(targets, anchors)) return;
    classes_.assign(candidate_labels, candidate_labels + candidates);
    std::sort(classes_.begin(), classes_.end());
    classes_.erase(std::unique(classes_.begin(), classes_.end()), classes_.end());
  }

  int32_t operator()(int64_t label) const {
    if (label == kNeverLabel) return kNeverCode;
    if (classes_.empty()) return static_cast<int32_t>(label);
    const auto it = std::lower_bound(classes_.begin(), classes_.end(), label);
    return it != classes_.end() && *it == label ? static_cast<int32_t>(it - classes_.begin()) : -1;
  }

 private:
  std::vector<int64_t> classes_;
};

}  // namespace

Labels read_labels(const int64_t* candidate_labels, int64_t candidates, const int64_t* labels,
                   const int64_t* target_labels, const int64_t* exclude, int64_t anchors, bool same_class) {
  const Encoder encode(candidate_labels, candidates, labels, target_labels, anchors);
  Labels result;
  result.codes.resize(candidates);
  std::transform(candidate_labels, candidate_labels + candidates, result.codes.begin(), encode);
  result.rules.resize(anchors);
  std::optional<LabelIndex> index;
  if (target_labels != nullptr) index.emplace(result.codes);
  for (int64_t i = 0; i < anchors; ++i) {
    Rule& rule = result.rules[i];
    rule = {encode(labels[i]), same_class, exclude != nullptr ? exclude[i] : -1};
    if (target_labels == nullptr || target_labels[i] == labels[i]) continue;
    const Rule target{encode(target_labels[i]), true, rule.exclude};
    if (index->count(target) > 0) rule = target;
  }
  return result;
}

LabelIndex::LabelIndex(const std::vector<int32_t>& codes) : codes_(codes) {
  valid_.reserve(codes.size());
  for (size_t j = 0; j < codes.size(); ++j)
    if (codes[j] != kNeverCode) valid_.push_back(j);
  order_.resize(valid_.size());
  std::iota(order_.begin(), order_.end(), 0);
  const auto code = [&](int64_t position) { return codes[valid_[position]]; };
  std::stable_sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) { return code(a) < code(b); });
  sorted_.resize(order_.size());
  std::transform(order_.begin(), order_.end(), sorted_.begin(), code);
}

LabelIndex::Range LabelIndex::members(int32_t code) const {
  const auto [first, last] = std::equal_range(sorted_.begin(), sorted_.end(), code);
  return {order_.data() + (first - sorted_.begin()), order_.data() + (last - sorted_.begin())};
}

bool LabelIndex::excluded(const Rule& rule) const {
  if (rule.exclude < 0 || rule.exclude >= static_cast<int64_t>(codes_.size())) return false;
  Rule open = rule;
  open.exclude = -1;
  return open.allows(rule.exclude, codes_[rule.exclude]);
}

int64_t LabelIndex::count(const Rule& rule) const {
  const Range range = members(rule.code);
  const int64_t members = range.end - range.begin;
  return (rule.equal ? members : static_cast<int64_t>(valid_.size()) - members) - excluded(rule);
}

int64_t LabelIndex::pick(const Rule& rule, int64_t t) const {
  const Range range = members(rule.code);
  const auto at = [&](int64_t u) {
    if (rule.equal) return valid_[range.begin[u]];
    // The u-th position outside the class: u plus the number k of members before it, which are those with
    // member[k] - k <= u.
    int64_t low = 0, high = range.end - range.begin;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (range.begin[middle] - middle <= u)
        low = middle + 1;
      else
        high = middle;
    }
    return valid_[u + low];
  };
  const int64_t candidate = at(t);
  return excluded(rule) && candidate >= rule.exclude ? at(t + 1) : candidate;
}

}  // namespace tla::cpu
