// Tensor maps by the driver, found at run time: the library is not linked with libcuda.
#include <cudaTypedefs.h>

#include "hopper.h"

namespace tla::cuda {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
  if (error != cudaSuccess) cudaGetLastError();
  const bool there = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
  return there ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found) : nullptr;
}

}  // namespace

TensorMap tensor_map(const uint16_t* data, int64_t rows, int64_t columns, int box_rows, int box_columns) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0 || columns % 8 != 0)
    throw std::logic_error("tla_ops: a matrix that no tensor map takes");
  CUtensorMap map;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t row_bytes[] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)}, steps[] = {1, 1};
  const auto encode = encoder();
  if (encode == nullptr) throw std::runtime_error("tla_ops: the driver has no cuTensorMapEncodeTiled");
  const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<uint16_t*>(data), sizes,
                                 row_bytes, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw std::runtime_error("tla_ops: cuTensorMapEncodeTiled: error " + std::to_string(static_cast<int>(result)));
  TensorMap out;
  std::memcpy(&out, &map, sizeof(map));
  return out;
}

int64_t clusters_at_once(const void* kernel, const LaunchShape& shape) {
  int clusters = 0;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
  if (error == cudaSuccess) {
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(shape.cluster));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
    config.attrs = &attribute;
    config.numAttrs = 1;
    error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
  }
  if (error != cudaSuccess) cudaGetLastError();  // so that the next call does not report it again
  return error == cudaSuccess ? clusters : 0;
}

bool runs_on_hopper(const Device& device, const void* kernel, const LaunchShape& shape) {
  if (device.gpu().capability != 90 || encoder() == nullptr) return false;
  // In an image for any other target the kernel is a trap, which takes next to no registers.
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) cudaGetLastError();
  return error == cudaSuccess && attributes.numRegs > 100 && clusters_at_once(kernel, shape) > 0;
}

}  // namespace tla::cuda
