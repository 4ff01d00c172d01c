#include "worker/quantization/rounding.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <string>

namespace finesweep::worker {

Result<at::Tensor> round_weight(const at::Tensor& w, at::ScalarType format) {
  const at::Tensor rounded = w.detach().to(format);
  const at::Tensor lost = at::logical_and(at::isinf(rounded), at::isfinite(w));
  if (lost.any().item<bool>()) {
    const double value = w.masked_select(lost).select(0, 0).item<double>();
    return Error{"the value " + std::to_string(value) + " is beyond " +
                 (format == at::kHalf ? "fp16 (65504)" : "bf16")};
  }
  return rounded;
}

}  // namespace finesweep::worker
