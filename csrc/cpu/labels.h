// Which candidates a row may pick: labels as 32-bit codes that the scan compares, and a sorted index for the questions
// that need one (is the class present? which is its t-th member?).
#pragma once

#include <cstdint>
#include <vector>

namespace tla::cpu {

inline constexpr int32_t kNeverCode = INT32_MIN;

// One row's rule: candidates whose code equals `code` (or differs from it), but never `exclude` and never kNeverCode.
struct Rule {
  int32_t code = 0;
  bool equal = false;
  int64_t exclude = -1;

  bool allows(int64_t candidate, int32_t candidate_code) const {
    return (candidate_code == code) == equal && candidate_code != kNeverCode && candidate != exclude;
  }
};

struct Labels {
  std::vector<int32_t> codes;  // of the candidates
  std::vector<Rule> rules;     // of the anchors
};

// Arrays of M candidate labels and B anchor labels, target labels and excluded candidates (null: none).
Labels read_labels(const int64_t* candidate_labels, int64_t candidates, const int64_t* labels,
                   const int64_t* target_labels, const int64_t* exclude, int64_t anchors, bool same_class);

// Candidates in the order of their codes, ties in their own order; the unfilled slots are left out.
class LabelIndex {
 public:
  explicit LabelIndex(const std::vector<int32_t>& codes);
  int64_t count(const Rule& rule) const;
  // The t-th candidate that the rule allows, in the candidates' own order; t < count(rule).
  int64_t pick(const Rule& rule, int64_t t) const;

 private:
  struct Range {
    const int64_t *begin, *end;
  };
  Range members(int32_t code) const;
  bool excluded(const Rule& rule) const;

  const std::vector<int32_t>& codes_;
  std::vector<int64_t> valid_;   // candidates that carry a label, ascending
  std::vector<int64_t> order_;   // positions in valid_, by code
  std::vector<int32_t> sorted_;  // their codes
};

}  // namespace tla::cpu
