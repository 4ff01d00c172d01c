#include "worker/kernels/lora_block.h"

#include <ATen/ops/empty.h>

namespace finesweep::worker {

at::Tensor empty_with_room(std::int64_t rows, std::int64_t columns, std::int64_t room,
                           const at::TensorOptions& options) {
  const at::Tensor whole = at::empty({rows, columns + room}, options);
  return room == 0 ? whole : whole.narrow(1, 0, columns);
}

at::Tensor with_room(const at::Tensor& x, std::int64_t room) {
  if (x.dim() != 2 || room == 0 || x.storage_offset() != 0 || x.stride(1) != 1) return {};
  const std::int64_t rows = x.size(0), width = x.size(1) + room;
  const auto bytes = static_cast<std::size_t>(rows * width * x.element_size());
  if (x.stride(0) != width || x.storage().nbytes() != bytes) return {};
  return x.as_strided({rows, width}, {width, 1});
}

}  // namespace finesweep::worker
