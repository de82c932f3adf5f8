// The search of large problems from torch's tensors.
#pragma once

#include "../common/plan_bank.h"
#include "tensors.h"

namespace tla::cuda {

// Which way a search goes; `screens`: the names of those that may be used.
Screen screen_of(const Device& device, const SearchSetup& setup, std::string_view screens);
// Picks and their distances, float32, for all anchors, by any screen but tiles; `fast`: the picks of the screen.
void mine_large(const Device& device, const Tensor& anchor, const Tensor& candidate_labels, const SearchSetup& setup,
                Screen screen, bool fast, const Tensor& distance, const Tensor& index);

// The same by the screen of a bank.
void mine_bank(const Device& device, const Tensor& anchor, const SearchSetup& setup, bool fast, const Tensor& distance,
               const Tensor& index);

}  // namespace tla::cuda
