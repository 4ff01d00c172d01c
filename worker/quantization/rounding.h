#pragma once

#include <ATen/core/Tensor.h>

#include "jobs/result.h"

namespace finesweep::worker {

/// A weight in fp16 or bf16, rounded to nearest, ties to even. The Error where a finite value is beyond the format
/// (65504 in fp16): it says the value and lets the caller name the tensor.
Result<at::Tensor> round_weight(const at::Tensor& w, at::ScalarType format);

}  // namespace finesweep::worker
