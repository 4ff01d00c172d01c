#include "worker/kernels/denominator.h"

#include <ATen/TensorOperators.h>

namespace finesweep::worker {

at::Tensor Denominator::divide(const at::Tensor& x) const {
  if (is_number()) return x / number_;
  return x * on_device_.reciprocal().to(x.scalar_type()).squeeze(0);
}

}  // namespace finesweep::worker
