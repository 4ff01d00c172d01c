#pragma once

#include <ATen/core/Tensor.h>

#include <stdexcept>

#include "worker/kernels/cuda/api.h"

namespace finesweep::worker::gpu {

/// The kernels have the tensor's type.
inline bool has_float_type(const at::Tensor& x) {
  const at::ScalarType type = x.scalar_type();
  return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
}

/// What the kernels call it.
inline int float_type_of(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return kFinesweepFloat32;
    case at::kBFloat16:
      return kFinesweepBFloat16;
    case at::kHalf:
      return kFinesweepFloat16;
    default:
      throw std::invalid_argument("the kernels for GPUs are for fp32, bf16 and fp16");
  }
}

}  // namespace finesweep::worker::gpu
