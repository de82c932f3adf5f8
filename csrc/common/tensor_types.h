// torch's dtypes as the kernels' types.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <stdexcept>

#include "options.h"

namespace tla {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Type type_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Double:
      return Type::kFloat64;
    case ScalarType::Float:
      return Type::kFloat32;
    case ScalarType::BFloat16:
      return Type::kBFloat16;
    case ScalarType::Half:
      return Type::kFloat16;
    default:
      throw std::invalid_argument("expected a float64, float32, bfloat16 or float16 tensor");
  }
}

// The type a problem is computed and its distances are returned in: float64 for float64 anchors, else float32.
inline ScalarType result_type(const Tensor& anchor) {
  return anchor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace tla
