// The search of large problems from torch's tensors.
#pragma once

#include "tensors.h"

namespace tla::cuda {

// Whether a search goes that way: is_large (plan.h) of what the operator was asked for.
bool takes_large(const SearchSetup& setup);
// Picks and their distances, float32, for all anchors; `fast`: the picks of the screen.
void mine_large(const Device& device, const Tensor& anchor, const SearchSetup& setup, bool fast, const Tensor& distance,
                const Tensor& index);

}  // namespace tla::cuda
