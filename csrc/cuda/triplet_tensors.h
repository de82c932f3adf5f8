// The triplet loss's arguments as its kernels take them.
#pragma once

#include "tensors.h"
#include "triplet.cuh"

namespace tla::cuda {

inline Triplets triplets_of(Arrays& arrays, const Tensor& anchor, const Tensor& positive, const Tensor& negative,
                            const std::optional<Tensor>& positive_index, const std::optional<Tensor>& negative_index) {
  Triplets t;
  t.anchor = rows_of(anchor);
  t.negative = rows_of(negative);
  if (positive_index)
    t.positive = {rows_of(positive), 1, 0};
  else
    t.positive = positives_of(positive);
  t.positive_index = arrays(positive_index);
  t.negative_index = arrays(negative_index);
  t.b = anchor.size(0);
  t.d = dim_of(anchor);
  return t;
}

}  // namespace tla::cuda
