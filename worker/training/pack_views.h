#pragma once

#include <ATen/core/Tensor.h>

namespace finesweep::worker {

/// Where the passes of a pack on a GPU read the value of a job's parameter and leave its gradient: views of tensors
/// that hold those of all jobs. Undefined: the parameter's own; no gradient where nothing is trained.
struct PackViews {
  at::Tensor value, grad;
};

}  // namespace finesweep::worker
