#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <memory>

namespace finesweep::worker {

/// A tensor's values on their way to the host, behind what the device was given before. The tensor may be written
/// again as soon as this is made, if that is given to the device in the same order; one on the CPU stays as it is.
class HostCopy {
 public:
  explicit HostCopy(const at::Tensor& from);
  /// Waits for them. On the CPU.
  const at::Tensor& get() const;

 private:
  at::Tensor values_;
  std::shared_ptr<c10::Event> arrived_;  // null: they are there
};

}  // namespace finesweep::worker
