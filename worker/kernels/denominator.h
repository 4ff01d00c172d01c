#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <utility>

namespace finesweep::worker {

/// What a sum of losses is divided by: a number, or one that stands on the device, so that a captured step can be
/// replayed with another. In a pack each job has its own.
class Denominator {
 public:
  Denominator(double number) : number_(number) {}  // NOLINT: a number is one
  /// fp64 [1], of a pack [jobs].
  explicit Denominator(at::Tensor on_device) : on_device_(std::move(on_device)) {}
  /// Of a pack: that of one job. On a CPU a number.
  Denominator of_job(std::size_t job) const;

  bool is_number() const { return !on_device_.defined(); }
  /// Where it is one.
  double number() const { return number_; }
  const at::Tensor& on_device() const { return on_device_; }
  /// x / it, in the type of x.
  at::Tensor divide(const at::Tensor& x) const;

 private:
  double number_ = 1;
  at::Tensor on_device_;
};

}  // namespace finesweep::worker
