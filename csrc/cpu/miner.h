// Mining as every operator needs it: labels, rules, the search or the random pick.
#pragma once

#include <optional>
#include <vector>

#include "../common/options.h"
#include "search.h"

namespace tla::cpu {

// (B,) int64 labels and indices; the tensors keep their memory alive.
struct MineInputs {
  Tensor anchor, candidates, labels, candidate_labels;
  std::optional<Tensor> positive, target_labels, exclude, uniform;
  std::optional<Tensor> packed;  // the candidates as pack_pool made them
};

// Each anchor's pick among candidates of another class, or of its own (`same_class`: hardest is farthest there).
template <class T>
std::vector<Pick<T>> mine_picks(const MineInputs& inputs, Metric metric, Mining mining, bool same_class);

}  // namespace tla::cpu
