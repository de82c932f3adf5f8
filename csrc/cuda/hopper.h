// What the host does for kernels of hopper.cuh.
#pragma once

#include "hopper.cuh"
#include "tensors.h"

namespace tla::cuda {

// Of a row-major matrix of halves: boxes of box_rows x box_columns, swizzled by 128 bytes, zeros where it ends.
TensorMap tensor_map(const uint16_t* data, int64_t rows, int64_t columns, int box_rows, int box_columns);

// Whether this driver makes tensor maps and this device runs a kernel for sm_90a in this shape.
bool runs_on_hopper(const Device& device, const void* kernel, const LaunchShape& shape);

// How many clusters of a kernel run at once; 0 where it cannot run.
int64_t clusters_at_once(const void* kernel, const LaunchShape& shape);

}  // namespace tla::cuda
