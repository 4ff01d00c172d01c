#include "worker/kernels/denominator.h"

#include <ATen/TensorOperators.h>

namespace finesweep::worker {

Denominator Denominator::of_job(std::size_t job) const {
  if (is_number()) return *this;
  if (on_device_.is_cpu()) return on_device_.const_data_ptr<double>()[job];
  return Denominator(on_device_.narrow(0, static_cast<std::int64_t>(job), 1));
}

at::Tensor Denominator::divide(const at::Tensor& x) const {
  if (is_number()) return x / number_;
  return x * on_device_.reciprocal().to(x.scalar_type()).squeeze(0);
}

}  // namespace finesweep::worker
