#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace finesweep::worker {

/// Copies `from`, in the host's memory, into `to`, wherever that is. On a GPU nobody waits: another process may
/// have it for the moment. `from` may go or change as soon as this returns.
void upload(const at::Tensor& from, const at::Tensor& to);

/// Plain data on a GPU: bytes. Nobody waits here either.
template <typename T>
at::Tensor uploaded(const std::vector<T>& values, c10::Device device) {
  const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(T));
  const at::Tensor copy = at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(true));
  std::memcpy(copy.mutable_data_ptr(), values.data(), static_cast<std::size_t>(bytes));
  return copy.to(device, /*non_blocking=*/true);
}

}  // namespace finesweep::worker
