// From torch's tensors to what kernels take: views, workspaces, the device, and the launch itself.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../common/tensor_types.h"
#include "search.cuh"

namespace tla::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report it again
  throw std::runtime_error(std::string("tla_ops: ") + what + ": " + cudaGetErrorString(error));
}

// The tensor's device made current, in torch and in this library's own CUDA runtime, and its current stream.
class Device {
 public:
  explicit Device(const Tensor& t) : index_(t.get_device_index()), torch_guard_(index_) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != index_) check(cudaSetDevice(index_), "cudaSetDevice");
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  ~Device() {
    if (before_ != index_) cudaSetDevice(before_);
  }
  Device(const Device&) = delete;

  Gpu gpu() const {
    return {attribute(cudaDevAttrMultiProcessorCount),
            10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor)};
  }

  // Zeros, at the speed of a copy.
  void clear(void* data, int64_t bytes) const {
    if (bytes > 0) check(cudaMemsetAsync(data, 0, bytes, stream_), "cudaMemsetAsync");
  }

  // The launch that `launch_*` functions ask for.
  auto launcher() const {
    return [this](auto kernel, const LaunchShape& shape, const auto& params) {
      cudaLaunchAttribute attributes[2];
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
      config.blockDim = dim3(static_cast<unsigned>(shape.threads));
      config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
      if (shape.shared_bytes > 48 * 1024)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes),
              "cudaFuncSetAttribute");
      config.stream = stream_;
      config.attrs = attributes;
      if (shape.cluster > 1) {
        attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
      }
      if (shape.cooperative) {
        attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
        attributes[config.numAttrs++].val.cooperative = 1;
      }
      check(cudaLaunchKernelEx(&config, kernel, params), "launch");
    };
  }

 private:
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, index_), "cudaDeviceGetAttribute");
    return value;
  }

  int index_, before_ = 0;
  torch::stable::accelerator::DeviceGuard torch_guard_;
  cudaStream_t stream_ = nullptr;
};

// The last two dimensions; `step`: elements between the matrices of a stack of them.
inline Rows rows_of(const Tensor& t, int64_t step = 0) {
  const int64_t last = t.dim() - 1;
  return make_rows(t.const_data_ptr(), type_of(t), t.size(last - 1), t.size(last), t.stride(last - 1), t.stride(last),
                   step);
}

inline Positives positives_of(const Tensor& t) {
  const int64_t step = t.size(0) <= 1 ? 0 : t.stride(0);
  return {rows_of(t, step), t.size(1), step};
}

inline Output output_of(const Tensor& t) { return {t.mutable_data_ptr(), type_of(t)}; }

inline Tensor empty(const Tensor& like, const std::vector<int64_t>& size, ScalarType type) {
  return torch::stable::empty(size, type, std::nullopt, like.device());
}

// Values and indices of an ascending sort of one dimension; equal elements stay in their order.
std::pair<Tensor, Tensor> stable_sort(const Tensor& t);

// The size of the last dimension, which kernels count in int.
inline int dim_of(const Tensor& t) {
  const int64_t d = t.size(t.dim() - 1);
  if (d > int64_t{1} << 30) throw std::invalid_argument("tla_ops: at most 2^30 features, got " + std::to_string(d));
  return static_cast<int>(d);
}

// int64 tensors as arrays; holds those it had to copy.
class Arrays {
 public:
  const int64_t* operator()(const Tensor& t) {
    kept_.push_back(torch::stable::contiguous(t));
    return static_cast<const int64_t*>(kept_.back().const_data_ptr());
  }
  const int64_t* operator()(const std::optional<Tensor>& t) { return t ? (*this)(*t) : nullptr; }

 private:
  std::vector<Tensor> kept_;
};

// Parts of one allocation: reserve them all, allocate, then ask for their addresses.
class Workspace {
 public:
  int64_t reserve(int64_t bytes) {
    const int64_t at = bytes_;
    bytes_ += (bytes + 15) / 16 * 16;
    return at;
  }
  void allocate(const Tensor& like) { memory_ = empty(like, {bytes_}, ScalarType::Byte); }
  // For all arrays that each(f) calls f(pointer, count) with, their addresses.
  template <class Each>
  void take(const Tensor& like, const Each& each) {
    std::vector<int64_t> places;
    each([&]<class T>(T*&, int64_t count) { places.push_back(reserve(count * static_cast<int64_t>(sizeof(T)))); });
    allocate(like);
    auto place = places.begin();
    each([&]<class T>(T*& array, int64_t) { array = at<T>(*place++); });
  }
  template <class T = void>
  T* at(int64_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(memory_->mutable_data_ptr()) + offset);
  }

 private:
  int64_t bytes_ = 0;
  std::optional<Tensor> memory_;
};

// What mine and triplet_adv_loss have in common: the search's parameters and its workspace.
struct SearchSetup {
  SearchParams params;
  bool wide;
  Arrays arrays;
  Workspace workspace;

  SearchSetup(const Device& device, const Tensor& anchor, const Tensor& candidates, const Tensor& labels,
              const Tensor& candidate_labels, const std::optional<Tensor>& positive,
              const std::optional<Tensor>& target_labels, const std::optional<Tensor>& exclude,
              const std::optional<Tensor>& uniform, Metric metric, Mining mining, bool same_class, bool loss,
              bool squares);

  void allocate(const Tensor& like);

 private:
  std::optional<Tensor> uniform_;
  int64_t keys_ = 0, squares_ = -1, sums_ = 0;
};

}  // namespace tla::cuda
