#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <dlfcn.h>

#include "worker/executor.h"

namespace finesweep::worker {

/// As the runner does: libtorch's CUDA half is loaded before anything asks for it.
inline bool has_gpu() {
  static const bool found =
      dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr && !describe_device("cuda:0").contains("error");
  return found;
}

inline const c10::Device kGpu(c10::kCUDA, 0);

inline at::Tensor there(const at::Tensor& x) {
  return x.to(kGpu);
}

/// What kernels compute in.
inline constexpr at::ScalarType kFloatTypes[] = {at::kFloat, at::kBFloat16, at::kHalf};

}  // namespace finesweep::worker
