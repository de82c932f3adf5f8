// The operators' string options as enums, shared by the CPU and the CUDA library.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#ifdef __CUDACC__
#define TLA_HD __host__ __device__
#else
#define TLA_HD
#endif

namespace tla {

// What tensors of features hold.
enum class Type { kFloat64, kFloat32, kBFloat16, kFloat16 };

TLA_HD inline int64_t size_of(Type type) { return type == Type::kFloat64 ? 8 : type == Type::kFloat32 ? 4 : 2; }

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

struct TripletOptions {
  double margin, weight, norm_weight;
  Metric metric;
  Norm norm;
  Reduction reduction;
};

inline TripletOptions triplet_options(double margin, double weight, double norm_weight, std::string_view metric,
                                      std::string_view norm, std::string_view reduction) {
  return {margin, weight, norm_weight, parse_metric(metric), parse_norm(norm), parse_reduction(reduction)};
}

}  // namespace tla
