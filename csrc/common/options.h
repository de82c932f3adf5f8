// The operators' string options as enums, shared by the CPU and the CUDA library.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tla {

enum class Metric { kAngular, kCosine, kEuclidean, kChebyshev };
enum class Mining { kHardest, kSemihard, kRandom, kEasiest };
enum class Norm { kL2, kMeanSquare };
enum class Reduction { kMean, kSum, kNone };

// Labels of unfilled slots; no operator ever picks a candidate that carries it.
inline constexpr int64_t kNeverLabel = INT64_MIN;

inline Metric parse_metric(std::string_view s) {
  if (s == "angular") return Metric::kAngular;
  if (s == "cosine") return Metric::kCosine;
  if (s == "euclidean") return Metric::kEuclidean;
  if (s == "chebyshev") return Metric::kChebyshev;
  throw std::invalid_argument("unknown metric: " + std::string(s));
}

inline Mining parse_mining(std::string_view s) {
  if (s == "hardest") return Mining::kHardest;
  if (s == "semihard") return Mining::kSemihard;
  if (s == "random") return Mining::kRandom;
  if (s == "easiest") return Mining::kEasiest;
  throw std::invalid_argument("unknown mining: " + std::string(s));
}

inline Norm parse_norm(std::string_view s) {
  if (s == "l2") return Norm::kL2;
  if (s == "mean_square") return Norm::kMeanSquare;
  throw std::invalid_argument("unknown norm: " + std::string(s));
}

inline Reduction parse_reduction(std::string_view s) {
  if (s == "mean") return Reduction::kMean;
  if (s == "sum") return Reduction::kSum;
  if (s == "none") return Reduction::kNone;
  throw std::invalid_argument("unknown reduction: " + std::string(s));
}

}  // namespace tla
