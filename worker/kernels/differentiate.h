#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "worker/kernels/parameter.h"
#include "worker/kernels/tape.h"

namespace finesweep::worker {

/// Runs `compute` over the values of `inputs` and then of `parameters`, and records the way back that libtorch
/// derives from it: how an operation runs on a device without a kernel of ours. A parameter may be null: its value
/// is then undefined.
Var differentiate(Tape* tape, const std::vector<Var>& inputs, const std::vector<Parameter*>& parameters,
                  const std::function<at::Tensor(const std::vector<at::Tensor>&)>& compute);

}  // namespace finesweep::worker
