#include "worker/kernels/spare_rows.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

namespace finesweep::worker {
namespace {

constexpr std::int64_t kLarge = 4096, kMultiple = 8;

std::int64_t rounded(std::int64_t rows) {
  return (rows + kMultiple - 1) / kMultiple * kMultiple;
}

bool gets_room(at::IntArrayRef shape, c10::Device device) {
  return device.is_cuda() && shape.size() == 2 && shape[0] >= kLarge && shape[0] % kMultiple != 0;
}

}  // namespace

at::Tensor empty_with_spare_rows(at::IntArrayRef shape, const at::TensorOptions& options) {
  if (!gets_room(shape, options.device())) return at::empty(shape, options);
  return at::zeros({rounded(shape[0]), shape[1]}, options).narrow(0, 0, shape[0]);
}

at::Tensor to_with_spare_rows(const at::Tensor& x, const at::TensorOptions& options) {
  const bool same = x.scalar_type() == c10::typeMetaToScalarType(options.dtype()) && x.device() == options.device();
  if (same || !gets_room(x.sizes(), options.device())) return x.to(options);
  const at::Tensor copy = empty_with_spare_rows(x.sizes(), options);
  copy.copy_(x);
  return copy;
}

at::Tensor with_spare_rows(const at::Tensor& x) {
  if (!gets_room(x.sizes(), x.device()) || !x.is_contiguous() || x.storage_offset() != 0) return {};
  const std::int64_t rows = rounded(x.size(0)), columns = x.size(1);
  if (x.storage().nbytes() != static_cast<std::size_t>(rows * columns * x.element_size())) return {};
  return x.as_strided({rows, columns}, {columns, 1});
}

}  // namespace finesweep::worker
