#pragma once

#include <ATen/core/Tensor.h>

namespace finesweep::worker {

/// Copies `from`, in the host's memory, into `to`, wherever that is. On a GPU nobody waits: another process may
/// have it for the moment. `from` may go or change as soon as this returns.
void upload(const at::Tensor& from, const at::Tensor& to);

}  // namespace finesweep::worker
