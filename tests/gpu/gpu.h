#pragma once

#include <dlfcn.h>

#include "worker/executor.h"

namespace finesweep::worker {

/// As the runner does: libtorch's CUDA half is loaded before anything asks for it.
inline bool has_gpu() {
  static const bool found =
      dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr && !describe_device("cuda:0").contains("error");
  return found;
}

}  // namespace finesweep::worker
