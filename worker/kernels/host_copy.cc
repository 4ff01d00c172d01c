#include "worker/kernels/host_copy.h"

#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace finesweep::worker {

HostCopy::HostCopy(const at::Tensor& from) : values_(from) {
  if (from.is_cpu()) return;
  const c10::Device device = from.device();
  values_ = at::empty(from.sizes(), at::TensorOptions(from.scalar_type()).pinned_memory(true));
  values_.copy_(from, /*non_blocking=*/true);
  arrived_ = std::make_shared<c10::Event>(device.type());
  arrived_->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
}

const at::Tensor& HostCopy::get() const {
  if (arrived_) arrived_->synchronize();
  return values_;
}

}  // namespace finesweep::worker
