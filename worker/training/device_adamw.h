#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/kernels/parameter.h"
#include "worker/training/adamw.h"

namespace finesweep::worker {

/// What a step on a GPU leaves, once the host has it.
struct DeviceStepResult {
  double loss = 0, grad_norm = 0;
  /// Also false after a step that was not.
  bool finite = true;
};

/// AdamW (as training/adamw.h has it) of parameters on one GPU, with clipping, in three launches and without the
/// host: what it decides by, the norm and whether it is a finite number, never leaves the device. After a loss or
/// norm that is none, no step updates anything until `resume`.
class DeviceAdamW {
 public:
  /// Whether the kernels can do it.
  static bool available(const std::vector<Parameter*>& parameters);

  /// Parameters and moments must outlive it, and their tensors stay where they are.
  DeviceAdamW(const std::vector<Parameter*>& parameters, const std::vector<AdamW::Moments>& moments,
              const AdamWOptions& options);

  /// fp64 [1], on the device: passes add their losses to it.
  const at::Tensor& loss() const { return loss_; }
  /// One update from the gradients, which become 0, as the loss does. Gradients and loss are those of `unscale`⁻¹
  /// times the loss.
  void update(double learning_rate, std::int64_t step, double unscale);
  void resume();

  /// Copies the result of the last update into pinned memory, of result_bytes(); read it when the copy is done.
  void copy_result(const at::Tensor& pinned) const;
  static std::int64_t result_bytes();
  static DeviceStepResult read_result(const at::Tensor& pinned);

 private:
  AdamWOptions options_;
  std::int64_t chunk_count_ = 0;
  at::Tensor tensors_, chunks_, numbers_, loss_, partial_, result_;
};

}  // namespace finesweep::worker
