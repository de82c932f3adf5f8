// One file an operator, so that they compile side by side.
#pragma once

#include "problem.h"

namespace tla::simt {

void run_mine(const Problem& problem);
void run_mine_large(const Problem& problem);
void run_mine_bank(const Problem& problem);
void run_triplet_adv_loss(const Problem& problem);
void run_triplet_loss(const Problem& problem);
void run_triplet_loss_backward(const Problem& problem);
void run_cdist(const Problem& problem);
void run_cdist_backward(const Problem& problem);

// The parameters of a search, and its workspace.
struct SearchRun {
  cuda::SearchParams params;
  Buffer keys, squares, sums;

  SearchRun(const Problem& problem, bool same_class, bool loss, bool with_squares)
      : params(read(problem, same_class, loss)),
        keys(Buffer::output(bytes(problem, with_squares).keys, problem.seed())),
        squares(Buffer::output(bytes(problem, with_squares).squares, problem.seed() + 1)),
        sums(Buffer::output(bytes(problem, with_squares).sums, problem.seed() + 2)) {
    params.keys = keys.as<void>();
    if (squares.bytes() > 0) params.squares = squares.as<double>();
    params.sums = sums.as<void>();
  }

 private:
  cuda::SearchBytes bytes(const Problem& problem, bool with_squares) const {
    return cuda::search_bytes(params, problem.wide(), with_squares);
  }
  static cuda::SearchParams read(const Problem& problem, bool same_class, bool loss) {
    const Array &anchor = problem.array("anchor"), &candidates = problem.array("candidates");
    cuda::SearchParams p;
    p.anchor = anchor.rows();
    p.candidates = candidates.rows();
    p.b = anchor.size(0);
    p.m = candidates.size(0);
    p.d = static_cast<int>(anchor.size(1));
    p.labels = {problem.integers("labels"), problem.integers("candidate_labels"), problem.integers("target_labels"),
                problem.integers("exclude")};
    if (problem.has("positive")) p.positive = problem.array("positive").positives();
    if (problem.has("uniform")) p.uniform = problem.array("uniform").data<const double>();
    p.metric = parse_metric(problem.text("metric"));
    p.mining = parse_mining(problem.text("mining"));
    p.same_class = same_class;
    p.plan =
        plan_tiles(p.b, p.m, p.d, problem.wide() ? 8 : 4, !p.random(), loss || p.random() ? p.b : 0, problem.gpu());
    return p;
  }
};

inline TripletOptions triplet_options(const Problem& p) {
  return {p.number("margin"),         p.number("weight"),
          p.number("norm_weight"),    parse_metric(p.text("metric")),
          parse_norm(p.text("norm")), parse_reduction(p.text("reduction"))};
}

inline cuda::Triplets triplets(const Problem& p) {
  cuda::Triplets t;
  const Array &anchor = p.array("anchor"), &positive = p.array("positive");
  t.anchor = anchor.rows();
  t.negative = p.array("negative").rows();
  t.positive_index = p.integers("positive_index");
  t.negative_index = p.integers("negative_index");
  t.positive = t.positive_index != nullptr ? cuda::Positives{positive.rows(), 1, 0} : positive.positives();
  t.b = anchor.size(0);
  t.d = static_cast<int>(anchor.size(1));
  return t;
}

inline Array new_loss(const Problem& p, int64_t b) {
  return new_array(p.result_type(), p.text("reduction") == "none" ? std::vector<int64_t>{b} : std::vector<int64_t>{},
                   p.seed() + 3);
}

}  // namespace tla::simt
