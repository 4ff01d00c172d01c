#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>

namespace finesweep::worker {

/// The one place that decides what computes an operation: kernels/cpu has kernels for tensors of fp32 and bf16 on a
/// CPU; everything else, fp16 on a CPU too, runs the reference.
inline bool has_kernels(at::ScalarType type) {
  return type == at::kFloat || type == at::kBFloat16;
}
inline bool has_kernels(const at::Tensor& x) {
  return x.is_cpu() && has_kernels(x.scalar_type());
}

/// Calls work.operator()<T>() with the storage type of a tensor that has kernels.
template <typename Work>
decltype(auto) with_storage(at::ScalarType type, const Work& work) {
  return type == at::kFloat ? work.template operator()<float>() : work.template operator()<c10::BFloat16>();
}

}  // namespace finesweep::worker
