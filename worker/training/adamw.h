#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/kernels/parameter.h"

namespace finesweep::worker {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0;
  /// 0: no clipping.
  double max_grad_norm = 1;
};

/// AdamW over many parameters in one pass over memory. Parameters must outlive it.
class AdamW {
 public:
  AdamW(std::vector<Parameter*> parameters, const AdamWOptions& options);

  struct Moments {
    at::Tensor first, second;  // fp32, as the parameter
  };

  /// The L2 norm of all gradients together. The sum has a fixed order, whatever the number of threads.
  double grad_norm() const;

  /// One update with gradients × `unscale`, clipped: × min(1, max_grad_norm / (grad_norm + 1e-6)), where
  /// `grad_norm` is that of the unscaled gradients. `step` counts from 1.
  void update(double learning_rate, std::int64_t step, double grad_norm, double unscale = 1);

  /// As the parameters.
  std::vector<Moments>& moments() { return moments_; }
  const std::vector<Moments>& moments() const { return moments_; }
  /// To be called after the moments were overwritten.
  void moments_changed();

 private:
  std::vector<Parameter*> parameters_;
  AdamWOptions options_;
  std::vector<Moments> moments_;
  /// For a table: rows that ever had a gradient. The others have zero moments and only decay.
  std::vector<std::vector<bool>> active_rows_;
};

}  // namespace finesweep::worker
